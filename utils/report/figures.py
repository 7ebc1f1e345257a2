"""Figures of data, faces and videos: data in, Axes out.

One theme, one colour a class. REAL is blue and plain, FAKE is vermilion and hatched or dashed, so
the classes also differ on grey paper and for colour-blind readers. No `plot_` function shows,
saves or seeds.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator, PercentFormatter
from PIL import Image

from utils.run.artifacts import CLASSES, SPLITS, atomic_path

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


def show_figures(
    drawn: Iterable[tuple[str, Axes | Figure | None]], folder: Path, *, show: bool = True
) -> None:
    """Save figures as PNG files, each as a whole, and show them.

    Args:
        drawn: name of the file, without its suffix, and the figure; where that is None, the picture
            of an earlier run is removed.
        folder: where they go.
        show: below the cell of a notebook; else they are only saved.
    """
    for name, picture in drawn:
        path = folder / f"{name}.png"
        if picture is None:
            path.unlink(missing_ok=True)
            continue
        figure = picture if isinstance(picture, Figure) else picture.get_figure(root=True)
        assert figure is not None
        with atomic_path(path) as temporary:
            figure.savefig(temporary, dpi=150, bbox_inches="tight")
        if show:
            plt.show()
        plt.close(figure)


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


def plot_learning_rate(
    rates: Sequence[float], *, steps_per_epoch: int, ax: Axes | None = None
) -> Axes:
    """The learning rate over the epochs of a run.

    Args:
        rates: of each step, shape (steps,).
        steps_per_epoch: steps that make an epoch.
        ax: where to draw.
    """
    heights = np.asarray(rates)
    ax = get_axes(ax, figsize=(7, 2.6))
    ax.plot(np.arange(len(heights)) / steps_per_epoch, heights, color=INK)
    ax.set(xlabel="Epoch", ylabel="Learning rate", ylim=(0, 1.08 * heights.max()))
    ax.set_title(f"Learning rate, {len(rates):,} steps")
    ax.set_xlim(0, max(1, len(rates) / steps_per_epoch))
    return ax


#: A map's colours: for REAL, neither, for FAKE.
HEAT = LinearSegmentedColormap.from_list("heat", [COLORS["REAL"], "#F2F2F2", COLORS["FAKE"]])


def plot_heat_maps(groups: Mapping[str, Sequence[tuple[Any, Any, str, str]]]) -> Figure:
    """Faces beside their heat maps, a row for each kind of answer, with a legend of the colours.

    Args:
        groups: title of the row to (face, overlay, label, text) each; label REAL or FAKE frames
            the face in the colour of the truth. Rows without a face are left out.
    """
    rows = {title: faces for title, faces in groups.items() if len(faces)}
    if not rows:
        raise ValueError("There is no face to draw; pass at least one.")
    columns = 2 * max(map(len, rows.values()))
    side = 8 / columns
    figure = plt.figure(figsize=(8, len(rows) * (side + 0.55) + 0.75), layout="constrained")
    *parts, legend = figure.subfigures(
        len(rows) + 1, 1, height_ratios=[side + 0.55] * len(rows) + [0.75], squeeze=False
    ).flat
    for part, (title, faces) in zip(parts, rows.items(), strict=True):
        part.suptitle(title, fontsize=10.5, fontweight="bold", x=0.01, ha="left")
        axes = part.subplots(1, columns)
        for ax in axes:
            ax.set_axis_off()
        for i, (face, overlay, label, text) in enumerate(faces):
            for ax, image, color, words in (
                (axes[2 * i], face, COLORS[label], text),
                (axes[2 * i + 1], overlay, None, ""),
            ):
                ax.set_axis_on()
                draw_image(ax, image, words, color)
    ax = legend.subplots()
    ax.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap=HEAT, extent=(0, 1, 0, 1))
    ax.set(yticks=[], xticks=[0, 0.5, 1], xticklabels=["speaks for REAL", "neither", "for FAKE"])
    ax.grid(visible=False)
    return figure


def plot_gallery(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """Videos that were judged most wrongly: frames, and the training faces most like them.

    Args:
        entries: `title`, `label` (the truth), `frames`: (image, text) each, and `neighbours`:
            (image, text, label) each.
    """
    if not len(entries):
        raise ValueError("There is no video to draw; pass at least one.")
    n_frames = max(len(entry["frames"]) for entry in entries)
    n_near = max(len(entry["neighbours"]) for entry in entries)
    columns = n_frames + n_near
    across = 2 if columns <= 4 and len(entries) > 1 else 1  # short rows leave room for two
    side = 8 / columns / across
    lines = -(-len(entries) // across)
    figure = plt.figure(figsize=(8, lines * (side + 0.7)), layout="constrained")
    parts = figure.subfigures(lines, across, squeeze=False, wspace=0.03).flat
    for part, entry in zip(parts, entries, strict=False):
        part.suptitle(entry["title"], fontsize=10, fontweight="bold", x=0.01, ha="left")
        axes = np.atleast_1d(part.subplots(1, columns))
        for ax in axes:
            ax.set_axis_off()
        shown = [(image, text, entry["label"]) for image, text in entry["frames"]]
        shown += [("", "", "")] * (n_frames - len(shown)) + list(entry["neighbours"])
        for ax, (image, text, label) in zip(axes, shown, strict=False):
            if label:
                ax.set_axis_on()
                draw_image(ax, image, text, COLORS[label])
    return figure


#: Colour, line and marker of each person; beyond these they repeat.
LOOKS = [(INK, "-", "o"), ("#009E73", "--", "s"), ("#CC79A7", "-.", "^"), ("#56B4E9", ":", "D")]
#: People that are named in a legend or get a row of pictures.
SHOWN = 6
HEAT_WORDS = (
    "Heat maps: vermilion parts raise the score for FAKE, blue ones lower it; full colour is the "
    "strongest place of this file.\nThey show where this network looked, not what was manipulated."
)


def plain(text: str, length: int = 60) -> str:
    """A name from the data as matplotlib draws it literally, its middle left out if it is long.

    What the font cannot draw becomes "?".
    """
    font = get_font(findfont(FontProperties()))
    text = "".join(c if c.isprintable() and font.get_char_index(ord(c)) else "?" for c in text)
    if len(text) > length:
        text = f"{text[: length // 2 - 1]}…{text[-length // 2 :]}"
    return text.replace("$", r"\$")


def plot_timeline(
    faces: pd.DataFrame,
    people: pd.DataFrame | None = None,
    *,
    threshold: float | None = None,
    band: tuple[float, float] | None = None,
    title: str = "Score over time",
    peaks: Sequence[tuple[int, Image.Image]] = (),
    ax: Axes | None = None,
) -> Axes:
    """Score of each face of one video over time, a line a person.

    Args:
        faces: columns `time_s` (s), `score` (P(FAKE)) and `track`; a line breaks where a person
            was out of sight for long.
        people: `track, decides` of `find_people`; names those who were not counted.
        threshold: at and above it a face is called FAKE.
        band: (low, high) of UNSURE; drawn with the threshold.
        title: for example the name of the video; the number of people is added.
        peaks: rows of `faces` (by position) with their crops, drawn above their points.
        ax: where to draw.
    """
    require_columns(faces, "time_s", "score", "track")
    tracks = dict(list(faces.groupby("track")))
    aside = set() if people is None else set(people.loc[~people["decides"].astype(bool), "track"])
    ax = get_axes(ax, figsize=(8.4, 4.6 if peaks else 3.6))
    for i, (name, rows) in enumerate(tracks.items()):
        color, line, marker = LOOKS[i % len(LOOKS)]
        label = f"person {name}" + " (not counted)" * (name in aside) if i < SHOWN else None
        x, y = _with_gaps(rows.sort_values("time_s"))
        ax.plot(x, y, line, color=color, marker=marker, markersize=5, label=label)
    if threshold is not None:
        ax.axhline(threshold, color=INK, linewidth=1.2, label=f"threshold {threshold:.2f}")
        low, high = band or (threshold, threshold)
        ax.axhspan(high, 1.02, color=COLORS["FAKE"], alpha=0.1, linewidth=0, label="called FAKE")
        if low < high:
            ax.axhspan(low, high, color=MUTED, alpha=0.14, linewidth=0, label="called UNSURE")
        ax.axhspan(-0.02, low, color=COLORS["REAL"], alpha=0.1, linewidth=0, label="called REAL")
    ax.set(xlabel="Time (s)", ylabel="Score: P(FAKE)", ylim=(-0.02, 1.02))
    ax.legend(loc="upper left", bbox_to_anchor=(1, 1))
    _draw_peaks(ax, faces, peaks)
    n_people = len(tracks) - len(aside)
    count = f"{n_people} {'person' if n_people == 1 else 'people'}"
    ax.set_title(f"{plain(title)}: {count}", pad=78 if peaks else 12)
    return ax


def _with_gaps(rows: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Times and scores, with a NaN wherever the next frame is over twice the usual step away."""
    x, y = rows["time_s"].to_numpy(float), rows["score"].to_numpy(float)
    steps = np.diff(x)
    usual = np.median(steps) if len(steps) else 0  # a person may be seen once
    breaks = np.flatnonzero(steps > 2.5 * usual) + 1
    return np.insert(x, breaks, np.nan), np.insert(y, breaks, np.nan)


