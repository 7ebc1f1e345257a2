"""Strong against reference, and strong with one ingredient less or more, at equal compute.

    make run DATA=path/to/crops OUTPUT=out TO=02_augment
    python -m benchmarks.compare_recipes out --data path/to/crops --epochs 20 --seeds 3

Every variant trains as many steps on as many crops from the same start, keeps its best epoch by val
loss, and scores val and test once, as they are and degraded (DEGRADED). Ingredients are chosen by
what val says; test tells what the choice is worth. A variant's score of a video is the mean logit
over its crops and over the seeds; two variants are compared on the same resamples of sources. What
was measured goes to OUTPUT/recipes.csv, all scores to OUTPUT/recipes_scores.csv.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from timm.data import resolve_model_data_config
from tqdm.auto import tqdm

from utils.data.crops import crop_paths, spread_frames
from utils.evaluation.robustness import corrupt
from utils.faces.media import load_crop
from utils.model.network import build_model
from utils.model.scoring import Scorer, normalise
from utils.run import artifacts, machine
from utils.run.jobs import run_jobs
from utils.run.machine import default_workers
from utils.stats.metrics import paired_bootstrap
from utils.training.augmentation import POLICIES, Policy
from utils.training.batches import BatchPlan, CropSet, resized
from utils.training.fitting import fit, open_crops
from utils.training.recipes import RECIPES, TrainConfig

Variant = tuple[TrainConfig, Policy]
REFERENCE: Variant = (RECIPES["reference"], POLICIES["reference"])
STRONG: Variant = (RECIPES["strong"], POLICIES["reference"])
#: Corruptions of `utils.evaluation.robustness`, each crop once by each.
DEGRADED = (("jpeg", 50), ("blur", 2), ("downscale", 0.25), ("noise", 10))
FRAMES = 16
#: Crops that are scored at once.
BATCH = 256
KEYS = ["split", "condition", "dataset", "video", "source", "label"]


def strong(what: str, *also: str, **recipe: Any) -> tuple[str, Variant]:
    """Strong with other settings of the recipe, or also with ingredients of the policy "robust"."""
    taken = {key: getattr(POLICIES["robust"], key) for key in also}
    return f"strong, {what}", (replace(STRONG[0], **recipe), replace(STRONG[1], **taken))


ABLATIONS = dict(
    [
        strong("no AdamW", optimizer="adam", weight_decay=0.0),
        strong("no EMA", ema=0.0),
        strong("no clipping", clip_norm=0.0),
        strong("no pairs", pairs=False),
        strong("no pairs, no balance", pairs=False, balanced=False),
        strong("and label smoothing", label_smoothing=0.05),
        strong("and warm-up and cosine", schedule="cosine", warm_up=0.05),
        strong("and colour", "colour"),
        strong("and blur, noise, scale", "blur", "noise", "downscale"),
        strong("and JPEG", "jpeg"),
        strong("and cutout", "cutout"),
        strong("and self-blending", "self_blend"),
    ]
)


@dataclass(frozen=True)
class Study:
    """What all runs share; it travels to the processes that train.

    Attributes:
        args: of the command line.
        train, val: decoded crops.
        pixels: file of the crops that are scored, uint8, shape (n, side, side, 3).
    """

    args: argparse.Namespace
    train: CropSet
    val: CropSet
    pixels: Path


def scored_rows(output: Path) -> pd.DataFrame:
    """What is scored: the crops of val and of test, as they are and degraded."""
    index = artifacts.read_table(output, "index.csv")
    parts = [
        spread_frames(index[index["split"] == split], FRAMES).assign(condition=condition)
        for split in ("val", "test")
        for condition in ("clean", *(name for name, _ in DEGRADED))
    ]
    return pd.concat(parts, ignore_index=True)


def draw_pixels(rows: pd.DataFrame, data: str, side: int, file: Path) -> None:
    """Decode, degrade and resize what is scored, once for all runs."""
    np.lib.format.open_memmap(file, "w+", np.uint8, (len(rows), side, side, 3)).flush()
    work = list(enumerate(zip(crop_paths(rows, data), rows["condition"])))
    parts = [work[i : i + BATCH] for i in range(0, len(work), BATCH)]
    list(tqdm(run_jobs(partial(_draw, file), parts), "degrade", len(parts)))


def _draw(file: Path, part: list[tuple[int, tuple[str, str]]]) -> None:
    pixels, severities = np.load(file, mmap_mode="r+"), dict(DEGRADED)
    for i, (path, condition) in part:
        crop = load_crop(path)
        if condition in severities:
            [spoilt] = corrupt([np.asarray(crop)], condition, severities[condition], seed=i)
            crop = Image.fromarray(spoilt)
        pixels[i] = resized(crop, pixels.shape[1])


def epochs_of(variant: Variant, train: CropSet, crops: int) -> int:
    """Epochs that show about as many crops; pairs and balance make short ones."""
    config, _ = variant
    return max(1, round(crops / sum(BatchPlan(train.table, config).sizes)))


def train_and_score(study: Study, run: tuple[str, Variant, int]) -> tuple[str, int, np.ndarray]:
    """One run: its name, its epochs, and the logit of FAKE of each scored crop, shape (n,)."""
    args, (name, (config, policy), seed) = study.args, run
    epochs = epochs_of((config, policy), study.train, args.epochs * epoch_size(study.train))
    config = replace(config, epochs=epochs, batch_size=args.batch_size, seed=seed)
    machine.seed_everything(seed)
    model = build_model(args.model, image_size=args.image_size, pretrained=args.pretrained)
    device = machine.get_device()
    with tempfile.TemporaryDirectory() as folder:
        trained, _ = fit(
            model, study.train, study.val, config, policy=policy, output=folder, device=device,
            num_workers=args.workers if args.processes == 1 else 0,
            progress=sys.stderr.isatty() and args.processes == 1,
        )  # fmt: skip
    facts = resolve_model_data_config(trained)
    pixels = np.load(study.pixels, mmap_mode="r")
    batches = (torch.tensor(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH))
    images = (normalise(batch, facts["mean"], facts["std"], device) for batch in batches)
    logits = Scorer(trained, device=device).score_batches(images, progress=False)
    return f"{name}, seed {seed}", epochs, logits


def epoch_size(train: CropSet) -> int:
    """Crops of an epoch of the reference recipe."""
    counts = np.bincount(train.table.video)
    return int(np.minimum(counts, REFERENCE[0].frames_per_video).sum())


def compare(scores: pd.DataFrame, names: Sequence[str], seeds: int) -> pd.DataFrame:
    """One row a variant: AUC by video on val and test, clean and degraded, and strong's lead.

    Args:
        scores: KEYS and the logits of every run, "<variant>, seed <n>".
        names: of the variants.
        seeds: of each.
    """
    table = []
    for name in names:
        row: dict[str, str] = {"variant": name}
        columns = [f"{name}, seed {seed}" for seed in range(seeds)]
        for split, degraded in product(("val", "test"), (False, True)):
            part = scores[
                (scores["split"] == split) & ((scores["condition"] != "clean") == degraded)
            ]
            where = f"{split}, {'degraded' if degraded else 'clean'}"
            videos = [by_video(part, [column]) for column in columns]
            row[where] = by_seeds([roc_auc_score(v["y_true"], v["logit"]) for v in videos])
            if name == names[0]:
                continue
            ours, theirs = (
                by_video(part, [f"{n}, seed {seed}" for seed in range(seeds)])
                for n in (names[0], name)
            )
            lead = paired_bootstrap(
                ours["y_true"], sigmoid(ours["logit"]), sigmoid(theirs["logit"]),
                groups=ours["source"], threshold=0.5,
            )["roc_auc"]  # fmt: skip
            lead_text = "{value:+.3f} ({low:+.3f} to {high:+.3f})".format(**lead)
            row[f"{names[0]} leads on {where}"] = lead_text
        table.append(row)
    return pd.DataFrame(table)


def by_video(scores: pd.DataFrame, columns: list[str]) -> pd.DataFrame:
    """A row a video and condition: `y_true`, `source`, mean `logit` of its crops and `columns`."""
    logit = scores[columns].mean(axis=1)
    table = scores.assign(logit=logit, y_true=(scores["label"] == "FAKE").astype(int))
    groups = table.groupby(["condition", "dataset", "video"], as_index=False)
    return groups.agg(
        y_true=("y_true", "first"), source=("source", "first"), logit=("logit", "mean")
    )


def by_seeds(aucs: list[float]) -> str:
    """Median and range."""
    return f"{np.median(aucs):.3f} ({min(aucs):.3f} to {max(aucs):.3f})"


def sigmoid(logits: pd.Series) -> np.ndarray:
    return torch.sigmoid(torch.tensor(logits.to_numpy())).numpy()


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
    parser.add_argument("--workers", type=int, default=default_workers(machine.get_device()))
    parser.add_argument("--processes", type=int, default=1, help="runs at a time, without WORKERS")
    parser.add_argument(
        "--ablate", action="store_true", help="also with one ingredient less or more"
    )
    parser.add_argument("--only", nargs="*", help="some variants beside strong, by name")
    args = parser.parse_args()
    variants = {"strong": STRONG, "reference": REFERENCE, **ABLATIONS}
    if args.only or not args.ablate:
        variants = {name: variants[name] for name in ("strong", *(args.only or ["reference"]))}
    frames = {"frames_stored": 64, "frames_per_video": FRAMES}
    _, train, val = open_crops(args.output, args.data, image_size=args.image_size, **frames)
    rows = scored_rows(args.output)
    study = Study(args, train, val, args.output / "scored.npy")
    draw_pixels(rows, args.data, args.image_size, study.pixels)
    scores = rows[KEYS].copy()
    runs = [(n, variant, seed) for seed in range(args.seeds) for n, variant in variants.items()]
    began = time.monotonic()
    for name, epochs, logits in run_jobs(
        partial(train_and_score, study), runs, workers=args.processes
    ):
        scores[name] = logits.round(4)
        scores.to_csv(args.output / "recipes_scores.csv", index=False)
        clean = scores[(scores["split"] == "val") & (scores["condition"] == "clean")]
        auc = roc_auc_score(clean["label"] == "FAKE", clean[name])
        minutes = (time.monotonic() - began) / 60
        print(f"{name}: {epochs} epochs, val AUC {auc:.3f}; {minutes:.1f} min so far", flush=True)
    table = compare(scores, list(variants), args.seeds)
    table.to_csv(args.output / "recipes.csv", index=False)
    print(table.T.to_string(header=False))
    return 0


if __name__ == "__main__":
    sys.exit(main())
