"""Which recipe is best, from given weights and at equal compute: a screening, finals, one test.

    make run DATA=path/to/deepfake_faces OUTPUT=out TO=01_explore_data
    python -m benchmarks.compare_recipes screen out --data path/to/deepfake_faces --weights FILE
    python -m benchmarks.compare_recipes finals out ...    # the last four, three seeds
    python -m benchmarks.compare_recipes test out ...      # opens the test split
    python -m benchmarks.compare_recipes sizes out ...     # more fakes, pixels or weights instead

The protocol, fixed before the first run. DFDC's parts 7 to 29 train, 30 to 34 are val, 35 to 39
test. Every run sees as many crops, two epochs of the reference recipe over 8,000 crops of whole
sources, from the same weights, and keeps its epoch of lowest val loss. Choices are made on val
alone, by AUC by crop under three kinds of conditions: clean, degraded, and cut in another way.

"screen" is a Plackett-Burman design: twelve runs for eleven ingredients, each of which six runs
have and six do not, so that an effect is a difference of two means of six runs, and not of two
runs, which differ by their seed alone. What OUTPUT/runs/ holds is not run again, and settings that
differ from those it was made with are refused.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.linalg import circulant
from sklearn.metrics import roc_auc_score
from timm.data import resolve_model_data_config

from utils.data.crops import crop_paths
from utils.evaluation.robustness import corrupt
from utils.faces.media import load_crop
from utils.model.network import build_model
from utils.model.scoring import Scorer, normalise
from utils.run import machine
from utils.run.artifacts import atomic_path, read_any_json, read_table, write_csv, write_table
from utils.run.jobs import map_threads
from utils.stats.metrics import METRICS, WeightedScores, y_true_of
from utils.training.augmentation import POLICIES, Policy
from utils.training.batches import BatchPlan, CropSet, resized
from utils.training.fitting import fit, open_crops
from utils.training.recipes import RECIPES, TrainConfig

Variant = tuple[TrainConfig, Policy]
#: Logits of runs: a row a crop, a column a condition.
Runs = Sequence[pd.DataFrame]
PARTS = {"train": range(7, 30), "val": range(30, 35), "test": range(35, 40)}
#: Corruptions of `utils.evaluation.robustness`, each crop once by each.
DEGRADED = (("jpeg", 50), ("blur", 2), ("downscale", 0.25), ("noise", 10))
#: What another crop recipe does: detail is gone, a face is squeezed, it fills more or less.
RECUT = ("quarter", "squeezed", "tighter", "wider")
CONDITIONS = {"clean": ("clean",), "degraded": tuple(n for n, _ in DEGRADED), "recut": RECUT}
NAMES = [name for kind in CONDITIONS.values() for name in kind]
BATCH, RESAMPLES = 256, 1000

ROBUST = POLICIES["robust"]
#: Ingredient to what it sets where it is there, in a recipe or in a policy; without any of them a
#: run is Adam at a constant 0.0003 with the policy "reference".
INGREDIENTS: dict[str, dict[str, Any]] = {
    "learning rate 0.001": {"learning_rate": 1e-3},
    "warm-up and cosine": {"schedule": "cosine", "warm_up": 0.1},
    "weight decay and clipping": {"optimizer": "adamw", "weight_decay": 0.05, "clip_norm": 1.0},
    "averaged weights": {"ema": 0.999},
    "label smoothing": {"label_smoothing": 0.05},
    "pairs and balance": {"pairs": True, "balanced": True},
    "colour": {"colour": 0.15},
    "JPEG": {"jpeg": 0.5},
    "blur, noise, scale": {k: getattr(ROBUST, k) for k in ("blur", "noise", "downscale")},
    "cut-out": {"cutout": ROBUST.cutout},
    "self-blending": {"self_blend": 0.25},
}
BASE: Variant = (TrainConfig(learning_rate=3e-4), POLICIES["reference"])
#: A row a run, a column an ingredient; the last run has none.
DESIGN = np.vstack([circulant([1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0]).T, np.zeros(11, int)])


def variant(base: Variant, *names: str, **changes: Any) -> Variant:
    """`base` with so many INGREDIENTS and other changes."""
    for name in names:
        changes = INGREDIENTS[name] | changes
    config, policy = ({k: v for k, v in changes.items() if hasattr(part, k)} for part in base)
    return replace(base[0], **config), replace(base[1], **policy)


def screening() -> dict[str, Variant]:
    runs = {}
    for number, row in enumerate(DESIGN):
        names = [name for name, there in zip(INGREDIENTS, row) if there]
        runs[f"screen-{number:02}"] = variant(BASE, *names)
    return runs


#: Every ingredient whose mean effect in the screening was above 0.
STRONG = RECIPES["strong"], POLICIES["robust"]
FINALS: dict[str, Variant] = {
    "strong": STRONG,
    "reference": (RECIPES["reference"], POLICIES["reference"]),
    "reference, robust": (RECIPES["reference"], POLICIES["robust"]),
    "strong, and the rest": variant(STRONG, "colour", "JPEG", "self-blending"),
    "strong, norms only": variant(STRONG, train_only="norms", learning_rate=3e-3),
}
#: The best of them on val, and what it has to beat: with its own policy, and with the same one.
TESTED = ("strong", "reference", "reference, robust")
#: What else the time of the first one might buy, of all crops of the training parts: epochs, and
#: what differs. The weights of another network lie beside the given ones, under its name.
SIZES: dict[str, dict[str, Any]] = {
    "strong, 128 pixels": {"epochs": 3},
    "17 of 29 fakes": {"epochs": 3, "fakes": 17 / 29},
    "160 pixels": {"epochs": 2, "image_size": 160},
    "224 pixels": {"epochs": 1, "image_size": 224},
    "Lite2": {"epochs": 2, "model": "tf_efficientnet_lite2"},
}
#: One seed tells enough of it.
ASIDE = {"strong, head only": variant(STRONG, train_only="head", learning_rate=1e-2)}


def split_by_part(index: pd.DataFrame) -> pd.DataFrame:
    """An index whose split is PARTS; its groups are called "part_7"."""
    parts = index["group"].str.extract(r"(\d+)$")[0].astype(int)
    split = {part: name for name, numbers in PARTS.items() for part in numbers}
    return index.assign(split=parts.map(split)).dropna(subset="split")


def draw_sources(rows: pd.DataFrame, crops: int, seed: int = 0) -> pd.DataFrame:
    """Whole sources in random order, as many as have about so many crops."""
    sizes = rows.groupby("source").size().sample(frac=1, random_state=seed)
    return rows[rows["source"].isin(sizes.index[sizes.cumsum() <= crops])]


def changed(crop: np.ndarray, condition: str, seed: int) -> np.ndarray:
    """A crop (H, W, 3), uint8, under a condition."""
    height, width = crop.shape[:2]
    y, x = round(0.075 * height), round(0.075 * width)
    if condition == "squeezed":  # an upright box of three quarters, made square
        x = round(0.13 * width)
        return crop[:, x : width - x]
    if condition == "tighter":  # 15% less side
        return crop[y : height - y, x : width - x]
    if condition == "wider":  # 15% more of it; what lies around a crop is not known
        return cv2.copyMakeBorder(crop, y, y, x, x, cv2.BORDER_REFLECT_101)
    strengths = dict(DEGRADED) | {"quarter": 0.25}
    if condition in strengths:
        name = "downscale" if condition == "quarter" else condition
        [crop] = corrupt([crop], name, strengths[condition], seed=seed)
    return crop


def draw_pixels(rows: pd.DataFrame, data: str, side: int, file: Path) -> None:
    """Decode, change and resize what is scored, once: (conditions, n, side, side, 3) uint8."""
    if file.exists():
        return
    paths = crop_paths(rows, data)
    with atomic_path(file) as temporary:
        shape = (len(NAMES), len(paths), side, side, 3)
        pixels = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)

        def draw(i: int) -> None:
            crop = np.asarray(load_crop(paths[i]))
            for place, name in enumerate(NAMES):
                pixels[place, i] = resized(Image.fromarray(changed(crop, name, seed=i)), side)

        list(map_threads(draw, range(len(paths)), desc="change", unit="crop"))
        pixels.flush()


def score_pixels(model: torch.nn.Module, file: Path) -> dict[str, np.ndarray]:
    """The logit of FAKE of each crop, shape (n,), under each condition."""
    facts, device = resolve_model_data_config(model), machine.get_device()
    scorer, found = Scorer(model, device=device), {}
    for name, pixels in zip(NAMES, np.load(file, mmap_mode="r")):
        batches = (torch.tensor(pixels[i : i + BATCH]) for i in range(0, len(pixels), BATCH))
        images = (normalise(batch, facts["mean"], facts["std"], device) for batch in batches)
        found[name] = scorer.score_batches(images, progress=False)
    return found


def run_one(
    name: str,
    chosen: Variant,
    seed: int,
    train: CropSet,
    val: CropSet,
    rows: pd.DataFrame,
    args: argparse.Namespace,
    epochs: int = 0,
) -> None:
    """Train one run and score val, or leave what an earlier call did; `epochs` 0: equal compute."""
    folder = args.output / "runs" / f"{name}-{seed}"
    if (folder / "val.csv").is_file():
        return
    config, policy = chosen
    plan = BatchPlan(train.table, replace(config, batch_size=args.batch_size))
    epochs = epochs or max(1, round(args.epochs * len(train) / sum(plan.sizes)))
    config = replace(config, epochs=epochs, batch_size=args.batch_size, seed=seed)
    machine.seed_everything(seed)
    model = build_model(args.model, image_size=args.image_size, weights=args.weights)
    device = machine.get_device()
    trained, history = fit(
        model, train, val, config, policy=policy, output=folder, device=device, resume=True,
        progress=sys.stderr.isatty(),
    )  # fmt: skip
    torch.save(trained.state_dict(), folder / "weights.pt")
    scores = pd.DataFrame(score_pixels(trained, args.output / "runs" / "val.npy")).round(4)
    write_csv(scores, folder / "val.csv")
    for file in (folder / "checkpoint").glob("*.pt"):
        file.unlink()
    minutes = history["elapsed_s"].iloc[-1] / 60
    aucs = by_kind(rows, scores)
    text = ", ".join(f"{kind} {auc:.3f}" for kind, auc in aucs.items())
    print(f"{name}, seed {seed}: {epochs} epochs, {minutes:.1f} min; val AUC {text}", flush=True)


def by_kind(rows: pd.DataFrame, scores: pd.DataFrame) -> dict[str, float]:
    """AUC by crop under each kind of conditions, over all crops under all of them, and the mean."""
    aucs = {kind: float(roc_auc_score(*pooled(rows, scores, kind)[:2])) for kind in CONDITIONS}
    return aucs | {"mean": float(np.mean(list(aucs.values())))}


def pooled(
    rows: pd.DataFrame, scores: pd.DataFrame, kind: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Labels, scores and sources of the crops, under each condition of a kind in turn."""
    names = list(CONDITIONS[kind])
    y_true, sources = y_true_of(rows), rows["source"].to_numpy()
    score = torch.sigmoid(torch.tensor(scores[names].to_numpy().T.ravel())).numpy()
    return np.tile(y_true, len(names)), score, np.tile(sources, len(names))