def _draw_peaks(ax: Axes, faces: pd.DataFrame, peaks: Sequence[tuple[int, Image.Image]]) -> None:
    ordered = sorted(peaks, key=lambda peak: faces["time_s"].iloc[peak[0]])
    for place, (row, crop) in zip(np.linspace(0.07, 0.93, len(ordered)), ordered, strict=True):
        face = faces.iloc[row]
        color = LOOKS[list(dict.fromkeys(sorted(faces["track"]))).index(face["track"]) % len(LOOKS)]
        thumbnail = OffsetImage(np.asarray(crop.resize((110, 110))), zoom=0.46)
        ax.add_artist(
            AnnotationBbox(
                thumbnail,
                (face["time_s"], face["score"]),
                xybox=(place, 1.02),
                boxcoords="axes fraction",
                box_alignment=(0.5, 0),
                pad=0.12,
                bboxprops={"edgecolor": color[0], "linewidth": 1.5},
                arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.8},
                annotation_clip=False,
            )
        )


def plot_people(
    rows: Sequence[tuple[str, str, Sequence[Image.Image], Sequence[str]]],
    *,
    maps: Sequence[Sequence[np.ndarray]] = (),
    title: str = "",
) -> Figure:
    """Contact sheet of the people of one file: a row of crops a person, heat maps below it.

    Args:
        rows: for each person a heading, the answer (REAL, FAKE or UNSURE: the colour of the
            frames), crops and a caption for each.
        maps: pictures (H, W, 3) of the maps of those crops, in the same shape.
        title: for example the name of the file.
    Raises:
        ValueError: no person, or maps in another shape.
    """
    if not rows or (maps and [len(r[2]) for r in rows] != [len(pictures) for pictures in maps]):
        raise ValueError("plot_people needs at least one person, and a map a crop or none at all")
    columns = max(4, *(len(crops) for _, _, crops, _ in rows))
    lines = 2 if maps else 1
    cell = 8 / columns
    heights = [0.55 + lines * cell for _ in rows]
    figure = plt.figure(figsize=(8, sum(heights) + 0.5 + 0.5 * bool(maps)), layout="constrained")
    strips = figure.subfigures(len(rows), 1, height_ratios=heights, squeeze=False)[:, 0]
    for number, (strip, (heading, answer, crops, captions)) in enumerate(zip(strips, rows)):
        color = COLORS.get(answer, MUTED)
        strip.suptitle(heading, x=0.01, ha="left", fontsize=11, color=color)
        axes = strip.subplots(lines, columns, squeeze=False)
        for ax in axes.flat:
            ax.set_axis_off()
        for i, (crop, caption) in enumerate(zip(crops, captions, strict=True)):
            axes[0, i].set_axis_on()
            draw_image(axes[0, i], crop, caption, color)
            if maps:
                axes[1, i].set_axis_on()
                draw_image(axes[1, i], maps[number][i], "", None)
    if title:
        figure.suptitle(plain(title), x=0.01, ha="left", fontsize=12.5, fontweight="bold")
    if maps:
        figure.supxlabel(HEAT_WORDS, x=0.01, ha="left", fontsize=9, color=MUTED)
    return figure


