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
from sklearn.calibration import CalibrationDisplay
from sklearn.metrics import ConfusionMatrixDisplay, PrecisionRecallDisplay, RocCurveDisplay

from utils.report import words
from utils.report.figures import INK, MUTED, get_axes, plain, plot_feature_by_class
from utils.run.artifacts import CLASSES

LADDER = {
    "frame": "by frame\n(a video on both sides)",
    "video": "by video\n(a scene on both sides)",
    "source": "by source\n(no scene shared)",
    "person": "by person\n(nobody shared)",
    "group": "by group\n(no part shared)",
}


def plot_history(history: pd.DataFrame, *, best_epoch: int | None = None) -> np.ndarray:
    """Losses of train and val, and the ROC AUC on val, over the epochs.

    Args:
        history: `epoch, train_loss, val_loss, val_auc`, one row an epoch.
        best_epoch: the epoch that is kept; that of the lowest `val_loss` when not given.
    Returns: the two Axes.
    """
    if best_epoch is None and history["val_loss"].notna().any():
        best_epoch = history.loc[history["val_loss"].idxmin(), "epoch"]
    _, (loss, auc) = plt.subplots(1, 2, figsize=(7, 3.6))
    loss.plot(history["epoch"], history["train_loss"], "--", color=MUTED, marker=".", label="train")
    for ax, column in ((loss, "val_loss"), (auc, "val_auc")):
        ax.plot(history["epoch"], history[column], color=INK, marker=".", label="val")
        for epoch, value in history.loc[history["epoch"] == best_epoch, ["epoch", column]].values:
            ax.axvline(epoch, color=MUTED, linestyle=":", linewidth=1.6)
            ax.plot(epoch, value, "o", color=INK, markersize=9, fillstyle="none",
                    label=f"kept: {words.number(value)}, epoch {epoch:.0f}")  # fmt: skip
        ax.set(xlabel="Epoch", xlim=(0.5, history["epoch"].max() + 0.5))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, columnspacing=1)
    loss.set_title("Loss (cross-entropy)")
    auc.set_title("ROC AUC on val (positive: FAKE)")
    return np.array([loss, auc])


def live_history(display: Any) -> Callable[[pd.DataFrame], None]:
    """What draws `plot_history` anew after every epoch, by the `update(figure)` of `display`."""

    def draw(history: pd.DataFrame) -> None:
        figure = plot_history(history)[0].figure
        display.update(figure)
        plt.close(figure)

    return draw


def plot_confusion(matrix: Sequence[Sequence[int]], *, title: str, ax: Axes | None = None) -> Axes:
    """Counts and shares of each true class, of [[tn, fp], [fn, tp]] with FAKE as the positive one.

    `title` says what was counted, for example "Test videos"; n is added.
    """
    counts = np.asarray(matrix, dtype=int)  # (true, decided)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    ax = get_axes(ax, figsize=(5.2, 4.6))
    display = ConfusionMatrixDisplay(shares, display_labels=CLASSES)
    display.plot(ax=ax, cmap="Greys", colorbar=False, im_kw={"vmin": 0, "vmax": 2},
                 text_kw={"color": INK, "fontsize": 12, "linespacing": 1.5})  # fmt: skip
    for (row, column), text in np.ndenumerate(display.text_):
        share = shares[row, column]
        text.set_text(f"{counts[row, column]:,}\n{share:.1%} of {CLASSES[row]}")
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.set(xlabel="Decision", ylabel="Truth")
    ax.set_title(f"{title}: n = {counts.sum():,}")
    return ax


def plot_roc(
    y_true: Any, y_score: Any, *, interval: Any = None, threshold: float, ax: Axes | None = None
) -> Axes:
    """ROC curve with chance, the AUC with its `interval`, and the point of the threshold."""
    y_true, y_score = np.asarray(y_true), np.asarray(y_score)
    ax = get_axes(ax, figsize=(6, 5.4))
    ax.plot([0, 1], [0, 1], ":", color=MUTED, label="chance (AUC 0.5)")
    if _has_both(ax, y_true):
        curve = RocCurveDisplay.from_predictions(y_true, y_score, ax=ax, drop_intermediate=False)
        curve.line_.set(color=INK, label=_named("AUC", curve.roc_auc, interval))
        called = y_score >= threshold
        _mark(ax, called[y_true == 0].mean(), called[y_true == 1].mean(), threshold)
    labels = "False positive rate (REAL called FAKE)", "True positive rate (FAKE found)"
    _finish_square(ax, *labels, f"ROC curve\n{count_classes(y_true)}")
    ax.legend(loc="lower right")
    return ax


