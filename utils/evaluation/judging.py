"""Models compared, groups, other data: what follows from a decision that stands."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed
from scipy.special import expit
from tqdm.auto import tqdm

from utils.data.crops import image_statistics, inspect_crops, scan_crops, spread_frames
from utils.data.splits import source_groups
from utils.faces.media import load_crop
from utils.model.scoring import Transform, score_paths
from utils.run.artifacts import CLASSES
from utils.stats.decisions import THRESHOLD_RULES, choose_decision, choose_threshold, judge_videos
from utils.stats.metrics import (
    Scores,
    bootstrap,
    exchange_test,
    group_mean,
    paired_bootstrap,
    score_table,
    y_true_of,
)


def compare_rules(val: pd.DataFrame, test: pd.DataFrame, **targets: float) -> dict[str, Any]:
    """What each threshold rule chooses on val, and what follows on val and on test.

    Args:
        val, test: a row a video: `label, score`.
        targets: `fpr_target` and `cost_ratio` of `choose_threshold`.

    Returns:
        Rule to `threshold`, and `val` and `test`: the point values of `score_table`.
    """
    result: dict[str, Any] = {}
    for rule in THRESHOLD_RULES:
        threshold = choose_threshold(y_true_of(val), val["score"], rule=rule, **targets)
        result[rule] = {"threshold": threshold} | {
            name: score_table(y_true_of(part), part["score"], threshold=threshold)
            for name, part in (("val", val), ("test", test))
        }
    return result


def abstention_effect(videos: pd.DataFrame, **settings: Any) -> dict[str, Scores]:
    """Share of videos decided, and wrong of those, with intervals over sources.

    Args:
        videos: of `judge_videos`, of test.
        settings: `n_resamples, seed` of the bootstrap.
    """
    decided = (videos["decision"] != "UNSURE").to_numpy()
    wrong = (videos["decision"] != videos["label"]).to_numpy()
    kept = {"groups": videos["source"], **settings}
    return {
        "coverage": group_mean(decided, **kept),
        "error": group_mean(wrong, where=decided, **kept),
    }


def name_models(folders: Sequence[str], taken: Sequence[str] = ()) -> dict[str, Path]:
    """Names for model folders, or for outputs that hold one: the last part of the path that tells.

    Args:
        folders: each with `config.json`, or with `model/config.json`.
        taken: names that are in use.

    Raises:
        FileNotFoundError: a folder holds no model.
    """
    named: dict[str, Path] = {}
    for folder in map(Path, folders):
        home = folder if (folder / "config.json").is_file() else folder / "model"
        if not (home / "config.json").is_file():
            raise FileNotFoundError(f"MODELS: {folder} holds no model: config.json is missing")
        resolved = home.resolve()
        stem = resolved.parent.name if resolved.name == "model" else resolved.name
        used = {*named, *taken}
        name = next(
            n for i in range(len(used) + 1) if (n := f"{stem}_{i}" if i else stem) not in used
        )
        named[name] = home
    return named


def extra_crops(
    folder: str, *, frames: int, seen: Collection[str], progress: bool = True
) -> tuple[pd.DataFrame, int]:
    """A further data set to test on: some frames a video, and nothing that was trained on.

    Args:
        folder: in any known crop layout.
        frames: evenly spaced ones of each video; 0 keeps all.
        seen: sources of the train split; their videos are left out.
        progress: show a bar.

    Returns:
        A row a crop, as in index.csv, with `root` and the split "extra"; the number of videos that
        were left out.
    """
    crops, _ = scan_crops(folder)
    crops = crops.assign(source=source_groups(crops), split="extra")
    known = crops["source"].isin(seen) | crops["video"].isin(seen)
    left_out = crops.loc[known, "video"].nunique()
    kept = crops[~known]
    if kept.empty:
        raise ValueError(f"EXTRA_DATA: every video of {Path(folder).name} was trained on")
    kept = spread_frames(kept.reset_index(drop=True), frames)
    return inspect_crops(kept, progress=progress)[0], int(left_out)


def judge_elsewhere(
    folder: str,
    model: torch.nn.Module,
    transform: Transform,
    decision: Mapping[str, Any],
    *,
    frames: int,
    seen: Collection[str],
    batches: Mapping[str, Any],
    **settings: Any,
) -> tuple[dict[str, Any], pd.DataFrame]:
    """A further data set, scored and judged with everything frozen.

    Args:
        folder, frames, seen: of `extra_crops`.
        model, transform, decision: as they were chosen.
        batches: `device`, `batch_size` and `num_workers` of `score_paths`.
        settings: `n_resamples, seed` of the bootstrap.

    Returns:
        `generalisation` with `tested_on`, `left_out` and `elsewhere`; a row a crop with `logit` and
        `score`.
    """
    crops, left_out = extra_crops(folder, frames=frames, seen=seen)
    paths = [f"{root}/{path}" for root, path in zip(crops["root"], crops["path"])]
    crops = crops.assign(logit=score_paths(model, transform, paths, **batches))
    crops["score"] = expit(crops["logit"] / decision["temperature"])
    videos = judge_videos(crops, decision)
    name = ", ".join(sorted(crops["dataset"].unique()))
    row = {"tested_on": name, "left_out": left_out, "elsewhere": True}
    return row | generalisation(videos, threshold=decision["threshold"], **settings), crops


def compare_models(
    predictions: pd.DataFrame, columns: Mapping[str, str], **settings: Any
) -> dict[str, Any]:
    """The first model against each other one, on the same test videos.

    Each has its own temperature, aggregation and threshold, chosen on val.

    Args:
        predictions: a row a crop of val and test, with the columns of all models.
        columns: model to its column of logits, the model that is reported first.
        settings: `n_resamples, seed` of the bootstrap.

    Returns:
        Model to its `roc_auc`, `balanced_accuracy` and `log_loss`, and the `temperature`,
        `aggregation` and `threshold` that they rest on; from the second on, `roc_auc_difference`
        (first less this one) with its paired interval, and `p_value` of `exchange_test`.
    """
    result: dict[str, Any] = {}
    first: tuple[pd.DataFrame, float] | None = None
    for name, column in columns.items():
        rows = predictions.assign(logit=predictions[column])
        decision = choose_decision(rows[rows["split"] == "val"])
        videos = judge_videos(rows[rows["split"] == "test"], decision)
        kept = {"groups": videos["source"], **settings}
        y_true, score = y_true_of(videos), videos["score"]
        own = bootstrap(y_true, score, threshold=decision["threshold"], **kept)
        result[name] = {key: own[key] for key in ("roc_auc", "balanced_accuracy", "log_loss")}
        result[name] |= {key: decision[key] for key in ("temperature", "aggregation", "threshold")}
        if first is None:
            first = videos, decision["threshold"]
            continue
        pair = paired_bootstrap(
            *(y_true, first[0]["score"], score),
            threshold=first[1],
            other_threshold=decision["threshold"],
            **kept,
        )
        result[name]["roc_auc_difference"] = pair["roc_auc"]
        result[name]["p_value"] = exchange_test(y_true, first[0]["score"], score, **kept)
    return result


def generalisation(videos: pd.DataFrame, *, threshold: float, **settings: Any) -> dict[str, Any]:
    """How a frozen model does on one set of videos: counts, AUC, errors at the fixed threshold.

    Args:
        videos: of `judge_videos`.
        threshold: chosen on val of the data trained on.
        settings: `n_resamples, seed` of the bootstrap.
    """
    table = bootstrap(
        y_true_of(videos),
        videos["score"],
        groups=videos["source"],
        threshold=threshold,
        **settings,
    )
    names = ("roc_auc", "balanced_accuracy", "recall", "specificity")
    counts = {label: int((videos["label"] == label).sum()) for label in CLASSES}
    sources = int(videos["source"].nunique())
    return {**counts, "sources": sources, **{name: table[name] for name in names}}


def calibration_table(
    predictions: pd.DataFrame, videos: pd.DataFrame, *, temperature: float
) -> dict[str, dict[str, float | None]]:
    """Log loss, Brier score and calibration error of the test crops before and after, and videos.

    Args:
        predictions: a row a crop of test, with `logit`.
        videos: of `judge_videos`, of test.
        temperature: chosen on val.
    """
    logits = predictions["logit"].to_numpy()
    stages = {
        "crops_before": (predictions, expit(logits)),
        "crops_after": (predictions, expit(logits / temperature)),
        "videos_after": (videos, videos["score"]),
    }
    return {
        stage: {
            name: value
            for name, value in score_table(y_true_of(table), score, threshold=0.5).items()
            if name in ("log_loss", "brier", "ece")
        }
        for stage, (table, score) in stages.items()
    }


#: What is cut into thirds, with the words for its ends and middle and the digits of its numbers.
NUMERIC = {
    "face_size": (("small", "middle", "large"), 0),
    "brightness": (("dark", "middle", "bright"), 2),
    "sharpness": (("blurred", "middle", "sharp"), 2),
}
#: Under so many videos of either class, a slice is marked as small.
SMALL = 10
CROPS_A_CHUNK = 64


def describe_crops(paths: Sequence[str], *, progress: bool = True) -> pd.DataFrame:
    """`brightness` (mean grey, 0 to 1) and `sharpness` (log10 variance of the Laplacian) a crop."""
    chunks = [paths[start : start + CROPS_A_CHUNK] for start in range(0, len(paths), CROPS_A_CHUNK)]
    # Threads: decoding and OpenCV let go of the interpreter lock.
    work = Parallel(n_jobs=-1, prefer="threads", return_as="generator")(
        delayed(_describe)(chunk) for chunk in chunks
    )
    bar = tqdm(work, total=len(chunks), desc="describe", unit="chunk", disable=not progress)
    rows = [row for chunk in bar for row in chunk]
    return pd.DataFrame(rows, columns=["brightness", "sharpness"], dtype=np.float64)


def _describe(paths: Sequence[str]) -> list[tuple[float, float]]:
    facts = [image_statistics(np.asarray(load_crop(path))) for path in paths]
    return [(row["brightness"], row["sharpness"]) for row in facts]


def face_sizes(index: pd.DataFrame, boxes: pd.DataFrame | None = None) -> np.ndarray:
    """Larger side of each face in pixels: in the video where 00's boxes say so, else of the crop.

    Args:
        index: `video, frame, face, width, height`.
        boxes: of `faces/boxes.csv`.
    """
    sizes = index[["width", "height"]].max(axis=1).to_numpy(np.float64)
    if boxes is None:
        return sizes
    keys = ["video", "frame", "face"]
    sides = np.maximum(boxes["x2"] - boxes["x1"], boxes["y2"] - boxes["y1"])
    known = boxes[keys].assign(side=sides).drop_duplicates(keys)
    found = index[keys].merge(known, on=keys, how="left")["side"].to_numpy(np.float64)
    return np.where(np.isnan(found), sizes, found)


def video_facts(predictions: pd.DataFrame) -> pd.DataFrame:
    """A row a video, in the order of its first crop: `dataset, method`, medians, and `faces`.

    Args:
        predictions: a row a crop: `dataset, video, frame, method` and the columns of NUMERIC.

    Returns:
        `faces`: the largest number of faces in one frame, as "1" or "2 or more".
    """
    keys = ["dataset", "video"]
    grouped = predictions.groupby(keys, sort=False)
    facts = grouped[list(NUMERIC)].median()
    facts["method"] = grouped["method"].first()
    in_frame = predictions.groupby([*keys, "frame"], sort=False).size()
    most = in_frame.groupby(keys, sort=False).max()
    facts["faces"] = np.where(most.reindex(facts.index) > 1, "2 or more", "1")
    return facts.reset_index()


def slice_videos(videos: pd.DataFrame, *, threshold: float, **settings: Any) -> dict[str, Any]:
    """Scores of groups of the test videos.

    A method is judged by its fakes against all real videos; every other group by the videos of
    both classes in it. Numbers are cut into thirds of the videos. What is the same for all makes
    no groups and is left out, but for the method.

    Args:
        videos: a row a video: `label, source, score` and the columns of `video_facts`.
        threshold: at and above it a video is called FAKE.
        settings: `n_resamples, seed` of the bootstrap.

    Returns:
        What it is grouped by to name to `n` (of a method its fakes), `REAL`, `FAKE`, `sources`,
        `small` (under SMALL videos of a class), `roc_auc` and `balanced_accuracy`.
    """
    real = videos["label"] == CLASSES[0]
    groups: dict[str, dict[str, pd.Series]] = {"method": {}}
    for method in sorted(videos.loc[~real, "method"].unique()):
        groups["method"][method] = real | (videos["method"] == method)
    for by in ("dataset", "faces"):
        names = sorted(videos[by].unique())
        groups[by] = {name: videos[by] == name for name in names if len(names) > 1}
    for by, (words, digits) in NUMERIC.items():
        groups[by] = _thirds(videos[by], words, digits)
    return {
        by: {
            name: _score(videos[rows], threshold, settings) | _counted(by, videos[rows])
            for name, rows in parts.items()
        }
        for by, parts in groups.items()
        if parts
    }


def _counted(by: str, rows: pd.DataFrame) -> dict[str, Any]:
    counts = {label: int((rows["label"] == label).sum()) for label in CLASSES}
    n = counts["FAKE"] if by == "method" else len(rows)
    small = min(counts.values()) < SMALL
    return {"n": n, **counts, "sources": int(rows["source"].nunique()), "small": small}


def _score(rows: pd.DataFrame, threshold: float, settings: dict[str, Any]) -> dict[str, Any]:
    y_true = (rows["label"] == CLASSES[1]).to_numpy(int)
    table = bootstrap(y_true, rows["score"], groups=rows["source"], threshold=threshold, **settings)
    return {name: table[name] for name in ("roc_auc", "balanced_accuracy")}


def _thirds(values: pd.Series, words: Sequence[str], digits: int) -> dict[str, pd.Series]:
    """Rows of each third by value, named with its range; none if the values hardly differ."""
    edges = np.unique(values.quantile([1 / 3, 2 / 3]))
    part = np.searchsorted(edges, values, side="left")
    present = [values[part == k] for k in range(len(edges) + 1) if (part == k).any()]
    if len(present) < 2:
        return {}
    named = words if len(present) == 3 else (words[0], words[2])
    return {
        f"{word}: {rows.min():.{digits}f} to {rows.max():.{digits}f}": values.between(
            rows.min(), rows.max()
        )
        for word, rows in zip(named, present, strict=True)
    }