def effects(output: Path, rows: pd.DataFrame) -> pd.DataFrame:
    """What each ingredient adds to the AUC: mean of six runs with it less that of the others.

    By kind of conditions, their mean, and each condition.
    """
    y_true, found = y_true_of(rows), []
    for seed, name in enumerate(screening()):
        scores = read_scores(output, f"{name}-{seed}", "val")
        each = {name: roc_auc_score(y_true, scores[name]) for name in NAMES}
        found.append(by_kind(rows, scores) | each)
    aucs = pd.DataFrame(found)
    effect = (2 * DESIGN - 1).T @ aucs.to_numpy() / 6
    return pd.DataFrame(effect, list(INGREDIENTS), aucs.columns).round(3)


def read_scores(output: Path, run: str, split: str) -> pd.DataFrame:
    """Logits of a run, a row a crop and a column a condition."""
    return pd.read_csv(output / "runs" / run / f"{split}.csv")


def compare(
    output: Path, rows: pd.DataFrame, split: str, seeds: int, names: Sequence[str]
) -> pd.DataFrame:
    """A row a recipe: AUC by kind, median and range over the seeds, and what the first leads by.

    That is told of single runs, which is what somebody trains, and of the mean logit of all seeds.
    """
    table, first = [], names[0]
    runs = {n: [read_scores(output, f"{n}-{s}", split) for s in range(seeds)] for n in names}
    means = {name: [sum(found) / seeds] for name, found in runs.items()}
    for name in names:
        aucs = pd.DataFrame([by_kind(rows, run) for run in runs[name]])
        row = {"recipe": name}
        for kind in CONDITIONS:
            values = aucs[kind]
            row[kind] = f"{values.median():.3f} ({values.min():.3f} to {values.max():.3f})"
            if name != first:
                row[f"{first} leads, {kind}"] = lead(rows, runs[first], runs[name], kind)
                row[f"of the mean logits, {kind}"] = lead(rows, means[first], means[name], kind)
        table.append(row)
    return pd.DataFrame(table)


