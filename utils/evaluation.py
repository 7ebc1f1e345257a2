"""Scored crops in, judged videos out: what val chooses is frozen, and models are compared by it.

A decision is what `model/decision.json` holds: temperature, threshold with its rule, aggregation,
abstention band.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from scipy.special import expit

from utils import decisions, resampling
from utils.artifacts import CLASSES
from utils.datasets import scan_crops
from utils.engine import score_paths
from utils.inspection import inspect_crops
from utils.loading import spread_frames
from utils.scores import Scores, score_table
from utils.splits import source_groups
from utils.transforms import Transform


def y_true_of(table: pd.DataFrame) -> np.ndarray:
    """Labels as numbers: 1 = FAKE."""
    return (table["label"] == CLASSES[1]).to_numpy(np.int64)


def choose_decision(
    val: pd.DataFrame,
    *,
    rule: str = "balanced_accuracy",
    aggregation: str = "auto",
    fpr_target: float = 0.05,
    cost_ratio: float = 1.0,
    target_error: float = 0.1,
) -> dict[str, Any]:
    """Choose temperature, aggregation, threshold and band, in this order, on the val split.

    Args:
        val: a row a crop of val: `video, source, label, split, logit`.
        rule, fpr_target, cost_ratio: of `choose_threshold`.
        aggregation: one of AGGREGATIONS, or "auto" for that of the lowest log loss on val.
        target_error: of `choose_abstention`.
    """
    temperature = decisions.fit_temperature(val["logit"], y_true_of(val))
    if aggregation == "auto":
        order = decisions.choose_aggregation(val, temperature=temperature)
        aggregation = str(order["how"].iloc[0])
    videos = decisions.aggregate_videos(val, how=aggregation, temperature=temperature)
    y_true, y_score = y_true_of(videos), videos["score"]
    threshold = decisions.choose_threshold(
        y_true, y_score, rule=rule, fpr_target=fpr_target, cost_ratio=cost_ratio
    )
    band = decisions.choose_abstention(
        y_true, y_score, threshold=threshold, target_error=target_error
    )
    return {
        "temperature": temperature,
        "threshold": threshold,
        "rule": rule,
        "aggregation": aggregation,
        "abstention": band,
    }


def judge_videos(predictions: pd.DataFrame, decision: Mapping[str, Any]) -> pd.DataFrame:
    """One row a video with `score` and `decision`, by a decision that stands."""
    videos = decisions.aggregate_videos(
        predictions, how=decision["aggregation"], temperature=decision["temperature"]
    )
    band = decision["abstention"]
    videos["decision"] = decisions.decide(
        videos["score"], threshold=decision["threshold"], low=band["low"], high=band["high"]
    )
    return videos


def compare_rules(val: pd.DataFrame, test: pd.DataFrame, **targets: float) -> dict[str, Any]:
    """What each threshold rule chooses on val, and what follows on val and on test.

    Args:
        val, test: a row a video: `label, score`.
        targets: `fpr_target` and `cost_ratio` of `choose_threshold`.

    Returns:
        Rule to `threshold`, and `val` and `test`: the point values of `score_table`.
    """
    result: dict[str, Any] = {}
    for rule in decisions.THRESHOLD_RULES:
        threshold = decisions.choose_threshold(y_true_of(val), val["score"], rule=rule, **targets)
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
        "coverage": resampling.group_mean(decided, **kept),
        "error": resampling.group_mean(wrong, where=decided, **kept),
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
        own = resampling.bootstrap(y_true, score, threshold=decision["threshold"], **kept)
        result[name] = {key: own[key] for key in ("roc_auc", "balanced_accuracy", "log_loss")}
        result[name] |= {key: decision[key] for key in ("temperature", "aggregation", "threshold")}
        if first is None:
            first = videos, decision["threshold"]
            continue
        pair = resampling.paired_bootstrap(
            *(y_true, first[0]["score"], score),
            threshold=first[1],
            other_threshold=decision["threshold"],
            **kept,
        )
        result[name]["roc_auc_difference"] = pair["roc_auc"]
        result[name]["p_value"] = resampling.exchange_test(y_true, first[0]["score"], score, **kept)
    return result


def generalisation(videos: pd.DataFrame, *, threshold: float, **settings: Any) -> dict[str, Any]:
    """How a frozen model does on one set of videos: counts, AUC, errors at the fixed threshold.

    Args:
        videos: of `judge_videos`.
        threshold: chosen on val of the data trained on.
        settings: `n_resamples, seed` of the bootstrap.
    """
    table = resampling.bootstrap(
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
