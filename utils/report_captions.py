"""The captions of the report: one sentence or two that read each figure with its numbers."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from utils.report_text import (
    as_number,
    count,
    failures,
    hardest,
    interval,
    number,
    percent,
    weakest,
)


def captions(metrics: Mapping[str, Any], history: pd.DataFrame | None) -> dict[str, str]:
    """One line for each known figure that reads it with its numbers."""
    video, frame, baselines = metrics["video"], metrics["frame"], metrics["baselines"]
    n, band = metrics.get("n", {}).get("video", {}), metrics.get("abstention") or {}
    auc, precision = video.get("roc_auc"), video.get("average_precision")
    within = f" ({interval(auc)})" if interval(auc) else ""
    balanced = "balanced_accuracy"
    majority = baselines.get("majority", {}).get("video", {})
    stages = metrics.get("calibration") or {}
    before, after = (stages.get(stage, {}).get("ece") for stage in ("crops_before", "crops_after"))
    has_band = as_number(band.get("low")) is not None and band["low"] != band.get("high")
    unsure = (
        f"; between {number(band['low'], 2)} and {number(band['high'], 2)} the answer is UNSURE."
        if has_band
        else "."
    )
    lines = {
        "roc": f"The area under the curve is {number(auc)}{within}; the diagonal is chance.",
        "precision_recall": f"Average precision is {number(precision)}; calling everything FAKE "
        f"reaches {number(majority.get('average_precision'))}.",
        "confusion": " ".join(failures({**metrics, "slices": {}, "robustness": {}})),
        "scores": f"Scores from {number(metrics['threshold'], 2)} on are called FAKE" + unsure,
        "intervals": f"Balanced accuracy is {number(frame.get(balanced))} by crop and "
        f"{number(video.get(balanced))} by video, against {number(majority.get(balanced))} for "
        "always answering the majority (crosses).",
        "calibration": "On the diagonal a score is the share of fakes among the crops that get it. "
        f"Dividing the logits by {number(metrics['temperature'], 2)}, chosen on val, takes the "
        f"calibration error of the test crops from {number(before)} to {number(after)}.",
    }
    lines["slices"] = "Each group of fakes against all real test videos."
    group = weakest(metrics)
    if group:
        by, name, auc = group
        lines["slices"] = (
            f"The weakest group by {by.replace('_', ' ')} is {name}, with {number(auc)}."
        )
    if any(
        row.get("small") for rows in metrics.get("slices", {}).values() for row in rows.values()
    ):
        lines["slices"] += " Grey groups are small: their intervals are rough."
    matrix = metrics.get("confusion", {}).get("video")
    if matrix:
        wrong, total = matrix[0][1] + matrix[1][0], sum(map(sum, matrix))
        lines["errors"] = (
            f"{count(wrong)} of {count(total)} test videos are decided wrongly; these are furthest "
            "on the wrong side. Left their frames, right the training faces that the network takes "
            "for most alike; frames in the colour of the truth (blue REAL, vermilion FAKE)."
        )
    worst = hardest(metrics)
    if worst:
        clean = metrics["robustness"]["clean"]
        lines["robustness"] = (
            f"Clean pictures of the same {count(clean.get('n'))} videos reach "
            f"{number(clean['roc_auc'])} (dashed); lowest is {worst[0]} {worst[1]} with "
            f"{number(worst[2]['roc_auc'])}. Bars are 95% intervals, the dots at 0.5 chance."
        )
    why = metrics.get("explanation") or {}
    if why:
        lines["heat_maps"] = (
            "Vermilion parts speak for FAKE, blue ones for REAL; the number is P(FAKE). "
            + _sanity(why)
        )
    best = metrics.get("model", {}).get("best_epoch")
    if history is not None and best in set(history["epoch"]):
        row = history.loc[history["epoch"] == best].iloc[0]
        lines["history"] = (
            f"Epoch {best} of {len(history)} was kept, with a ROC AUC on val of "
            f"{number(row['val_auc'])} and a loss of {number(row['val_loss'])}."
        )
    if n:
        lines["roc"] += f" {count(n.get('REAL'))} real and {count(n.get('FAKE'))} fake videos."
    return lines


def _sanity(why: Mapping[str, Any]) -> str:
    """What the two checks of the heat maps allow to be read from them."""
    same = as_number(why.get("agreement_with_random"))
    if same is None:
        words = "Whether random weights give the same maps was not measured."
    elif same < 0.5:
        words = (
            f"Maps of a network of random weights correlate with them at {number(same)} only, so "
            "they are not due to its build alone."
        )
    else:
        words = (
            f"A network of random weights gives much the same maps (correlation {number(same)}): "
            "do not read them as reasons."
        )
    aimed = why.get("pointing") or {}
    if aimed.get("n"):
        words += (
            f" The hottest place lies in the manipulated part in {percent(aimed['hit'])} of "
            f"{count(aimed['n'])} fake crops, against {percent(aimed['chance'])} by chance"
        )
        low = as_number(aimed["gain"].get("low"))
        unclear = low is None or low <= 0
        words += ", which does not rule out chance." if unclear else "."
    return words