def plot_precision_recall(
    y_true: Any, y_score: Any, *, interval: Any = None, threshold: float, ax: Axes | None = None
) -> Axes:
    """Precision over recall beside the prevalence, which calling everything FAKE reaches."""
    y_true, y_score = np.asarray(y_true), np.asarray(y_score)
    ax = get_axes(ax, figsize=(6, 5.4))
    prevalence = float((y_true == 1).mean())
    ax.axhline(prevalence, color=MUTED, linestyle=":", label=f"all called FAKE ({prevalence:.3f})")
    if _has_both(ax, y_true):
        curve = PrecisionRecallDisplay.from_predictions(y_true, y_score, ax=ax)
        curve.line_.set(color=INK, label=_named("AP", curve.average_precision, interval))
        if (called := y_score >= threshold).any():
            _mark(ax, called[y_true == 1].mean(), y_true[called].mean(), threshold)
    labels = "Recall (share of FAKE found)", "Precision (share of calls that are FAKE)"
    _finish_square(ax, *labels, f"Precision and recall\n{count_classes(y_true)}")
    ax.legend(loc="lower left")
    return ax


def plot_calibration(
    y_true: Any, y_score: Any, *, before: Any, subset: str, bins: int = 8, ax: Axes | None = None
) -> Axes:
    """Share of FAKE over the mean score, in bins of equal count; the diagonal is calibrated.

    `before` are the scores of the logits as they are, drawn beside.
    """
    ax = get_axes(ax, figsize=(6, 5.4))
    ax.plot([0, 1], [0, 1], ":", color=MUTED, label="calibrated")
    series = {
        "before calibration": (before, "s", "--", MUTED),
        "after": (y_score, "o", "-", INK),
    }
    for name, (scores, marker, line, color) in series.items():
        curve = CalibrationDisplay.from_predictions(
            y_true, scores, n_bins=bins, strategy="quantile", ref_line=False, ax=ax,
            marker=marker, linestyle=line, color=color,
        )  # fmt: skip
        curve.line_.set_label(f"{name}, {len(curve.prob_pred)} bins of equal count")
    title = f"Calibration\n{count_classes(y_true, subset)}"
    _finish_square(ax, "Mean score: P(FAKE)", "Share of FAKE", title)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16))
    return ax


def _has_both(ax: Axes, y_true: np.ndarray) -> bool:
    """Whether there are both classes, which a curve needs; the Axes says so if not."""
    both = len(np.unique(y_true)) == 2
    if not both:
        ax.text(0.5, 0.5, "not defined: only one class", ha="center", va="center", color=MUTED,
                transform=ax.transAxes, bbox={"fc": "white", "ec": "none"})  # fmt: skip
    return both


def _named(metric: str, value: float, interval: Mapping[str, Any] | None) -> str:
    return f"model: {metric} {words.estimate({**(interval or {}), 'value': value})}"


def _mark(ax: Axes, x: float, y: float, threshold: float) -> None:
    """The operating point of the threshold."""
    ax.plot(x, y, "o", markersize=9, color=INK, markerfacecolor="white", markeredgewidth=2,
            label=f"threshold {threshold:.2f}")  # fmt: skip


