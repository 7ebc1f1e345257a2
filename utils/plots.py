"""Figures of the data: data in, Axes out.

One theme, one colour a class. REAL is blue and plain, FAKE is vermilion and hatched or dashed, so
the classes also differ on grey paper and for colour-blind readers. No `plot_` function shows,
saves or seeds. Figures of training and scores are in `plots_evaluation`, those of numbers with an
interval in `plots_intervals`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from utils.artifacts import CLASSES, SPLITS, atomic_path

COLORS = {"REAL": "#0072B2", "FAKE": "#D55E00"}  # Okabe & Ito (2008)
HATCHES = {"REAL": "", "FAKE": "////"}
LINES = {"REAL": "-", "FAKE": "--"}
INK, MUTED, FAINT = "#222222", "#6B6B6B", "#D9D9D9"  # text and data; secondary; grid


def use_theme() -> None:
    """Set the one theme of all figures: about 900 px wide in a notebook, sharp when saved."""
    sns.set_theme(
        context="notebook",
        style="ticks",
        palette=list(COLORS.values()),
        rc={
            "figure.figsize": (8, 4.2),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "savefig.dpi": 160,
            "savefig.bbox": "tight",
            "font.size": 11,
            "axes.titlesize": 12.5,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.titlepad": 12,
            "axes.labelsize": 11,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": FAINT,
            "grid.linewidth": 0.7,
            "xtick.labelsize": 10,
            "ytick.labelsize": 10,
            "legend.frameon": False,
            "hatch.color": "white",
            "hatch.linewidth": 1.2,
        },
    )


def save_figure(path: Path, *, dpi: int = 150) -> Path:
    """Save the current figure as a PNG, atomically."""
    with atomic_path(path) as temporary:
        plt.savefig(temporary, dpi=dpi, bbox_inches="tight")
    return path


def show_figure(path: Path) -> None:
    """Save the current figure by `save_figure`, and show it."""
    save_figure(path)
    plt.show()


def get_axes(ax: Axes | None, *, figsize: tuple[float, float] = (8, 4.2)) -> Axes:
    """`ax`, or the Axes of a new figure (size in inches)."""
    return plt.subplots(figsize=figsize)[1] if ax is None else ax


def legend_above(ax: Axes, *, y: float = 1.0) -> None:
    """A legend in one row above the right end of the Axes, where no data is."""
    ax.legend(loc="lower right", bbox_to_anchor=(1, y), ncols=4, borderaxespad=0.2)


def require_columns(table: pd.DataFrame, *columns: str) -> None:
    """Raise ValueError that names the columns `table` lacks."""
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(f"The table lacks {missing}; it has {list(table.columns)}.")


def plot_class_balance(index: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Share and number of videos and crops a class, a pair of bars for each data set."""
    require_columns(index, "dataset", "video", "label")
    videos = index.drop_duplicates(["dataset", "video"])
    names = list(dict.fromkeys(index["dataset"]))
    rows = []
    for name in names:
        prefix = f"{name}\n" if len(names) > 1 else ""
        rows.append((f"{prefix}videos", videos.loc[videos["dataset"] == name, "label"]))
        rows.append((f"{prefix}crops", index.loc[index["dataset"] == name, "label"]))
    ax = get_axes(ax, figsize=(8, 1.5 + 0.65 * len(rows)))
    left = np.zeros(len(rows))
    for label in CLASSES:
        counts = np.array([(labels == label).sum() for _, labels in rows])
        shares = counts / np.array([max(len(labels), 1) for _, labels in rows])
        ax.barh(range(len(rows)), shares, left=left, height=0.62, color=COLORS[label],
                hatch=HATCHES[label], edgecolor="white", label=label)  # fmt: skip
        for y, (share, count) in enumerate(zip(shares, counts, strict=True)):
            if share > 0:
                ax.text(left[y] + share / 2, y, f"{count:,}\n{share:.0%}", ha="center",
                        va="center", fontsize=9.5, color=INK,
                        bbox={"boxstyle": "round,pad=0.25", "fc": "white", "ec": "none"},
                        )  # fmt: skip
        left += shares
    ax.set_yticks(range(len(rows)), [name for name, _ in rows])
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel="Share (%)", ylabel="")
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.grid(axis="y", visible=False)
    legend_above(ax)
    ax.set_title(f"Class balance: {len(videos):,} videos, {len(index):,} crops")
    return ax


