"""What a part of the results looks like: its figures, its table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.evaluation.results import RATES, Evaluation
from utils.report.figures import plot_gallery, plot_heat_maps
from utils.report.score_figures import (
    plot_calibration,
    plot_confusion,
    plot_history,
    plot_metric_intervals,
    plot_precision_recall,
    plot_robustness,
    plot_roc,
    plot_score_histogram,
    plot_slices,
)
from utils.report.words import interval, metric_names, number
from utils.stats.decisions import Decision
from utils.stats.metrics import y_true_of


def draw(ev: Evaluation, parts: Mapping[str, Any]) -> Iterator[tuple[str, Axes | Figure | None]]:
    """The figures of what `parts` holds, one after the other.

    Args:
        parts: of metrics.json, of the methods of `Evaluation` and of `stress`; `heat_maps` of
            `explain`, `errors` of `worst_errors`, `history` of history.csv.
    Yields:
        Name of the file in `figures/`, and the figure; None where there is nothing to draw.
    """
    if "confusion" in parts:
        yield from _draw_headline(ev, parts)
    plots: dict[str, Callable[[Any], Axes | Figure]] = {
        "slices": plot_slices,
        "robustness": plot_robustness,
        "heat_maps": plot_heat_maps,
        "errors": plot_gallery,
    }
    for name, plot in plots.items():
        if name in parts:
            yield name, plot(parts[name]) if parts[name] else None
    if "history" in parts:
        axes = plot_history(parts["history"], best_epoch=ev.scorer.facts["best_epoch"])
        yield "history", axes[0]


def _draw_headline(ev: Evaluation, head: Mapping[str, Any]) -> Iterator[tuple[str, Axes]]:
    test, crops, threshold = ev.test, ev.test_crops, ev.decision.threshold
    pair, scores = (y_true_of(test), test["score"]), head["video"]
    yield "confusion", plot_confusion(head["confusion"]["video"], title="Test videos")
    yield "roc", plot_roc(*pair, interval=scores["roc_auc"], threshold=threshold)
    average = scores["average_precision"]
    yield "precision_recall", plot_precision_recall(*pair, interval=average, threshold=threshold)
    yield "scores", plot_score_histogram(*pair, threshold=threshold, band=ev.decision.band)
    truth, before = y_true_of(crops), Decision().score(crops["logit"])
    calibration = plot_calibration(truth, crops["score"], before=before, subset="test crops")
    yield "calibration", calibration
    yield "intervals", plot_metric_intervals(head, baselines=head["baselines"]["majority"])


def tabulate(kind: str, parts: Any) -> pd.DataFrame:
    """A table to look at.

    Args:
        kind: "scores" or "baselines" of `Evaluation.headline` (with `models`), "rules" of
            `compare_rules`, "elsewhere" of `judge_elsewhere`.
        parts: what they gave.
    """
    tables = {"scores": _scores, "baselines": _baselines, "rules": _rules, "elsewhere": _elsewhere}
    return pd.DataFrame(tables[kind](parts)).T


def _scores(head: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    def row(name: str) -> dict[str, str]:
        cells = {}
        for level, title in (("video", "videos"), ("frame", "crops")):
            cells[title] = number(head[level][name])
            cells[f"{title}: 95% interval"] = interval(head[level][name])
            cells[f"{title}: majority"] = number(head["baselines"]["majority"][level].get(name))
        return cells

    return {title: row(name) for name, title in metric_names(head).items()}


def _baselines(parts: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    beside, models = parts["baselines"], parts.get("models", {})
    rows = {
        "this model": parts["video"],
        "the files alone": beside["zero_pixel"],
        "labels shuffled": beside["shuffled_labels"],
        **{name: row for name, row in models.items() if "p_value" in row},
    }
    return {
        name: {
            "ROC AUC": number(row["roc_auc"]),
            "95% interval": interval(row["roc_auc"]),
            "this model less it": interval(row.get("roc_auc_difference")),
            "p": number(row["p_value"]) if "p_value" in row else "",
        }
        for name, row in rows.items()
    }


def _rules(parts: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    return {
        rule: {"threshold": number(row["threshold"])}
        | {
            f"{part}: {name}".replace("_", " "): number(row[part][name])
            for name in RATES
            for part in ("val", "test")
        }
        for rule, row in parts["rules"].items()
    }


def _elsewhere(rows: Any) -> dict[str, dict[str, str]]:
    return {
        row["tested_on"]: {
            "ROC AUC": number(row["roc_auc"]),
            "95% interval": interval(row["roc_auc"]),
            **{name.replace("_", " "): number(row[name]) for name in RATES},
        }
        for row in rows
    }
