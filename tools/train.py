"""What 03_train does, without the notebook.

On several machines, on each of them:

    accelerate launch --num_machines 2 --machine_rank 0 --main_process_ip 10.0.0.1 \\
        --main_process_port 29500 --num_processes 8 -m tools.train \\
        --data path/to/crops --output path/to/results --set "03_train.RECIPE=strong"
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from accelerate import PartialState

from tools.parameters import checked_parameters, config_of, notebook_parameters, parse_overrides
from utils.model.network import build_model
from utils.run.artifacts import data_folder
from utils.run.machine import get_device, output_folder, printable, seed_everything
from utils.training.fitting import fit, open_crops, read_policy, save_run
from utils.training.loop import is_first

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "03_train.ipynb"


def train_from_parameters(p: Mapping[str, Any]) -> None:
    """Do what 03_train does, without its pictures.

    Args:
        p: its parameters by name, all of them.
    """
    output = output_folder(p["OUTPUT"])
    data = data_folder(p["DATA"], output)
    device = get_device(p["DEVICE"])
    # One process of each machine decodes; the others find the store when it is whole.
    with PartialState(cpu=device.type == "cpu").local_main_process_first():
        policy, _ = read_policy(output)
        index, train_set, val_set = open_crops(
            output,
            data,
            image_size=p["IMAGE_SIZE"],
            store=p["STORE"],
            frames_stored=p["FRAMES_STORED"],
            frames_per_video=p["FRAMES_PER_VIDEO"],
            shuffle_labels=p["SHUFFLE_LABELS"],
            seed=p["SEED"],
        )
    config = config_of(p)
    seed_everything(p["SEED"])
    model = build_model(
        p["MODEL_NAME"],
        image_size=p["IMAGE_SIZE"],
        pretrained=p["PRETRAINED"],
        weights=p["WEIGHTS"],
    )
    trained, history = fit(
        model,
        train_set,
        val_set,
        config,
        policy=policy,
        output=output,
        device=device,
        resume=p["RESUME"],
        num_workers=p["NUM_WORKERS"],
        processes=p["PROCESSES"],
        checkpoint_minutes=p["CHECKPOINT_MINUTES"],
        time_budget_min=p["TIME_BUDGET_MIN"],
        progress=None,
    )
    if is_first():
        save_run(
            trained,
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
        print(f"model      {output / 'model'}")


def main(argv: list[str] | None = None) -> int:
    """Train from the command line; returns 0, or 2 where it was refused."""
    parser = argparse.ArgumentParser(prog="python -m tools.train", description=__doc__)
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
        print("error:", printable(str(error), keep="\n"), file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
