"""From an index to a model folder: what 03_train does step by step, also without a notebook.

On several machines, on each of them:

    accelerate launch --num_machines 2 --machine_rank 0 --main_process_ip 10.0.0.1 \\
        --main_process_port 29500 --num_processes 8 -m utils.training \\
        --data path/to/crops --output path/to/results --set "03_train.RECIPE=strong"
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from accelerate import PartialState
from timm.data import resolve_model_data_config

from utils import artifacts, engine, models, runtime, splits, transforms
from utils.augment import OVERSAMPLE
from utils.checkpoints import find_checkpoint
from utils.datasets import crop_paths
from utils.faces import CropRecipe, read_recipe
from utils.feeding import CropSet
from utils.loading import default_workers, spread_frames
from utils.parameters import checked_parameters, notebook_parameters, parse_overrides
from utils.recipes import TrainConfig, make_config
from utils.sampling import CropTable
from utils.store import open_store, store_folder, store_side

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "03_train.ipynb"


def read_training_index(
    output: str | Path,
    *,
    frames_stored: int = 0,
    frames_per_video: int = 0,
    shuffle_labels: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """The train and val rows of index.csv, checked for leaks; the test split stays closed.

    Args:
        output: OUTPUT, or where an earlier notebook's output is attached.
        frames_stored: evenly spaced frames of each train video to draw from; 0: all.
        frames_per_video: evenly spaced frames of each val video; 0: all.
        shuffle_labels: for the control: labels that say nothing.
        seed: of that shuffling.
    Raises:
        ValueError: the split leaks, or a split is empty.
    """
    index = artifacts.read_table(artifacts.find_artifact("index.csv", output), "index.csv")
    splits.check_splits(index)
    if shuffle_labels:
        index["label"] = splits.shuffle_labels(index, seed=seed)
    kept = {"train": frames_stored, "val": frames_per_video}
    return pd.concat(
        [spread_frames(index[index["split"] == split], frames) for split, frames in kept.items()]
    )


def read_policy(output: str | Path) -> transforms.Policy:
    """The policy of augment.json."""
    folder = artifacts.find_artifact("augment.json", output)
    return transforms.policy_from_dict(artifacts.read_json(folder, "augment.json"))


def decode_crops(
    index: pd.DataFrame,
    data: str | Path,
    folder: str | Path,
    *,
    image_size: int,
    progress: bool = True,
) -> tuple[CropSet, CropSet]:
    """Decode the crops of train and val into their stores, or open what was decoded before.

    Args:
        index: of `read_training_index`.
        data: DATA, as for `crop_paths`.
        folder: of `store_folder`.
        image_size: side of the network's input in pixels.
    Returns:
        The train set and the val set.
    Raises:
        ValueError: a split is empty, or the crops were cut in different ways.
    """
    crop_recipe(index, data)  # refused now, and not when the model is saved
    sets = []
    largest = {"train": round(OVERSAMPLE * image_size), "val": image_size}
    for split in ("train", "val"):
        rows = index[index["split"] == split]
        if not len(rows):
            raise ValueError(f"index.csv holds no crop of the {split} split; run 01_explore_data")
        paths = crop_paths(rows, data)
        side = store_side(rows, largest[split])
        store = open_store(paths, side, folder, split, progress=progress)
        sets.append(CropSet(store, CropTable.from_index(rows), paths))
    return sets[0], sets[1]


def crop_recipe(index: pd.DataFrame, data: str | Path) -> CropRecipe:
    """How the crops of an index were cut. Raises as `read_recipe` and `crop_paths` do."""
    # `<data set>/<video>/<frame>.png`: the record lies at the top.
    examples = crop_paths(index.drop_duplicates("dataset"), data)
    return read_recipe(sorted({Path(path).parents[1] for path in examples}))


def save_run(
    model: torch.nn.Module,
    history: pd.DataFrame,
    index: pd.DataFrame,
    data: str | Path,
    output: str | Path,
    *,
    config: TrainConfig,
    policy: transforms.Policy,
    device: torch.device,
    **facts: Any,
) -> dict[str, Any]:
    """Write `model/` with the card of the run, and history.csv.

    Args:
        model: with the weights that are kept.
        history: of `fit`.
        index: of `read_training_index`.
        data: DATA, as for `crop_paths`: the recipe of its crops goes into the model folder.
        output: OUTPUT.
        config, policy: what it was trained with.
        device: where.
        facts: more to tell, such as `pretrained` or `recipe`.
    Returns:
        All facts of the run, as the card shows them.
    """
    folder = artifacts.find_artifact("data_audit.json", output)
    audit = artifacts.read_json(folder, "data_audit.json")
    videos = index.drop_duplicates(["dataset", "video"])
    parts = {split: (index[index["split"] == split], videos[videos["split"] == split])
             for split in ("train", "val")}  # fmt: skip
    facts |= {
        "ingredients": asdict(config),
        "augmentation": transforms.policy_to_dict(policy),
        "image_size": resolve_model_data_config(model)["input_size"][-1],
        "epochs": len(history),
        "best_epoch": engine.best_epoch(history),
        "crop_recipe": crop_recipe(index, data).to_dict(),
        "prior": float((parts["train"][1]["label"] == "FAKE").mean()),
        "data_fingerprint": audit.get("fingerprint", ""),
        "splits": {
            split: f"{len(crops):,} crops of {len(rows):,} videos, {rows['source'].nunique():,} "
            f"sources, {(rows['label'] == 'FAKE').mean():.0%} FAKE"
            for split, (crops, rows) in parts.items()
        },
        "seed": config.seed,
        "duration": engine.duration(history["elapsed_s"].iloc[-1]),
        "images_per_s": round(float(history["images_per_s"].median()), 1),
        "device": runtime.device_name(device),
        "versions": runtime.versions(),
    }
    models.save_model(model, Path(output) / "model", extra=facts, card=models.model_card(facts))
    artifacts.write_table(history, output, "history.csv")
    return facts


def train_from_parameters(p: Mapping[str, Any]) -> None:
    """Do what 03_train does, without its pictures.

    Args:
        p: its parameters by name, all of them.
    """
    output = runtime.output_folder(p["OUTPUT"])
    device = runtime.get_device(p["DEVICE"])
    index = read_training_index(
        output,
        frames_stored=p["FRAMES_STORED"],
        frames_per_video=p["FRAMES_PER_VIDEO"],
        shuffle_labels=p["SHUFFLE_LABELS"],
        seed=p["SEED"],
    )
    policy = read_policy(output)
    data = artifacts.data_folder(p["DATA"], output)
    runtime.seed_everything(p["SEED"])
    model = models.build_model(
        p["MODEL_NAME"],
        image_size=p["IMAGE_SIZE"],
        pretrained=p["PRETRAINED"],
        weights=p["WEIGHTS"],
    )
    config = make_config(p["RECIPE"], **{f.name: p[f.name.upper()] for f in fields(TrainConfig)})
    # One process of each machine decodes; the others find the store when it is whole.
    with PartialState(cpu=device.type == "cpu").local_main_process_first():
        train_set, val_set = decode_crops(
            index, data, store_folder(output, p["STORE"]), image_size=p["IMAGE_SIZE"]
        )
    first = int(os.environ.get("RANK", "0")) == 0
    history = engine.fit(
        model,
        train_set,
        val_set,
        config,
        policy=policy,
        folder=output / "checkpoint",
        device=device,
        resume=find_checkpoint(output) if p["RESUME"] else None,
        num_workers=default_workers(device) if p["NUM_WORKERS"] < 0 else p["NUM_WORKERS"],
        processes=p["PROCESSES"],
        checkpoint_minutes=p["CHECKPOINT_MINUTES"],
        time_budget_min=runtime.time_budget(p["TIME_BUDGET_MIN"]),
        on_epoch=lambda past: print(engine.epoch_line(past.iloc[-1], config.epochs), flush=True),
        progress=first and sys.stderr.isatty(),
    )
    if first:
        save_run(
            model,
            history,
            index,
            data,
            output,
            config=config,
            policy=policy,
            device=device,
            name=p["MODEL_NAME"],
            recipe=p["RECIPE"],
            pretrained=p["PRETRAINED"] or bool(p["WEIGHTS"]),
            shuffled_labels=p["SHUFFLE_LABELS"],
        )


def main(argv: list[str] | None = None) -> int:
    """Train from the command line; returns 0, or 2 where it was refused."""
    parser = argparse.ArgumentParser(prog="python -m utils.training", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--data", default="", help="folder with face crops")
    parser.add_argument("--output", default="", help="folder with index.csv and augment.json")
    parser.add_argument("--set", dest="overrides", default="", help='as "03_train.EPOCHS=2"')
    args = parser.parse_args(argv)
    try:
        overrides = parse_overrides(args.overrides)
        if foreign := set(overrides) - {NOTEBOOK.stem}:
            raise ValueError(f"--set names {foreign.pop()}; only {NOTEBOOK.stem} is run here")
        changes = checked_parameters(NOTEBOOK, overrides.get(NOTEBOOK.stem, {}))
        folders = {"DATA": args.data, "OUTPUT": args.output}
        train_from_parameters(notebook_parameters(NOTEBOOK) | changes | folders)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