#: Axis labels of what should look alike in both classes.
FEATURES = {
    "brightness": "Mean brightness (0 black, 1 white)",
    "sharpness": "Sharpness (log10 variance of the Laplacian)",
    "width": "Width of the crop (pixels)",
    "file_bytes": "Size of the file (bytes)",
}


def plot_looks(crops: pd.DataFrame) -> Figure:
    """`plot_feature_by_class` of each column of FEATURES, two in a row."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 8.6), layout="constrained")
    for ax, (column, label) in zip(axes.flat, FEATURES.items(), strict=True):
        plot_feature_by_class(crops, column, label=label, ax=ax)
    return figure


def plot_detections(frame: Image.Image, faces: Sequence[Any]) -> Figure:
    """A frame with the box of each face, and beside it the crops.

    Args:
        frame: the full frame.
        faces: each with `box` (x1, y1, x2, y2) in its pixels, `probability` and `crop`.
    """
    n = max(1, len(faces))
    figure, axes = plt.subplots(1, 1 + n, figsize=(10, 3.2), width_ratios=[1.8] + [1] * n)
    draw_image(axes[0], frame, f"{frame.width} × {frame.height} pixels", None)
    for ax, face in zip(axes[1:], faces):
        x1, y1, x2, y2 = face.box
        box = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="#E69F00", lw=2)
        axes[0].add_patch(box)
        draw_image(ax, face.crop, f"P(face) {face.probability:.2f}", None)
    for ax in axes[1 + len(faces) :]:
        ax.set_axis_off()
    return figure