def lead(rows: pd.DataFrame, ours: Runs, theirs: Runs, kind: str) -> str:
    """By how much mean AUC the runs of one recipe lead those of another.

    With the 95% interval of a bootstrap by source, in which all runs see the same resamples.
    """
    y_true, _, sources = pooled(rows, ours[0], kind)
    codes = pd.factorize(sources, sort=True)[0]
    n = codes.max() + 1
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), RESAMPLES).astype(float)
    leads, point = np.zeros(RESAMPLES), 0.0
    for sign, runs in ((1, ours), (-1, theirs)):
        for run in runs:
            score = pooled(rows, run, kind)[1]
            drawn = WeightedScores(y_true, score, codes, 0.5)
            aucs = [drawn.scores(part)[:, METRICS.index("roc_auc")] for part in np.split(draws, 20)]
            leads += sign * np.concatenate(aucs) / len(runs)
            point += sign * roc_auc_score(y_true, score) / len(runs)
    low, high = np.percentile(leads, (2.5, 97.5))
    return f"{point:+.3f} ({low:+.3f} to {high:+.3f})"


def check_settings(args: argparse.Namespace) -> None:
    """Refuse other settings than those with which OUTPUT/runs/ was made; note them if it is new."""
    told = {key: str(value) for key, value in vars(args).items() if key not in ("stage", "seeds")}
    path = args.output / "runs" / "settings.json"
    if path.is_file():
        if (then := read_any_json(path)) != told:
            raise ValueError(f"{path.parent} was made with {then}, not {told}: name another OUTPUT")
        return
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(told, indent=2))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare_recipes")
    parser.add_argument("stage", choices=["screen", "finals", "test", "sizes"])
    parser.add_argument("output", type=Path, help="folder with an index.csv that knows the parts")
    parser.add_argument("--data", default="", help="the crops, as DATA of 01")
    parser.add_argument("--model", default="tf_efficientnet_lite0")
    parser.add_argument("--weights", default="", help="as WEIGHTS of 03")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=35)
    parser.add_argument("--crops", type=int, default=8_000, help="to train on")
    parser.add_argument("--scored", type=int, default=2_500, help="crops of val")
    parser.add_argument("--epochs", type=float, default=2, help="of the reference recipe")
    parser.add_argument("--seeds", type=int, default=3, help="of a finalist")
    args = parser.parse_args()
    index = split_by_part(read_table(args.output, "index.csv"))
    check_settings(args)
    if args.stage == "test":
        return test(index, args)
    if args.stage == "sizes":
        return sizes(index, args)
    parts = [
        draw_sources(index[index["split"] == split], crops)
        for split, crops in (("train", args.crops), ("val", args.scored))
    ]
    folder = args.output / "runs"
    write_table(pd.concat(parts), folder, "index.csv")
    _, train, val = open_crops(folder, args.data, image_size=args.image_size)
    draw_pixels(parts[1], args.data, args.image_size, folder / "val.npy")
    if args.stage == "screen":
        for seed, (name, chosen) in enumerate(screening().items()):
            run_one(name, chosen, seed, train, val, parts[1], args)
        print(effects(args.output, parts[1]).to_string())
        return 0
    for name, chosen in (FINALS | ASIDE).items():
        for seed in range(1 if name in ASIDE else args.seeds):
            run_one(name, chosen, seed, train, val, parts[1], args)
    print(compare(args.output, parts[1], "val", args.seeds, [*FINALS]).T.to_string(header=False))
    return 0


