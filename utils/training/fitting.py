"""From an index to a model folder: what 03_train does step by step."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from timm.data import resolve_model_data_config
from tqdm.auto import tqdm

from utils.data.crops import crop_paths, spread_frames
from utils.data.splits import check_splits, control_labels
from utils.faces.detection import CropRecipe, read_recipe
from utils.model.network import model_card, save_model
from utils.run.artifacts import (
    ARTIFACTS,
    bring,
    find_artifact,
    read_json,
    read_table,
    write_json,
    write_table,
)
from utils.run.machine import device_name, versions
from utils.training.augmentation import (
    OVERSAMPLE,
    Policy,
    make_policy,
    policy_from_dict,
    policy_to_dict,
)
from utils.training.batches import CropSet, CropTable
from utils.training.checkpoints import load_checkpoint
from utils.training.loop import Job, is_launched, process_count, run_processes, train
from utils.training.recipes import TrainConfig
from utils.training.store import open_store, store_side


def ensure_policy(output: str | Path) -> str:
    """See to it that OUTPUT holds augment.json: there, brought along, or the reference policy.

    Returns:
        One sentence for the notebook.
    """
    found = bring(["augment.json"], output)
    if found:
        return found
    write_json(policy_to_dict(make_policy("reference")), output, "augment.json")
    return "No augment.json here or attached: the policy is `reference`, 02_augment's default."


def fit(
    model: torch.nn.Module,
    train_set: CropSet,
    val_set: CropSet,
    config: TrainConfig,
    *,
    policy: Policy,
    folder: str | Path,
    device: torch.device,
    resume: str | Path | None = None,
    num_workers: int = 0,
    processes: int = 0,
    checkpoint_minutes: float = 10,
    time_budget_min: float = 0,
    on_epoch: Callable[[pd.DataFrame], Any] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train, and leave the model with the weights of its best epoch, that of lowest val loss.

    The full state is written to `folder/last.pt` after every epoch and every so many minutes; the
    one before it stays as `folder/previous.pt`. A run that goes on from it gives the very weights
    that the uninterrupted one would have given (to the bit on one CPU; a GPU's kernels add in an
    order of their own).

    Where several GPUs are visible, each gets a process and a share of every batch. Under
    `accelerate launch` this process is one of several already: all of them call `fit`, the first
    one writes, and only there the model and the history are what they are here.

    Args:
        model: of `build_model`; two logits, REAL and FAKE.
        train_set, val_set: decoded crops.
        config: the recipe.
        policy: the augmentation.
        folder: of the checkpoint.
        device: of `get_device`; "cuda" without a number means every visible GPU.
        resume: folder of a checkpoint to go on from, if it holds one.
        num_workers: loader processes of each training process; 0 loads in that one.
        processes: training processes on this machine; 0: as many as GPUs.
        checkpoint_minutes: longest time between two states on disk.
        time_budget_min: minutes that this call may take; it then stops cleanly, wherever it is. 0:
            no limit.
        on_epoch: called with history.csv so far after every epoch.
        progress: show a bar over the steps.
    Returns:
        history.csv: one row an epoch, those of earlier sessions included.
    Raises:
        ValueError: no crops, settings that do not fit, or a checkpoint of other settings.
        FloatingPointError: the loss is not finite; names epoch, step and files.
        MemoryError: the batch does not fit; proposes parts of it.
        OSError: the checkpoint cannot be written.
        TimeoutError: the time ended before the first epoch did; the state is kept.
    """
    if not len(train_set) or not len(val_set):
        raise ValueError("the train and the val split need at least one batch of crops each")
    job = Job(
        model=model,
        train=train_set,
        val=val_set,
        config=config,
        policy=policy,
        folder=Path(folder),
        device=device,
        resume=Path(resume) if resume else None,
        num_workers=num_workers,
        checkpoint_minutes=checkpoint_minutes,
        time_budget_min=time_budget_min,
    )
    show = _Display(on_epoch, progress=progress)
    processes = processes or process_count(device)
    if processes > 1 and not is_launched():
        run_processes(train, job, processes, show)
    else:
        train(job, show)
    show.close()
    columns = ARTIFACTS["history.csv"].columns
    if int(os.environ.get("RANK", "0")) > 0:
        return pd.DataFrame(columns=columns)
    state = load_checkpoint(folder, job.settings())
    if state is None or not state["history"]:
        raise TimeoutError(
            f"TIME_BUDGET_MIN={time_budget_min:g} ended before the first epoch did. The state is "
            f"in {folder}: run again with RESUME=True, and more time if that is possible"
        )
    model.load_state_dict(state["best"])
    return pd.DataFrame(state["history"], columns=columns)