def _finish_square(ax: Axes, xlabel: str, ylabel: str, title: str) -> None:
    """Both axes from 0 to 1 at the same scale, in our words."""
    ax.set(xlabel=xlabel, ylabel=ylabel, xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal")
    ax.set_title(title)


def count_classes(y_true: Any, subset: str = "test videos") -> str:
    """ "40 test videos (10 REAL, 30 FAKE)": the n of a title."""
    labels = np.asarray(y_true)
    fakes = int((labels == 1).sum())
    return f"{len(labels):,} {subset} ({len(labels) - fakes:,} REAL, {fakes:,} FAKE)"


def plot_score_histogram(
    y_true: Any, y_score: Any, *, threshold: float, band: Sequence[float], ax: Axes | None = None
) -> Axes:
    """Scores by class, each scaled to its own total, with the threshold and the UNSURE band."""
    labels = np.where(np.asarray(y_true) == 1, "FAKE", "REAL")
    table = pd.DataFrame({"score": np.asarray(y_score, dtype=float), "label": labels})
    ax = plot_feature_by_class(
        table, "score", label="Score: calibrated P(FAKE)", bins=np.linspace(0, 1, 26), ax=ax
    )
    if band[0] < band[1]:
        ax.axvspan(band[0], band[1], color=MUTED, alpha=0.15, linewidth=0,
                   label=f"UNSURE: {band[0]:.2f} to {band[1]:.2f}")  # fmt: skip
    ax.axvline(threshold, color=INK, linewidth=1.6, label=f"threshold {threshold:.2f}")
    ax.set_xlim(0, 1)
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    ax.set_title(f"Scores: {count_classes(y_true)}")
    return ax


def plot_metric_intervals(
    metrics: Mapping[str, Any], *, baselines: Mapping[str, Any], ax: Axes | None = None
) -> Axes:
    """Scores with their intervals, by crop and video, beside "always the majority".

    Left to the table: those that are better when lower, variants, and those without a name.

    Args:
        metrics: `{"frame": {metric: {value, low, high}}, "video": {...}}`; "frame" are the crops.
        baselines: `{"frame": {metric: value}, "video": {...}}` of the majority answer.
    """
    looks = {"frame": ("crops", MUTED, "o", -0.19), "video": ("videos", INK, "s", 0.19)}
    present = {*metrics.get("frame", {}), *metrics.get("video", {})} - {*words.LOWER_IS_BETTER}
    names = [key for key in words.METRIC_NAMES if key in present]
    ax = get_axes(ax, figsize=(6.6, 1.7 + 0.62 * len(names)))
    sizes = []
    for level, (label, color, marker, offset) in looks.items():
        rows, majority = metrics.get(level), baselines.get(level, {})
        if rows is None:
            continue
        places = np.arange(len(names)) + offset
        draw_intervals(ax, [rows.get(name) for name in names], places, label=label, color=color,
                       marker=marker)  # fmt: skip
        known = [words.as_number(majority.get(name)) for name in names]
        if any(value is not None for value in known):
            ax.plot(np.array(known, float), places, "x", color=color, markersize=7,
                    markeredgewidth=1.8, label=f"always the majority, {label}")  # fmt: skip
        if n := metrics.get("n", {}).get(level):
            sizes.append(f"{sum(n.get(name, 0) for name in CLASSES):,} {label}")
    title = "Scores on test" + (f": {', '.join(sizes)}" if sizes else "")
    finish_rows(ax, [words.METRIC_NAMES[name] for name in names], title, chance=False)
    ax.set_xlabel("Score with interval (positive class: FAKE)")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), ncols=2)
    return ax


