"""Figures of training and scores, each number with its interval.

`y_true` is (n,) with 1 = FAKE, the positive class; `y_score` is (n,), P(FAKE) in [0, 1]. An
interval is a mapping `{value, low, high}`, as in metrics.json; `low` and `high` may be missing, and
a value of None is drawn as the words "not defined".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from utils.report.figures import INK, MUTED, get_axes, plot_feature_by_class, require_columns
from utils.run.artifacts import CLASSES


def plot_history(
    history: pd.DataFrame, *, best_epoch: int | None = None, axes: Sequence[Axes] | None = None
) -> np.ndarray:
    """Losses of train and val, and the ROC AUC on val, over the epochs.

    Args:
        history: `epoch, train_loss, val_loss, val_auc`, one row an epoch.
        best_epoch: the epoch that is kept; that of the highest `val_auc` when not given.
        axes: two Axes: losses, then AUC.
    Returns:
        The two Axes.
    """
    require_columns(history, "epoch", "train_loss", "val_loss", "val_auc")
    if best_epoch is None and history["val_auc"].notna().any():
        best_epoch = int(history.loc[history["val_auc"].idxmax(), "epoch"])
    if axes is None:
        axes = plt.subplots(1, 2, figsize=(7, 3.6))[1]
    loss, auc = axes
    loss.plot(history["epoch"], history["train_loss"], "--", color=MUTED, marker=".", label="train")
    for ax, column in ((loss, "val_loss"), (auc, "val_auc")):
        ax.plot(history["epoch"], history[column], color=INK, marker=".", label="val")
        for epoch, value in history.loc[history["epoch"] == best_epoch, ["epoch", column]].values:
            ax.axvline(epoch, color=MUTED, linestyle=":", linewidth=1.6)
            ax.plot(epoch, value, "o", color=INK, markersize=9, fillstyle="none",
                    label=f"kept: {value:.3f}, epoch {epoch:.0f}")  # fmt: skip
        ax.set(xlabel="Epoch", xlim=(0.5, history["epoch"].max() + 0.5))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, columnspacing=1)
    loss.set_title("Loss (cross-entropy)")
    auc.set_title("ROC AUC on val (positive: FAKE)")
    return np.asarray(axes)


def live_history(display: Any) -> Callable[[pd.DataFrame], None]:
    """What draws `plot_history` anew after every epoch.

    Args:
        display: the handle of what is shown; its `update(figure)` replaces it.
    """

    def draw(history: pd.DataFrame) -> None:
        figure = plot_history(history)[0].figure
        display.update(figure)
        plt.close(figure)

    return draw


def plot_confusion(
    matrix: Sequence[Sequence[int]], *, title: str = "Confusion matrix", ax: Axes | None = None
) -> Axes:
    """Counts and shares of each true class.

    Args:
        matrix: [[tn, fp], [fn, tp]] with FAKE as the positive class.
        title: what was counted, for example "test videos"; n is added.
        ax: where to draw.
    """
    counts = np.asarray(matrix, dtype=int)  # (true, decided)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax = get_axes(ax, figsize=(5.2, 4.6))
    ax.imshow(shares, cmap="Greys", vmin=0, vmax=2)  # dark ink is readable on every shade
    for (row, column), count in np.ndenumerate(counts):
        share = shares[row, column]
        text = f"{count:,}\n{share:.1%} of {CLASSES[row]}"
        ax.text(column, row, text, ha="center", va="center", fontsize=12, linespacing=1.5)
    ax.set_xticks([0, 1], CLASSES)
    ax.set_yticks([0, 1], CLASSES, rotation=90, va="center")
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.set(xlabel="Decision", ylabel="Truth")
    ax.set_title(f"{title}: n = {counts.sum():,}")
    return ax


def count_classes(y_true: Any, subset: str) -> str:
    """ "40 test videos (10 REAL, 30 FAKE)": the n of a title."""
    labels = np.asarray(y_true)
    fakes = int((labels == 1).sum())
    return f"{len(labels):,} {subset} ({len(labels) - fakes:,} REAL, {fakes:,} FAKE)"


def draw_undefined(ax: Axes) -> None:
    """Say that a curve needs both classes."""
    ax.text(0.5, 0.5, "not defined: only one class", ha="center", va="center", color=MUTED,
            transform=ax.transAxes)  # fmt: skip


def draw_unit_square(ax: Axes, xlabel: str, ylabel: str) -> None:
    """Both axes from 0 to 1 at the same scale."""
    ax.set(xlabel=xlabel, ylabel=ylabel, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")


def plot_roc(
    y_true: Any,
    y_score: Any,
    *,
    interval: Mapping[str, Any] | None = None,
    threshold: float | None = None,
    subset: str = "test videos",
    ax: Axes | None = None,
) -> Axes:
    """ROC curve with chance, the AUC with its `interval`, and the point of the threshold."""
    y_true, y_score = np.asarray(y_true), np.asarray(y_score)
    ax = get_axes(ax, figsize=(6, 5.4))
    draw_unit_square(
        ax, "False positive rate (REAL called FAKE)", "True positive rate (FAKE found)"
    )
    ax.plot([0, 1], [0, 1], ":", color=MUTED, label="chance (AUC 0.5)")
    if len(np.unique(y_true)) < 2:
        draw_undefined(ax)
    else:
        text = f"model (AUC {roc_auc_score(y_true, y_score):.3f}"
        if interval and not pd.isna(interval.get("low")):
            text += f", {interval['low']:.3f} to {interval['high']:.3f}"
        ax.plot(*roc_curve(y_true, y_score, drop_intermediate=False)[:2], color=INK,
                label=text + ")")  # fmt: skip
        if threshold is not None:
            called = y_score >= threshold
            ax.plot(called[y_true == 0].mean(), called[y_true == 1].mean(), "o", markersize=9,
                    color=INK, markerfacecolor="white", markeredgewidth=2,
                    label=f"threshold {threshold:.2f}")  # fmt: skip
    ax.legend(loc="lower right")
    ax.set_title(f"ROC curve\n{count_classes(y_true, subset)}")
    return ax


def plot_precision_recall(
    y_true: Any,
    y_score: Any,
    *,
    interval: Mapping[str, Any] | None = None,
    threshold: float | None = None,
    subset: str = "test videos",
    ax: Axes | None = None,
) -> Axes:
    """Precision over recall beside the prevalence, which calling everything FAKE reaches."""
    y_true, y_score = np.asarray(y_true), np.asarray(y_score)
    prevalence = float((y_true == 1).mean())
    ax = get_axes(ax, figsize=(6, 5.4))
    draw_unit_square(ax, "Recall (share of FAKE found)", "Precision (share of calls that are FAKE)")
    ax.axhline(prevalence, color=MUTED, linestyle=":", label=f"all called FAKE ({prevalence:.3f})")
    if len(np.unique(y_true)) < 2:
        draw_undefined(ax)
    else:
        precision, recall, _ = precision_recall_curve(y_true, y_score)
        text = f"model (AP {-np.sum(np.diff(recall) * precision[:-1]):.3f}"
        if interval and not pd.isna(interval.get("low")):
            text += f", {interval['low']:.3f} to {interval['high']:.3f}"
        ax.plot(recall, precision, color=INK, drawstyle="steps-post", label=text + ")")
        called = y_score >= (threshold if threshold is not None else np.inf)
        if called.any():
            ax.plot(called[y_true == 1].mean(), y_true[called].mean(), "o", markersize=9,
                    color=INK, markerfacecolor="white", markeredgewidth=2,
                    label=f"threshold {threshold:.2f}")  # fmt: skip
    ax.legend(loc="lower left")
    ax.set_title(f"Precision and recall\n{count_classes(y_true, subset)}")
    return ax


def plot_score_histogram(
    y_true: Any,
    y_score: Any,
    *,
    threshold: float | None = None,
    band: tuple[float, float] | None = None,
    subset: str = "test videos",
    ax: Axes | None = None,
) -> Axes:
    """Scores by class, each scaled to its own total, with the threshold and the UNSURE band."""
    labels = np.where(np.asarray(y_true) == 1, "FAKE", "REAL")
    table = pd.DataFrame({"score": np.asarray(y_score, dtype=float), "label": labels})
    ax = plot_feature_by_class(
        table, "score", label="Score: calibrated P(FAKE)", bins=np.linspace(0, 1, 26), ax=ax
    )
    if band is not None and band[0] < band[1]:
        ax.axvspan(*band, color=MUTED, alpha=0.15, linewidth=0,
                   label=f"UNSURE: {band[0]:.2f} to {band[1]:.2f}")  # fmt: skip
    if threshold is not None:
        ax.axvline(threshold, color=INK, linewidth=1.6, label=f"threshold {threshold:.2f}")
    ax.set_xlim(0, 1)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    ax.set_title(f"Scores: {count_classes(y_true, subset)}")
    return ax


def plot_calibration(
    y_true: Any,
    y_score: Any,
    *,
    before: Any = None,
    bins: int = 8,
    subset: str = "test videos",
    ax: Axes | None = None,
) -> Axes:
    """Share of FAKE over the mean score, in bins of equal count; the diagonal is calibrated.

    Args:
        before: the same scores before they were divided by the temperature; drawn beside.
        y_true, y_score, bins, subset, ax: as their names say.
    """
    y_true = np.asarray(y_true)
    ax = get_axes(ax, figsize=(6, 5.4))
    draw_unit_square(ax, "Mean score: P(FAKE)", "Share of FAKE")
    ax.plot([0, 1], [0, 1], ":", color=MUTED, label="calibrated")
    series = [(before, "s--", MUTED, "before the temperature"), (y_score, "o-", INK, "after")]
    for scores, look, color, name in series:
        if scores is None:
            continue
        scores = np.asarray(scores, dtype=float)
        order = np.argsort(scores, kind="stable")
        parts = [part for part in np.array_split(order, bins) if len(part)]
        name = f"{name}, {len(parts)} bins" if before is not None else f"{len(parts)} bins"
        ax.plot([scores[part].mean() for part in parts], [y_true[part].mean() for part in parts],
                look, color=color, label=f"{name} of equal count")  # fmt: skip
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncols=1, fontsize=10)
    ax.set_title(f"Calibration\n{count_classes(y_true, subset)}")
    return ax


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
