"""Figures of numbers with an interval: leakage ladder, baselines, every score, slices.

An interval is a mapping `{value, low, high}`, as in metrics.json; `low` and `high` may be missing,
and a value of None is drawn as the words "not defined".
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from utils.artifacts import CLASSES
from utils.plots import INK, MUTED, get_axes, require_columns

METRIC_NAMES = {
    "roc_auc": "ROC AUC",
    "average_precision": "Average precision",
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "f1": "F1",
    "log_loss": "Log loss",
}
LADDER = {
    "frame": "by frame\n(a video on both sides)",
    "video": "by video\n(a scene on both sides)",
    "source": "by source\n(nothing shared)",
}
AUC_LABEL = "ROC AUC (positive class: FAKE)"


def draw_intervals(
    ax: Axes,
    rows: Sequence[Mapping[str, Any] | None],
    positions: Sequence[float],
    *,
    label: str | None = None,
    color: str = INK,
    marker: str = "o",
) -> None:
    """Draw `{value, low, high}` rows as dots with whiskers, with the numbers at the right."""
    for y, row in zip(positions, rows, strict=True):
        text = "not defined"
        if row is not None and not pd.isna(row.get("value")):
            text = f"{row['value']:.3f}"
            if not pd.isna(row.get("low")) and not pd.isna(row.get("high")):
                text += f" ({row['low']:.3f} to {row['high']:.3f})"
                ax.plot([row["low"], row["high"]], [y, y], "|-", color=color, markersize=9,
                        markeredgewidth=1.8)  # fmt: skip
            ax.plot([row["value"]], [y], marker, color=color, markersize=7.5, label=label)
            label = None  # one entry in the legend for the series
        ax.annotate(text, (1, y), xycoords=("axes fraction", "data"), xytext=(8, 0), va="center",
                    textcoords="offset points", fontsize=10, color=color)  # fmt: skip


def finish_rows(ax: Axes, names: Sequence[str], title: str, *, chance: bool = True) -> None:
    """Name the rows from the top down; dot the line of chance, an AUC of 0.5."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.45, -0.55)
    ax.grid(axis="y", visible=False)
    ax.set(xlabel=AUC_LABEL, ylabel="")
    if chance:
        ax.axvline(0.5, color=MUTED, linestyle=":", linewidth=1.8, zorder=1)
        ax.text(0.5, 1.01, "chance", transform=ax.get_xaxis_transform(), ha="center", va="bottom",
                fontsize=9.5, color=MUTED)  # fmt: skip
    ax.set_title(title, pad=22 if chance else None)


def plot_leakage_ladder(ladder: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """ROC AUC of the same features under laxer and stricter splits.

    Args:
        ladder: columns `split` ("frame", "video", "source"), `roc_auc`, `low`, `high` and
            `flatters`: how much the AUC exceeds that of the split by source.
        ax: where to draw.
    """
    require_columns(ladder, "split", "roc_auc", "low", "high", "flatters")
    rows = ladder.rename(columns={"roc_auc": "value"}).to_dict("records")
    ax = get_axes(ax, figsize=(6.6, 1.7 + 0.75 * len(rows)))
    draw_intervals(ax, rows, range(len(rows)))
    names = []
    for row in rows:
        name, extra = LADDER.get(row["split"], str(row["split"])), row["flatters"]
        is_number = isinstance(extra, (int, float)) and not isinstance(extra, bool)
        if is_number and not pd.isna(extra) and extra != 0:
            name += f"\n{'flatters' if extra > 0 else 'lower'} by {abs(extra):.3f}"
        names.append(name)
    finish_rows(ax, names, "Leakage ladder: the same features, split in three ways")
    return ax


def plot_zero_pixel(result: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """ROC AUC that is reached without looking at a pixel: each feature alone, then all together.

    Args:
        result: `{"roc_auc": {value, low, high}, "features": [{"name", "roc_auc" or None}, ...]}`.
        ax: where to draw.
    """
    features = list(result.get("features", []))
    names = [str(feature["name"]).replace("_", " ") for feature in features]
    for i, feature in enumerate(features):
        names[i] += "\n(the same for all)" if feature.get("constant") else ""
    names.append("all together")
    ax = get_axes(ax, figsize=(6.6, 1.8 + 0.42 * len(names)))
    alone = [{"value": feature["roc_auc"]} for feature in features]
    draw_intervals(ax, alone, range(len(alone)), color=MUTED, marker="D")
    draw_intervals(ax, [result.get("roc_auc")], [len(alone)])
    finish_rows(ax, names, "Zero-pixel baseline: what the files give away")
    ax.get_yticklabels()[-1].set_fontweight("bold")
    return ax


def plot_metric_intervals(
    metrics: Mapping[str, Any],
    *,
    baselines: Mapping[str, Any] | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Every score with its interval, by crop and by video, beside "always the majority".

    Log loss is left to the table: it has another unit and is better when lower.

    Args:
        metrics: `{"frame": {metric: {value, low, high}}, "video": {...}}`.
        baselines: `{"frame": {metric: value}, "video": {...}}` of the majority answer.
        ax: where to draw.
    """
    names = [
        name
        for name in METRIC_NAMES
        if name != "log_loss" and any(name in metrics.get(k, {}) for k in ("frame", "video"))
    ]
    ax = get_axes(ax, figsize=(6.6, 1.7 + 0.62 * len(names)))
    looks = {"frame": ("crops", MUTED, "o", -0.19), "video": ("videos", INK, "s", 0.19)}
    for level, (label, color, marker, offset) in looks.items():
        if level not in metrics:
            continue
        positions = [y + offset for y in range(len(names))]
        rows = [metrics[level].get(name) for name in names]
        draw_intervals(ax, rows, positions, label=label, color=color, marker=marker)
        majority = (baselines or {}).get(level, {})
        known = [(majority[name], y) for name, y in zip(names, positions, strict=True)
                 if not pd.isna(majority.get(name))]  # fmt: skip
        if known:
            ax.plot(*zip(*known, strict=True), "x", color=color, markersize=7, markeredgewidth=1.8,
                    label=f"always the majority, {label}")  # fmt: skip
    sizes = [
        f"{sum(metrics['n'][level].get(name, 0) for name in CLASSES):,} {looks[level][0]}"
        for level in looks
        if level in metrics.get("n", {})
    ]
    title = ": ".join(["Scores on test", *filter(None, [", ".join(sizes)])])
    finish_rows(ax, [METRIC_NAMES[name] for name in names], title, chance=False)
    ax.set_xlabel("Score with interval (positive class: FAKE)")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    return ax


def plot_slices(
    groups: Mapping[str, Mapping[str, Any]], *, by: str = "method", ax: Axes | None = None
) -> Axes:
    """ROC AUC of each group of the test split.

    Args:
        groups: `{name: {"n": int, "roc_auc": {value, low, high}}}`.
        by: what the groups are.
        ax: where to draw.
    """
    ax = get_axes(ax, figsize=(6.6, 1.7 + 0.5 * len(groups)))
    draw_intervals(ax, [group.get("roc_auc") for group in groups.values()], range(len(groups)))
    names = [f"{name} (n = {group['n']:,})" for name, group in groups.items()]
    finish_rows(ax, names, f"ROC AUC by {by} on test")
    return ax