def sizes(index: pd.DataFrame, args: argparse.Namespace) -> int:
    """Train each of SIZES once, and score val."""
    train, val = (index[index["split"] == split] for split in ("train", "val"))
    val = draw_sources(val, args.scored)
    for name, changes in SIZES.items():
        here = argparse.Namespace(**{**vars(args), **changes, "output": args.output / name})
        here.weights = args.weights and str(
            Path(args.weights).with_name(f"{here.model}.safetensors")
        )
        fakes = train[train["label"] == "FAKE"]
        fewer = fakes.sample(frac=1 - changes.get("fakes", 1), random_state=0).index
        folder = here.output / "runs"
        write_table(pd.concat([train.drop(fewer), val]), folder, "index.csv")
        _, *both = open_crops(folder, here.data, image_size=here.image_size)
        draw_pixels(val, here.data, here.image_size, folder / "val.npy")
        run_one(name, STRONG, 0, both[0], both[1], val, here, epochs=here.epochs)
    return 0


def test(index: pd.DataFrame, args: argparse.Namespace) -> int:
    """Score the test split by those TESTED, and compare the first with the others by part."""
    rows, folder = index[index["split"] == "test"], args.output / "runs"
    draw_pixels(rows, args.data, args.image_size, folder / "test.npy")
    runs: dict[str, list[pd.DataFrame]] = {name: [] for name in TESTED}
    for seed, name in product(range(args.seeds), TESTED):
        run = folder / f"{name}-{seed}"
        if not (run / "test.csv").is_file():
            model = build_model(args.model, image_size=args.image_size, pretrained=False)
            model.load_state_dict(torch.load(run / "weights.pt", weights_only=True))
            scores = pd.DataFrame(score_pixels(model, folder / "test.npy")).round(4)
            write_csv(scores, run / "test.csv")
            print(f"{run.name} scored", flush=True)
        runs[name].append(read_scores(args.output, run.name, "test"))
    print(compare(args.output, rows, "test", args.seeds, TESTED).T.to_string(header=False))
    for name in TESTED:
        costs = {c: np.mean([cost(rows, run, c) for run in runs[name]]) for c in NAMES[1:]}
        print(name, "loses", ", ".join(f"{c} {value:.3f}" for c, value in costs.items()))
    for other, part in product(TESTED[1:], sorted(rows["group"].unique())):
        there = (rows["group"] == part).to_numpy()
        ours, theirs = ([run[there] for run in runs[name]] for name in (TESTED[0], other))
        leads = (f"{kind} {lead(rows[there], ours, theirs, kind)}" for kind in CONDITIONS)
        print(f"{part}: {TESTED[0]} leads {other} by {', '.join(leads)}")
    return 0


def cost(rows: pd.DataFrame, run: pd.DataFrame, condition: str) -> float:
    """By how much AUC by crop a condition costs a run."""
    clean, then = (roc_auc_score(y_true_of(rows), run[name]) for name in ("clean", condition))
    return float(clean - then)


if __name__ == "__main__":
    sys.exit(main())