def plot_counts_per_video(index: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Crops and frames with a face in each video, by class: quartiles, range and the videos."""
    require_columns(index, "dataset", "video", "frame", "label")
    videos = index.groupby(["dataset", "video"], sort=False).agg(
        label=("label", "first"), crops=("frame", "size"), frames=("frame", "nunique")
    )
    long = videos.melt(id_vars="label", var_name="counted", value_name="count")
    long["row"] = long["label"] + " " + long["counted"]
    rows = [f"{label} {counted}" for counted in ("crops", "frames") for label in CLASSES]
    ax = get_axes(ax, figsize=(8, 3.8))
    look: dict[str, Any] = {"x": "count", "y": "row", "order": rows, "hue": "label", "ax": ax,
                            "palette": COLORS, "legend": False}  # fmt: skip
    thinned = long.iloc[:: len(long) // 4000 + 1]  # dots give the texture, the bar the numbers
    sns.stripplot(thinned, **look, size=3, alpha=0.4, jitter=0.22)
    for y, (row, counts) in enumerate((row, long.loc[long["row"] == row, "count"]) for row in rows):
        if len(counts):
            first, median, third = counts.quantile([0.25, 0.5, 0.75])
            ax.plot([first, third], [y + 0.36] * 2, color=COLORS[row[:4]], linewidth=5)
            ax.plot(median, y + 0.36, "|", color=INK, markersize=14, markeredgewidth=2.5)
    ax.set(xlabel="Number in one video (bar: quartiles, line: median)", ylabel="")
    ax.set_xlim(left=0)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="y", visible=False)
    ax.set_title(f"Crops and frames a video: {len(videos):,} videos")
    return ax


def plot_feature_by_class(
    table: pd.DataFrame,
    column: str,
    *,
    label: str | None = None,
    bins: int | np.ndarray = 30,
    ax: Axes | None = None,
) -> Axes:
    """Distribution of a numeric column by class, each class scaled to its own total.

    Args:
        table: one row a crop or a video, with `label` and `column`; missing values are left out.
        column: what to draw.
        label: axis label with its unit; the column's name when not given.
        bins: how many, or their edges.
        ax: where to draw.
    """
    require_columns(table, column, "label")
    known = table.dropna(subset=[column])
    ax = get_axes(ax)
    values = known[column].to_numpy(dtype=float)
    edges = np.histogram_bin_edges(values, bins=bins)
    for name in CLASSES:
        ours = values[(known["label"] == name).to_numpy()]
        if len(ours) == 0:
            continue
        shares = np.histogram(ours, bins=edges)[0] / len(ours)
        middle = float(np.median(ours))
        median = f"{middle:,.0f}" if abs(middle) >= 100 else f"{middle:.3g}"
        text = f"{name} (n = {len(ours):,}, median {median})"
        ax.stairs(shares, edges, fill=True, alpha=0.16, color=COLORS[name])
        ax.stairs(shares, edges, color=COLORS[name], linestyle=LINES[name], linewidth=2, label=text)
    ax.set(xlabel=label or column, ylabel="Share of the class")
    ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}%")
    ax.set_ylim(bottom=0)
    ax.grid(axis="x", visible=False)
    # Below: a distribution may reach any corner of the axes.
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=1)
    ax.set_title(f"{column.replace('_', ' ').capitalize()} by class: n = {len(known):,}")
    return ax


def plot_split(index: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Videos of each split and class side by side, with the number of sources below."""
    require_columns(index, "dataset", "video", "label", "source", "split")
    videos = index.drop_duplicates(["dataset", "video"])
    counts = pd.crosstab(videos["split"], videos["label"])
    names = [name for name in SPLITS if name in counts.index]
    counts = counts.reindex(index=names, columns=list(CLASSES), fill_value=0)
    sources = videos.groupby("split")["source"].nunique()
    ax = get_axes(ax)
    x, width = np.arange(len(names)), 0.38
    for label, side in zip(CLASSES, (-0.5, 0.5), strict=True):
        bars = ax.bar(x + side * width, counts[label], width, color=COLORS[label], label=label,
                      hatch=HATCHES[label], edgecolor="white")  # fmt: skip
        ax.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=10)
    ax.set_xticks(x, [f"{name}\n{sources[name]:,} sources" for name in names])
    ax.set(xlabel="", ylabel="Videos")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.margins(y=0.12)
    ax.grid(axis="x", visible=False)
    legend_above(ax)
    ax.set_title(f"Split by source: {len(videos):,} videos, {int(sources.sum()):,} sources")
    return ax


