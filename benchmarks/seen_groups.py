"""What it flatters to have seen the test's parts: one test, trained with and without their crops.

    make run DATA=path/to/crops OUTPUT=out TO=01_explore_data    # deepfake_faces, or several parts
    python -m benchmarks.seen_groups out --data path/to/crops --crops 8000

Half of the sources of the test's groups are tested. "apart" trains on crops of other groups alone;
"seen" swaps some of these for the other half of the sources of the test's groups. Both train as
many crops for as many steps from the same start, choose their epoch on the same val, and score the
same crops. A split by source is "seen". Logits are averaged over the seeds; the difference is that
of AUC by crop, on the same resamples of sources.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from utils.data.crops import crop_paths
from utils.model.network import build_model
from utils.model.scoring import Scorer
from utils.run import machine
from utils.run.artifacts import read_table, write_table
from utils.stats.metrics import paired_bootstrap, y_true_of
from utils.training.augmentation import POLICIES
from utils.training.fitting import fit, open_crops
from utils.training.recipes import RECIPES, make_config


def draw_arms(index: pd.DataFrame, crops: int, seed: int) -> dict[str, pd.DataFrame]:
    """Give "apart" and "seen" an index each: same val, same test, as many crops of train."""
    rng = np.random.default_rng(seed)
    test = index[index["split"] == "test"]
    sources = rng.permutation(np.sort(test["source"].unique()))
    tested = test["source"].isin(sources[::2])
    swapped = test[~tested].assign(split="train")
    train = index[index["split"] == "train"]
    train = train.sample(min(crops, len(train)), random_state=seed)
    gone, come = [], []
    for label, offered in swapped.groupby("label"):  # as many of either class give way as come in
        ours = train[train["label"] == label]
        size = min(len(offered), len(ours))
        gone.append(ours.sample(size, random_state=seed))
        come.append(offered.sample(size, random_state=seed))
    fixed = [index[index["split"] == "val"], test[tested]]
    seen = train.drop(index=pd.concat(gone).index)
    return {"apart": pd.concat([train, *fixed]), "seen": pd.concat([seen, *come, *fixed])}


def train_and_score(index: pd.DataFrame, args: argparse.Namespace, seed: int) -> np.ndarray:
    """Logits of the test crops, in the order of the index."""
    device = machine.get_device()
    config = make_config("strong", epochs=args.epochs, batch_size=args.batch_size, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        write_table(index, folder, "index.csv")
        _, train, val = open_crops(folder, args.data, image_size=args.image_size)
        machine.seed_everything(seed)
        model = build_model(
            args.model, image_size=args.image_size, pretrained=args.pretrained, weights=args.weights
        )
        trained, _ = fit(
            model, train, val, config, policy=POLICIES["reference"], output=folder, device=device,
            progress=sys.stderr.isatty(),
        )  # fmt: skip
    paths = crop_paths(index[index["split"] == "test"], args.data)
    return Scorer(trained, device=device).score_paths(paths)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.seen_groups")
    parser.add_argument("output", type=Path, help="folder with an index.csv that is split by group")
    parser.add_argument("--data", default="", help="the crops, as DATA of 01")
    parser.add_argument("--model", default="tf_efficientnetv2_s.in1k")
    parser.add_argument("--pretrained", action="store_true")
    parser.add_argument("--weights", default="", help="as WEIGHTS of 03")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=RECIPES["strong"].batch_size)
    parser.add_argument("--crops", type=int, default=20_000, help="that are trained on")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    index = read_table(args.output, "index.csv")
    if "group" not in index:
        raise ValueError(f"{args.output}/index.csv knows no groups")
    arms = draw_arms(index, args.crops, seed=0)
    test = arms["apart"][arms["apart"]["split"] == "test"]
    y_true, logits = y_true_of(test), dict.fromkeys(arms, np.zeros(len(test)))
    for seed in range(args.seeds):
        for name, arm in arms.items():
            found = train_and_score(arm, args, seed)
            logits[name] = logits[name] + found / args.seeds
            print(f"{name}, seed {seed}: AUC {roc_auc_score(y_true, found):.3f}", flush=True)
    scores = {name: torch.sigmoid(torch.tensor(mean)).numpy() for name, mean in logits.items()}
    gain = paired_bootstrap(
        y_true, scores["seen"], scores["apart"], groups=test["source"], threshold=0.5
    )["roc_auc"]
    aucs = ", ".join(f"{name} {roc_auc_score(y_true, s):.3f}" for name, s in scores.items())
    print(f"{len(test):,} test crops of {test['group'].nunique()} groups: AUC {aucs}")
    print("having seen them flatters by {value:+.3f} ({low:+.3f} to {high:+.3f})".format(**gain))
    return 0


if __name__ == "__main__":
    sys.exit(main())
