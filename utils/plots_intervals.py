"""Figures of numbers with an interval: leakage ladder, baselines, every score, slices.

An interval is a mapping `{value, low, high}`, as in metrics.json; `low` and `high` may be missing,
and a value of None is drawn as the words "not defined".
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from utils.artifacts import CLASSES
from utils.plots import INK, MUTED, get_axes, require_columns

METRIC_NAMES = {
    "roc_auc": "ROC AUC",
    "average_precision": "Average precision",
    "balanced_average_precision": "Average precision, classes weighing the same",
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "precision": "Precision",
    "balanced_precision": "Precision, classes weighing the same",
    "recall": "Recall",
    "specificity": "Specificity",
    "f1": "F1",
    "balanced_f1": "F1, classes weighing the same",
    "tpr_at_fpr_1": "Recall at 1% false alarms",
    "tpr_at_fpr_5": "Recall at 5% false alarms",
    "eer": "Equal error rate",
    "log_loss": "Log loss",
    "balanced_log_loss": "Log loss, classes weighing the same",
    "brier": "Brier score",
    "balanced_brier": "Brier score, classes weighing the same",
    "ece": "Expected calibration error",
    "balanced_ece": "Expected calibration error, classes weighing the same",
}
LOWER_IS_BETTER = {
    name for name in METRIC_NAMES if name.split("_")[-1] in ("eer", "loss", "brier", "ece")
}
#: Those that a figure shows: all from 0 to 1, higher is better.
DRAWN = (
    *("roc_auc", "average_precision", "balanced_accuracy", "accuracy", "precision", "recall"),
    *("specificity", "f1", "tpr_at_fpr_1", "tpr_at_fpr_5"),
)
#: What is grouped by in slices, as a heading.
SLICE_NAMES = {
    "method": "Method (its fakes against all real videos)",
    "dataset": "Data set",
    "faces": "Faces in a frame",
    "face_size": "Size of the face (pixels)",
    "brightness": "Brightness (0 to 1)",
    "sharpness": "Sharpness (log10 variance of the Laplacian)",
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
    """The scores of DRAWN with their intervals, by crop and video, beside "always the majority".

    The others are left to the table: they are better when lower, or variants.

    Args:
        metrics: `{"frame": {metric: {value, low, high}}, "video": {...}}`.
        baselines: `{"frame": {metric: value}, "video": {...}}` of the majority answer.
        ax: where to draw.
    """
    names = [name for name in DRAWN if any(name in metrics.get(k, {}) for k in ("frame", "video"))]
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


def plot_slices(slices: Mapping[str, Mapping[str, Any]], *, ax: Axes | None = None) -> Axes:
    """ROC AUC of each group of the test split, under a heading for what it is grouped by.

    Args:
        slices: `{by: {name: {"n": int, "small": bool, "roc_auc": {value, low, high}}}}`.
        ax: where to draw.
    """
    names: list[str] = []
    headings: list[int] = []
    plain: list[tuple[int, Any]] = []
    small: list[tuple[int, Any]] = []
    for by, groups in slices.items():
        headings.append(len(names))
        names.append(SLICE_NAMES.get(by, by.replace("_", " ").capitalize()))
        for name, group in groups.items():
            (small if group.get("small") else plain).append((len(names), group.get("roc_auc")))
            mark = ", small" if group.get("small") else ""
            names.append(f"{name} (n = {group['n']:,}{mark})")
    ax = get_axes(ax, figsize=(6.6, 1.5 + 0.34 * len(names)))
    for rows, look in ((plain, {}), (small, {"color": MUTED, "marker": "D"})):
        draw_intervals(ax, [row for _, row in rows], [y for y, _ in rows], **look)  # type: ignore[arg-type]
    finish_rows(ax, names, "ROC AUC of groups of the test videos")
    groups_at = [y for y in range(len(names)) if y not in headings]
    ax.set_yticks(groups_at, [names[y] for y in groups_at])
    for y in headings:  # a heading stands over the plot, where it has room
        ax.text(0.01, y + 0.12, names[y], transform=ax.get_yaxis_transform(), fontsize=10,
                fontweight="bold", va="center", bbox={"fc": "white", "ec": "none", "pad": 1.5},
                )  # fmt: skip
    return ax


CORRUPTION_NAMES = {
    "jpeg": ("JPEG", "quality"),
    "blur": ("Blur", "deviation, px of 160"),
    "downscale": ("Shrunk and back", "factor"),
    "noise": ("Noise", "deviation, grey levels"),
    "darker": ("Darker", "factor"),
    "brighter": ("Brighter", "factor"),
    "contrast": ("Less contrast", "factor"),
    "h264": ("H.264", "constant rate factor"),
}


def plot_robustness(robustness: Mapping[str, Any]) -> Figure:
    """ROC AUC by video against the severity of each corruption, from clean to the right.

    Args:
        robustness: `{"clean": {"roc_auc": {value, low, high}}, corruption: {severity: …}}`.
    """
    kinds = [name for name in robustness if name != "clean"]
    columns = min(4, len(kinds))
    n_rows = -(-len(kinds) // columns)
    figure, axes = plt.subplots(
        n_rows, columns, figsize=(8, 2.5 * n_rows), sharey=True, squeeze=False
    )
    clean = robustness["clean"]["roc_auc"]
    for ax, name in zip(axes.flat, kinds, strict=False):
        rows = {"clean": robustness["clean"], **robustness[name]}
        points = [row["roc_auc"] for row in rows.values()]
        for x, point in enumerate(points):
            if not pd.isna(point.get("low")):
                ax.plot([x, x], [point["low"], point["high"]], color=MUTED, linewidth=1.6)
        values = [float("nan") if row["value"] is None else row["value"] for row in points]
        ax.plot(range(len(values)), values, "o-", color=INK, markersize=5)
        ax.axhline(0.5, color=MUTED, linestyle=":", linewidth=1.6)
        if clean["value"] is not None:
            ax.axhline(clean["value"], color=INK, linestyle="--", linewidth=0.9)
        ax.set_xticks(range(len(rows)), list(rows), fontsize=9)
        ax.set_xlim(-0.35, len(rows) - 0.65)
        title, unit = CORRUPTION_NAMES.get(name, (name, "severity"))
        ax.set_title(title, fontsize=11, pad=6)
        ax.set_xlabel(unit, fontsize=9)
    for ax in axes.flat[len(kinds) :]:
        ax.set_axis_off()
    for ax in axes[:, 0]:
        ax.set_ylabel("ROC AUC by video", fontsize=10)
    return figure