def plot_leakage_ladder(ladder: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """ROC AUC of the same features under laxer and stricter splits.

    `ladder` has columns `split` (of LADDER), `roc_auc`, `low`, `high` and `flatters`: how much the
    AUC exceeds that of the strictest split, the last one.
    """
    rows = ladder.rename(columns={"roc_auc": "value"}).to_dict("records")
    ax = get_axes(ax, figsize=(6.6, 1.7 + 0.75 * len(rows)))
    draw_intervals(ax, rows, range(len(rows)))
    names = []
    for row in rows:
        extra, name = words.as_number(row["flatters"]), LADDER.get(row["split"], row["split"])
        gain = f"\n{'flatters' if extra > 0 else 'lower'} by {abs(extra):.3f}" if extra else ""
        names.append(name + gain)
    finish_rows(ax, names, "Leakage ladder: the same features, split in several ways")
    return ax


def plot_zero_pixel(result: Mapping[str, Any], *, ax: Axes | None = None) -> Axes:
    """ROC AUC that is reached without looking at a pixel: each feature alone, then all together.

    `result` is `{"roc_auc": {value, low, high}, "features": [{"name", "roc_auc" or None}, ...]}`.
    """
    features = result.get("features", [])
    names = [
        feature["name"].replace("_", " ") + "\n(the same for all)" * bool(feature.get("constant"))
        for feature in features
    ]
    ax = get_axes(ax, figsize=(6.6, 2.2 + 0.42 * len(names)))
    alone = [feature["roc_auc"] for feature in features]
    draw_intervals(ax, alone, range(len(alone)), color=MUTED, marker="D")
    draw_intervals(ax, [result.get("roc_auc")], [len(alone)])
    finish_rows(ax, [*names, "all together"], "Zero-pixel baseline: what the files give away")
    ax.get_yticklabels()[-1].set_fontweight("bold")
    return ax


def plot_slices(slices: Mapping[str, Mapping[str, Any]], *, ax: Axes | None = None) -> Axes:
    """ROC AUC of each group of the test split, under a heading for what it is grouped by.

    `slices` is `{by: {name: {"n": int, "small": bool, "roc_auc": {value, low, high}}}}`.
    """
    rows: list[tuple[str, Any]] = []  # headings have no group
    for by, groups in slices.items():
        rows.append((plain(words.name_of(by, words.SLICE_NAMES)), None))
        for name, group in groups.items():
            mark = ", small" if group.get("small") else ""
            rows.append((f"{plain(name, 30)} (n = {group['n']:,}{mark})", group))
    ax = get_axes(ax, figsize=(8, 1.5 + 0.34 * len(rows)))
    for y, (name, group) in enumerate(rows):
        if group is None:  # over the plot, where it has room
            ax.text(0.01, y + 0.12, name, transform=ax.get_yaxis_transform(), fontsize=10,
                    fontweight="bold", va="center", bbox={"fc": "white", "ec": "none", "pad": 1.5},
                    )  # fmt: skip
        else:
            color, marker = (MUTED, "D") if group.get("small") else (INK, "o")
            draw_intervals(ax, [group.get("roc_auc")], [y], color=color, marker=marker)
    finish_rows(ax, [name for name, _ in rows], "ROC AUC of groups of the test videos")
    ax.set_yticks(*zip(*((y, name) for y, (name, group) in enumerate(rows) if group is not None)))
    return ax


def draw_intervals(
    ax: Axes, rows: Any, places: Any, *, label: str = "", color: str = INK, marker: str = "o"
) -> None:
    """Draw `{value, low, high}` rows as dots with whiskers, with the numbers at the right."""
    for y, row in zip(places, rows, strict=True):
        if (value := words.as_number(row)) is not None:
            if words.interval(row):
                ax.plot([row["low"], row["high"]], [y, y], "|-", color=color, markersize=9,
                        markeredgewidth=1.8)  # fmt: skip
            ax.plot([value], [y], marker, color=color, markersize=7.5, label=label)
            label = ""  # one entry in the legend for the series
        ax.annotate(words.estimate(row), (1, y), xycoords=("axes fraction", "data"), xytext=(8, 0),
                    textcoords="offset points", va="center", fontsize=10, color=color)  # fmt: skip


def finish_rows(ax: Axes, names: Sequence[str], title: str, *, chance: bool = True) -> None:
    """Name the rows from the top down; dot the line of chance, an AUC of 0.5."""
    ax.set_yticks(range(len(names)), names)
    ax.set_ylim(len(names) - 0.45, -0.55)
    ax.grid(axis="y", visible=False)
    ax.set(xlabel="ROC AUC (positive class: FAKE)", ylabel="")
    if chance:
        ax.axvline(0.5, color=MUTED, linestyle=":", linewidth=1.8, zorder=1)
        ax.text(0.5, 1.01, "chance", transform=ax.get_xaxis_transform(), ha="center", va="bottom",
                fontsize=9.5, color=MUTED)  # fmt: skip
    ax.set_title(title, pad=22 if chance else None)


def plot_robustness(robustness: Mapping[str, Any]) -> Figure:
    """ROC AUC by video against the severity of each corruption, from clean to the right.

    `robustness` is `{"clean": {"roc_auc": {value, low, high}}, corruption: {severity: …}}`.
    """
    kinds = [name for name in robustness if name != "clean"]
    columns = min(4, len(kinds))
    n_rows = -(-len(kinds) // columns)
    size = (8, 2.5 * n_rows)
    figure, axes = plt.subplots(n_rows, columns, figsize=size, sharey=True, squeeze=False)
    clean = words.as_number(robustness["clean"]["roc_auc"])
    for ax, name in zip(axes.flat, kinds, strict=False):
        rows = {"clean": robustness["clean"], **robustness[name]}
        aucs = [row["roc_auc"] for row in rows.values()]
        for x, auc in enumerate(aucs):
            if words.interval(auc):
                ax.plot([x, x], [auc["low"], auc["high"]], color=MUTED, linewidth=1.6)
        values = np.array([words.as_number(auc) for auc in aucs], float)
        ax.plot(range(len(values)), values, "o-", color=INK, markersize=5)
        ax.axhline(0.5, color=MUTED, linestyle=":", linewidth=1.6)
        if clean is not None:
            ax.axhline(clean, color=INK, linestyle="--", linewidth=0.9)
        ax.set_xticks(range(len(rows)), [plain(row, 16) for row in rows], fontsize=9)
        ax.set_xlim(-0.35, len(rows) - 0.65)
        title, unit = words.corruption(name)
        ax.set_title(plain(title, 24), fontsize=11, pad=6)
        ax.set_xlabel(unit, fontsize=9)
    for ax in axes.flat[len(kinds) :]:
        ax.set_axis_off()
    for ax in axes[:, 0]:
        ax.set_ylabel("ROC AUC by video", fontsize=10)
    return figure
