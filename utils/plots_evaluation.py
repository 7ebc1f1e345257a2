"""Figures of training and scores: history, errors, curves, distributions, a video over time.

`y_true` is (n,) with 1 = FAKE, the positive class; `y_score` is (n,), P(FAKE) in [0, 1]. An
interval is a mapping `{value, low, high}`. Numbers that are not defined are said to be so.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator
from sklearn.metrics import precision_recall_curve, roc_auc_score, roc_curve

from utils.artifacts import CLASSES
from utils.plots import (
    INK,
    MUTED,
    get_axes,
    plot_feature_by_class,
    require_columns,
)


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