class _Display:
    """Shows what a run reports: a bar over the steps of an epoch, and its row at the end."""

    def __init__(self, on_epoch: Callable[[pd.DataFrame], Any] | None, *, progress: bool) -> None:
        self.on_epoch, self.progress = on_epoch, progress
        self.bar: tqdm | None = None

    def __call__(self, kind: str, facts: dict[str, Any]) -> None:
        if kind == "epoch":
            self.close()
            if self.on_epoch:
                self.on_epoch(pd.DataFrame(facts["history"]))
            return
        if self.bar is None:
            first = facts["done"] - 1
            self.bar = tqdm(
                desc=facts["task"], total=facts["total"], initial=first, unit="batch",
                leave=False, disable=not self.progress,
            )  # fmt: skip
        self.bar.set_postfix_str(
            f"loss {facts['loss']:.3f}, {facts['images_per_s']:.0f} images/s, "
            f"{facts['waiting']:.0%} waiting, {duration(facts['left_s'])} left in all",
            refresh=False,
        )
        self.bar.update(facts["done"] - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def best_epoch(history: pd.DataFrame) -> int:
    """The epoch (from 1) of lowest val loss, the first one of equals."""
    return int(history.loc[history["val_loss"].idxmin(), "epoch"])


def duration(seconds: float) -> str:
    """A time that a person waits, such as "48 s", "12 min" or "3 h 05 min"."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def epoch_line(row: Mapping[str, float] | pd.Series, epochs: int) -> str:
    """One epoch of `epochs` as one line of text, with the time that the others will take."""
    left = row["elapsed_s"] / row["epoch"] * (epochs - row["epoch"])
    waiting = row["data_wait_s"] / (row["data_wait_s"] + row["compute_s"])
    return (
        f"epoch {row['epoch']:3.0f} · train loss {row['train_loss']:.3f} · "
        f"val loss {row['val_loss']:.3f} · val AUC {row['val_auc']:.3f} · "
        f"{row['images_per_s']:.0f} images/s, {waiting:.0%} waiting · "
        f"{row['peak_memory_mb']:.0f} MB · {duration(row['elapsed_s'])}, {duration(left)} left"
    )


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
    index = read_table(find_artifact("index.csv", output), "index.csv")
    check_splits(index)
    if shuffle_labels:
        index["label"] = control_labels(index, seed=seed)
    kept = {"train": frames_stored, "val": frames_per_video}
    return pd.concat(
        [spread_frames(index[index["split"] == split], frames) for split, frames in kept.items()]
    )


def read_policy(output: str | Path) -> Policy:
    """The policy of augment.json."""
    folder = find_artifact("augment.json", output)
    return policy_from_dict(read_json(folder, "augment.json"))


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
    policy: Policy,
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
    folder = find_artifact("data_audit.json", output)
    audit = read_json(folder, "data_audit.json")
    videos = index.drop_duplicates(["dataset", "video"])
    parts = {split: (index[index["split"] == split], videos[videos["split"] == split])
             for split in ("train", "val")}  # fmt: skip
    facts |= {
        "ingredients": asdict(config),
        "augmentation": policy_to_dict(policy),
        "image_size": resolve_model_data_config(model)["input_size"][-1],
        "epochs": len(history),
        "best_epoch": best_epoch(history),
        "crop_recipe": crop_recipe(index, data).to_dict(),
        "prior": float((parts["train"][1]["label"] == "FAKE").mean()),
        "data_fingerprint": audit.get("fingerprint", ""),
        "splits": {
            split: f"{len(crops):,} crops of {len(rows):,} videos, {rows['source'].nunique():,} "
            f"sources, {(rows['label'] == 'FAKE').mean():.0%} FAKE"
            for split, (crops, rows) in parts.items()
        },
        "seed": config.seed,
        "duration": duration(history["elapsed_s"].iloc[-1]),
        "images_per_s": round(float(history["images_per_s"].median()), 1),
        "device": device_name(device),
        "versions": versions(),
    }
    save_model(model, Path(output) / "model", extra=facts, card=model_card(facts))
    write_table(history, output, "history.csv")
    return facts
