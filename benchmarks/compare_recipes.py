"""Strong against reference, and strong without one ingredient at a time, at equal compute.

    make run DATA=path/to/crops OUTPUT=out TO=02_augment
    python -m benchmarks.compare_recipes out --data path/to/crops --epochs 20 --seeds 3

Every variant trains as many steps on as many crops from the same start, keeps its best epoch by val
loss, and scores the test split once. A variant's score of a video is the mean logit over its crops
and over the seeds; two variants are compared on the same resamples of sources. What was measured
goes to OUTPUT/recipes.csv, all scores to OUTPUT/recipes_scores.csv.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from utils import artifacts, runtime
from utils.datasets import crop_paths
from utils.engine import fit, predict
from utils.feeding import CropSet
from utils.loading import default_workers, make_loader, spread_frames
from utils.metrics import paired_bootstrap
from utils.models import build_model, model_transform
from utils.recipes import RECIPES, TrainConfig
from utils.sampling import BatchPlan
from utils.training import decode_crops, read_training_index
from utils.transforms import POLICIES, Policy

Variant = tuple[TrainConfig, Policy]
REFERENCE: Variant = (RECIPES["reference"], POLICIES["reference"])
STRONG: Variant = (RECIPES["strong"], POLICIES["strong"])


def without(name: str, *, policy: dict | None = None, **recipe) -> tuple[str, Variant]:
    return f"strong, no {name}", (replace(STRONG[0], **recipe), replace(STRONG[1], **policy or {}))


ABLATIONS = dict(
    [
        without("AdamW", optimizer="adam", weight_decay=0.0),
        without("cosine", schedule="constant", warm_up=0.0),
        without("EMA", ema=0.0),
        without("label smoothing", label_smoothing=0.0),
        without("clipping", clip_norm=0.0),
        without("pairs", pairs=False),
        without("pairs, no balance", pairs=False, balanced=False),
        without("colour", policy={"colour": 0.0}),
        without("blur, noise, scale", policy={"blur": 0.0, "noise": 0.0, "downscale": 0.0}),
        without("JPEG", policy={"jpeg": 0.0}),
        without("cutout", policy={"cutout": 0.0}),
        without("self-blending", policy={"self_blend": 0.0}),
    ]
)


def read_sets(args: argparse.Namespace) -> tuple[CropSet, CropSet, pd.DataFrame, list[str]]:
    """Train and val crops, and the rows and paths of the test split."""
    index = read_training_index(args.output, frames_stored=64, frames_per_video=16)
    sets = decode_crops(index, args.data, args.output / "store", image_size=args.image_size)
    index = artifacts.read_table(args.output, "index.csv")
    rows = spread_frames(index[index["split"] == "test"], 16)
    return *sets, rows, crop_paths(rows, args.data)


def epochs_of(variant: Variant, train: CropSet, crops: int) -> int:
    """Epochs that show about as many crops; pairs and balance make short ones."""
    config = variant[0]
    plan = BatchPlan(
        train.table, batch_size=config.batch_size, frames_per_video=config.frames_per_video,
        balanced=bool(config.balanced), pairs=bool(config.pairs),
    )  # fmt: skip
    return max(1, round(crops / sum(plan.sizes)))


def score(
    variant: Variant, seed: int, sets: tuple[CropSet, CropSet], paths: list[str], args
) -> tuple[np.ndarray, int]:
    """The logits of the test crops after training, and the epochs that it took."""
    train, val = sets
    config, policy = variant
    epochs = epochs_of(variant, train, args.epochs * epoch_size(train))
    config = replace(config, epochs=epochs, batch_size=args.batch_size, seed=seed)
    runtime.seed_everything(seed)
    model = build_model(args.model, image_size=args.image_size, pretrained=args.pretrained)
    device = runtime.get_device()
    with tempfile.TemporaryDirectory() as folder:
        fit(
            model, train, val, config, policy=policy, folder=folder, device=device,
            num_workers=args.workers, progress=sys.stderr.isatty(),
        )  # fmt: skip
    loader = make_loader(paths, [0] * len(paths), model_transform(model), batch_size=128)
    return predict(model, loader, device=device, progress=False), epochs


def epoch_size(train: CropSet) -> int:
    """Crops of an epoch of the reference recipe."""
    counts = np.bincount(train.table.video)
    return int(np.minimum(counts, REFERENCE[0].frames_per_video).sum())


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare_recipes")
    parser.add_argument("output", type=Path, help="folder with the index.csv of 01")
    parser.add_argument("--data", default="", help="the crops, as DATA of 01")
    parser.add_argument("--model", default="tf_efficientnetv2_s.in1k")
    parser.add_argument("--pretrained", action="store_true")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--batch-size", type=int, default=35)
    parser.add_argument("--epochs", type=float, default=20, help="of the reference recipe")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=default_workers(runtime.get_device()))
    parser.add_argument("--ablate", action="store_true", help="also strong without each ingredient")
    parser.add_argument("--only", nargs="*", help="some variants, by name")
    args = parser.parse_args()
    variants = {"strong": STRONG, "reference": REFERENCE} | (ABLATIONS if args.ablate else {})
    if args.only:
        variants = {"strong": STRONG} | {name: variants[name] for name in args.only}
    train, val, rows, paths = read_sets(args)
    scores = rows[["dataset", "video", "source", "label"]].copy()
    table = []
    for name, variant in variants.items():
        began, aucs = time.perf_counter(), []
        columns = [f"{name}, seed {seed}" for seed in range(args.seeds)]
        for seed, column in enumerate(columns):
            scores[column], epochs = score(variant, seed, (train, val), paths, args)
            videos = by_video(scores, [column])
            aucs.append(roc_auc_score(videos["y_true"], videos["logit"]))
            print(f"{column}: test AUC {aucs[-1]:.3f} by video", flush=True)
        row = {"variant": name, "epochs": epochs, "auc": by_seeds(aucs)}
        if name != "strong":
            ours, theirs = (
                by_video(scores, [f"{n}, seed {s}" for s in range(args.seeds)])
                for n in ("strong", name)
            )
            gain = paired_bootstrap(
                ours["y_true"], sigmoid(ours["logit"]), sigmoid(theirs["logit"]),
                groups=ours["source"], threshold=0.5,
            )["roc_auc"]  # fmt: skip
            row["strong is better by"] = "{value:+.3f} ({low:+.3f} to {high:+.3f})".format(**gain)
        row["minutes"] = round((time.perf_counter() - began) / 60, 1)
        table.append(row)
        pd.DataFrame(table).to_csv(args.output / "recipes.csv", index=False)
        scores.to_csv(args.output / "recipes_scores.csv", index=False)
    print(pd.DataFrame(table).to_string(index=False))
    return 0


def by_video(scores: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """A row a video: `y_true`, `source` and the mean `logit` over its crops and `columns`."""
    logit = scores[columns].mean(axis=1)
    table = scores.assign(logit=logit, y_true=(scores["label"] == "FAKE").astype(int))
    groups = table.groupby(["dataset", "video"], as_index=False)
    return groups.agg(
        y_true=("y_true", "first"), source=("source", "first"), logit=("logit", "mean")
    )


def by_seeds(aucs: list[float]) -> str:
    """Median and range."""
    return f"{np.median(aucs):.3f} ({min(aucs):.3f} to {max(aucs):.3f})"


def sigmoid(logits: pd.Series) -> np.ndarray:
    return torch.sigmoid(torch.tensor(logits.to_numpy())).numpy()


if __name__ == "__main__":
    sys.exit(main())
