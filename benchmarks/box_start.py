"""What it is worth to start from the detector in the box instead of ImageNet's weights.

    python -m benchmarks.box_start OUTPUT --data deepfake_faces --box models/NAME --weights FILE

OUTPUT holds an index.csv with the box's own split. A thousand crops of its val parts, of which none
was trained on, are learned from for so many epochs; the other sources of these parts are scored.
Each seed draws other crops and is run from both starts, with the same steps.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from sklearn.metrics import roc_auc_score

from benchmarks.compare_recipes import draw_sources
from utils.data.crops import crop_paths
from utils.model.network import build_model
from utils.model.scoring import Scorer
from utils.run import machine
from utils.run.artifacts import read_any_json, read_table, write_table
from utils.stats.metrics import y_true_of
from utils.training.augmentation import POLICIES
from utils.training.fitting import fit, open_crops
from utils.training.recipes import make_config


def main() -> int:
    """Train from both starts, seed by seed, and print the AUC of each and their difference."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.box_start")
    parser.add_argument(
        "output", type=Path, help="folder with index.csv, made with the box's split"
    )
    parser.add_argument("--data", default="", help="the crops, as DATA of 01")
    parser.add_argument("--box", type=Path, required=True, help="model folder")
    parser.add_argument("--weights", required=True, help="ImageNet's, as WEIGHTS of 03")
    parser.add_argument("--crops", type=int, default=1000)
    parser.add_argument("--scored", type=int, default=2500)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    config = read_any_json(args.box / "config.json")
    name, side = config["architecture"], config["pretrained_cfg"]["input_size"][-1]
    index = read_table(args.output, "index.csv")
    pool, device, found = index[index["split"] == "val"], machine.get_device(), []
    for seed in range(args.seeds):
        train = draw_sources(pool, args.crops, seed)
        rest = pool[~pool["source"].isin(train["source"])]
        val = draw_sources(rest, args.crops // 2, seed)
        scored = draw_sources(rest[~rest["source"].isin(val["source"])], args.scored, seed)
        recipe = make_config("strong", epochs=args.epochs, seed=seed)
        row = {}
        for start in (str(args.box), args.weights):
            with tempfile.TemporaryDirectory() as folder:
                parts = [train.assign(split="train"), val.assign(split="val")]
                write_table(pd.concat(parts), folder, "index.csv")
                _, *sets = open_crops(folder, args.data, image_size=side)
                machine.seed_everything(seed)
                model = build_model(name, image_size=side, weights=start)
                learned, _ = fit(
                    model, sets[0], sets[1], recipe, policy=POLICIES["robust"],
                    output=Path(folder), device=device, progress=False,
                )  # fmt: skip
                logits = Scorer(learned, device=device).score_paths(crop_paths(scored, args.data))
            row[Path(start).name] = roc_auc_score(y_true_of(scored), logits)
        found.append(row)
        print(f"seed {seed}: " + ", ".join(f"{k} {v:.3f}" for k, v in row.items()), flush=True)
    table = pd.DataFrame(found)
    gain = (table.iloc[:, 0] - table.iloc[:, 1]).to_numpy()
    print(table.median().round(3).to_string())
    print(f"gain {np.median(gain):+.3f} ({gain.min():+.3f} to {gain.max():+.3f})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