def plot_image_grid(
    images: Sequence[Any],
    titles: Sequence[str] | None = None,
    *,
    columns: int = 6,
    colors: Sequence[str] | None = None,
) -> Figure:
    """Contact sheet of images, 8 inches wide.

    Args:
        images: PIL images or arrays (H, W, 3).
        titles: one a picture; short lines read best.
        columns: pictures a row.
        colors: frame colour of each picture, for example `COLORS["FAKE"]`.
    Raises:
        ValueError: no image, or a length that differs from that of `images`.
    """
    if len(images) == 0:
        raise ValueError("There is no image to draw; pass at least one.")
    for name, given in (("titles", titles), ("colors", colors)):
        if given is not None and len(given) != len(images):
            raise ValueError(f"There are {len(given)} {name} for {len(images)} images.")
    columns = min(columns, len(images))
    n_rows = -(-len(images) // columns)
    lines = max((title.count("\n") + 1 for title in titles), default=0) if titles else 0
    height = n_rows * (8 / columns + 0.19 * lines + 0.08)
    figure, axes = plt.subplots(n_rows, columns, figsize=(8, height), squeeze=False)
    for i, ax in enumerate(axes.flat):
        if i >= len(images):
            ax.set_axis_off()
            continue
        draw_image(ax, images[i], titles[i] if titles else "", colors[i] if colors else None)
    return figure


def draw_image(ax: Axes, image: Any, title: str, color: str | None) -> None:
    """One picture without ticks, framed in `color`."""
    ax.imshow(np.asarray(image), cmap="gray")
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set(visible=color is not None, color=color or INK, linewidth=2.5)
    ax.set_title(title, fontsize=9, fontweight="normal", pad=5)


def plot_pairs(pairs: Sequence[tuple[Any, Any, str]], *, columns: int = 2) -> Figure:
    """Real faces beside the fakes that were made from them.

    Args:
        pairs: (real image, fake image, title) each; the title says, for example, the method.
        columns: pairs a row.
    """
    if len(pairs) == 0:
        raise ValueError("There is no pair to draw; pass at least one.")
    columns = min(columns, len(pairs))
    n_rows = -(-len(pairs) // columns)
    side = 4 / columns
    figure = plt.figure(figsize=(8, n_rows * (side + 0.55)), layout="constrained")
    cells = figure.subfigures(n_rows, columns, squeeze=False, wspace=0.03)
    for cell, (real, fake, title) in zip(cells.flat, pairs, strict=False):
        left, right = cell.subplots(1, 2)
        draw_image(left, real, "REAL", COLORS["REAL"])
        draw_image(right, fake, "FAKE", COLORS["FAKE"])
        cell.suptitle(title, fontsize=10, x=0.02, ha="left")
    return figure
