"""Figures of data, faces and videos: data in, Axes out.

One theme, one colour a class. REAL is blue and plain, FAKE is vermilion and hatched or dashed, so
the classes also differ on grey paper and for colour-blind readers. No `plot_` function shows,
saves or seeds; `ax` is where it draws, the Axes of a new figure if None.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
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
#: A map's colours: for REAL, neither, for FAKE.
HEAT = LinearSegmentedColormap.from_list("heat", [COLORS["REAL"], "#F2F2F2", COLORS["FAKE"]])
HEAT_WORDS = (
    "Heat maps: vermilion parts raise the score for FAKE, blue ones lower it; full colour is the "
    "strongest place of this file.\nThey show where this network looked, not what was manipulated."
)
#: Colour, line and marker of each person; beyond these they repeat.
LOOKS = [(INK, "-", "o"), ("#009E73", "--", "s"), ("#CC79A7", "-.", "^"), ("#56B4E9", ":", "D")]
#: People that are named in a legend or get a row of pictures.
SHOWN = 6
#: Axis labels of what should look alike in both classes.
FEATURES = {
    "brightness": "Mean brightness (0 black, 1 white)",
    "sharpness": "Sharpness (log10 variance of the Laplacian)",
    "width": "Width of the crop (pixels)",
    "file_bytes": "Size of the file (bytes)",
}
#: Image, caption and colour of the border; None is a gap.
Picture = tuple[Any, str, str | None] | None
#: Heading, its colour, rows of pictures.
Strip = tuple[str, str, Sequence[Sequence[Picture]]]


def use_theme() -> None:
    """Set the one theme of all figures: about 900 px wide in a notebook, sharp when saved."""
    # In tables, "$" in a name from the data begins no formula, and what a cell says is not cut off.
    pd.set_option("display.html.use_mathjax", False, "styler.html.mathjax", False)
    pd.set_option("display.max_colwidth", 300)
    sns.set_theme(
        style="ticks",
        palette=list(COLORS.values()),
        font_scale=11 / 12,
        rc={
            "figure.figsize": (8, 4.2),
            "figure.dpi": 110,
            "figure.constrained_layout.use": True,
            "axes.titlesize": 12.5,
            "axes.titleweight": "bold",
            "axes.titlelocation": "left",
            "axes.titlepad": 12,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "grid.color": FAINT,
            "grid.linewidth": 0.7,
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


def legend_above(ax: Axes) -> None:
    """A legend in one row above the right end of the Axes, where no data is."""
    ax.legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=4, borderaxespad=0.2)


def plain(text: str, length: int = 60) -> str:
    """A name from the data as matplotlib draws it literally, its middle left out if it is long.

    What the font cannot draw becomes "?".
    """
    font = get_font(findfont(FontProperties()))
    text = "".join(c if c.isprintable() and font.get_char_index(ord(c)) else "?" for c in text)
    if len(text) > length:
        text = f"{text[: length // 2 - 1]}…{text[-length // 2 :]}"
    return text.replace("$", r"\$")


def draw_image(ax: Axes, image: Any, title: str, color: str | None) -> None:
    """One picture without ticks, its border in `color`."""
    ax.imshow(np.asarray(image), cmap="gray")
    ax.set(xticks=[], yticks=[])
    ax.grid(visible=False)
    for spine in ax.spines.values():
        spine.set(visible=color is not None, color=color or INK, linewidth=2.5)
    ax.set_title("\n".join(map(plain, title.split("\n"))), fontsize=9, fontweight="normal", pad=5)


def draw_strips(
    strips: Sequence[Strip], *, columns: int = 1, across: int = 1, foot: float = 0
) -> Figure:
    """Strips of pictures, each under its heading (none where it is empty), 8 inches wide.

    Args:
        strips: all of the same number of rows.
        columns: places a row at least; those that are left over stay blank.
        across: strips beside each other.
        foot: height of an empty last strip, in inches.
    Raises ValueError: no picture.
    """
    captions = [picture[1] for _, _, rows in strips for row in rows for picture in row if picture]
    if not captions:
        raise ValueError("There is nothing to draw; pass at least one picture.")
    columns = max(columns, *(len(row) for _, _, rows in strips for row in rows))
    lines = max(caption.count("\n") + bool(caption) for caption in captions)
    height = len(strips[0][2]) * (8 / columns / across + 0.19 * lines + 0.08)
    height += 0.33 * bool(strips[0][0])
    heights = [height] * -(-len(strips) // across) + [foot] * bool(foot)
    figure = plt.figure(figsize=(8, sum(heights)), layout="constrained")
    parts = figure.subfigures(len(heights), across, height_ratios=heights, squeeze=False).flat
    for part, (heading, color, rows) in zip(parts, strips, strict=False):
        if heading:
            heading = plain(heading, 120)
            part.suptitle(heading, x=0.01, ha="left", fontsize=10.5, fontweight="bold", color=color)
        axes = part.subplots(len(rows), columns, squeeze=False)
        for places, pictures in zip(axes, rows, strict=True):
            for ax, picture in zip_longest(places, pictures):
                if picture is None:
                    ax.set_axis_off()
                else:
                    draw_image(ax, *picture)
    return figure


def plot_class_balance(index: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Share and number of videos and crops a class, a pair of bars for each data set."""
    videos = index.drop_duplicates(["dataset", "video"])
    several = index["dataset"].nunique() > 1
    bars = {
        f"{plain(name, 24)}\n{what}" if several else what: rows["label"]
        for name, crops in index.groupby("dataset", sort=False)
        for what, rows in (("videos", crops.drop_duplicates("video")), ("crops", crops))
    }
    ax = get_axes(ax, figsize=(8, 1.5 + 0.65 * len(bars)))
    left = np.zeros(len(bars))
    for label in CLASSES:
        counts = [int((labels == label).sum()) for labels in bars.values()]
        shares = [(labels == label).mean() for labels in bars.values()]
        drawn = ax.barh(range(len(bars)), shares, left=left, height=0.62, color=COLORS[label],
                        hatch=HATCHES[label], edgecolor="white", label=label)  # fmt: skip
        texts = [f"{n:,}\n{share:.0%}" if n else "" for n, share in zip(counts, shares)]
        ax.bar_label(drawn, texts, label_type="center", fontsize=9.5, color=INK,
                     bbox={"boxstyle": "round,pad=0.25", "fc": "white", "ec": "none"})  # fmt: skip
        left += shares
    ax.set_yticks(range(len(bars)), list(bars))
    ax.invert_yaxis()
    ax.set(xlim=(0, 1), xlabel="Share (%)", ylabel="")
    ax.xaxis.set_major_formatter(PercentFormatter(1))
    ax.grid(axis="y", visible=False)
    legend_above(ax)
    ax.set_title(f"Class balance: {len(videos):,} videos, {len(index):,} crops")
    return ax


def plot_counts_per_video(index: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Crops and frames with a face in each video, by class: quartiles, range and the videos."""
    videos = index.groupby(["dataset", "video"], sort=False).agg(
        label=("label", "first"), crops=("frame", "size"), frames=("frame", "nunique")
    )
    long = videos.melt(id_vars="label", var_name="counted", value_name="count")
    long["row"] = long["label"] + " " + long["counted"]
    rows = [f"{label} {counted}" for counted in ("crops", "frames") for label in CLASSES]
    ax = get_axes(ax, figsize=(8, 3.8))
    thinned = long.iloc[:: len(long) // 4000 + 1]  # dots give the texture, the bar the numbers
    sns.stripplot(thinned, x="count", y="row", order=rows, hue="label", palette=COLORS,
                  legend=False, size=3, alpha=0.4, jitter=0.22, ax=ax)  # fmt: skip
    for row, counts in long.groupby("row")["count"]:
        first, median, third = counts.quantile([0.25, 0.5, 0.75])
        y = rows.index(row) + 0.36
        ax.plot([first, third], [y, y], color=COLORS[row[:4]], linewidth=5)
        ax.plot(median, y, "|", color=INK, markersize=14, markeredgewidth=2.5)
    ax.set(xlabel="Number in one video (bar: quartiles, line: median)", ylabel="")
    ax.set_xlim(left=0)
    ax.set_ylim(len(rows) - 0.5, -0.5)  # a class without a video keeps its row
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.grid(axis="y", visible=False)
    ax.set_title(f"Crops and frames a video: {len(videos):,} videos")
    return ax


def plot_feature_by_class(
    table: pd.DataFrame, column: str, *, label: str = "", bins: Any = 30, ax: Axes | None = None
) -> Axes:
    """Distribution of a numeric column by class, each class scaled to its own total.

    Args:
        table: one row a crop or a video, with `label` and `column`; missing values are left out.
        label: axis label with its unit; the column's name when not given.
        bins: how many, or their edges.
    """
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
    if pd.api.types.is_integer_dtype(known[column]):  # no half pixel where all have one width
        ax.xaxis.set_major_locator(MaxNLocator("auto", integer=True, min_n_ticks=1))
    ax.grid(axis="x", visible=False)
    # Below: a distribution may reach any corner of the axes.
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=1)
    ax.set_title(f"{column.replace('_', ' ').capitalize()} by class: n = {len(known):,}")
    return ax


def plot_split(index: pd.DataFrame, *, ax: Axes | None = None) -> Axes:
    """Videos of each split and class side by side, with the number of sources below."""
    videos = index.drop_duplicates(["dataset", "video"])
    sources = videos.groupby("split")["source"].nunique()
    names = [name for name in SPLITS if name in sources.index]
    ax = get_axes(ax)
    for label, side in zip(CLASSES, (-0.19, 0.19), strict=True):
        counts = videos.loc[videos["label"] == label, "split"].value_counts()
        bars = ax.bar(np.arange(len(names)) + side, counts.reindex(names, fill_value=0), 0.38,
                      color=COLORS[label], hatch=HATCHES[label], edgecolor="white",
                      label=label)  # fmt: skip
        ax.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=10)
    ax.set_xticks(range(len(names)), [f"{name}\n{sources[name]:,} sources" for name in names])
    ax.set(xlabel="", ylabel="Videos")
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    ax.margins(y=0.12)
    ax.grid(axis="x", visible=False)
    legend_above(ax)
    ax.set_title(f"The split: {len(videos):,} videos, {int(sources.sum()):,} sources")
    return ax


def plot_image_grid(
    images: Sequence[Any], titles: Sequence[str], *, columns: int, colors: Sequence[str]
) -> Figure:
    """Contact sheet of images, 8 inches wide, `columns` in a row.

    Args:
        images: PIL images or arrays (H, W, 3).
        titles: one a picture; short lines read best.
        colors: border of each picture, for example `COLORS["FAKE"]`.
    Raises ValueError: no image, or a length that differs from that of `images`.
    """
    for name, given in (("titles", titles), ("colors", colors)):
        if len(given) != len(images):
            raise ValueError(f"There are {len(given)} {name} for {len(images)} images.")
    pictures = list(zip(images, titles, colors, strict=True))
    rows = [pictures[i : i + columns] for i in range(0, len(pictures), columns)]
    return draw_strips([("", INK, rows)])


def plot_before_after(before: pd.DataFrame, after: pd.DataFrame, columns: Sequence[str]) -> Figure:
    """How columns of training crops (a row each) are spread, before and after augmentation."""
    size = (5 * len(columns), 3.8)
    figure, axes = plt.subplots(1, len(columns), figsize=size, layout="constrained", squeeze=False)
    for ax, column in zip(axes.flat, columns, strict=True):
        low, high = np.quantile(pd.concat([before[column], after[column]]), [0.005, 0.995])
        bins = np.linspace(low, high, 31)
        ax.hist(before[column], bins, histtype="step", color=INK, lw=1.8, label="before")
        ax.hist(after[column], bins, color=MUTED, alpha=0.45, label="after")
        ax.set(xlabel=column.capitalize(), ylabel="Crops")
        ax.set_title(f"Train, n = {len(before):,} crops")
        ax.legend()
    return figure


def plot_heat_maps(groups: Mapping[str, Sequence[tuple[Any, Any, str, str]]]) -> Figure:
    """Faces beside their heat maps, a row for each kind of answer, with a legend of the colours.

    `groups` leads from the title of a row to (face, overlay, label, text) each; the border has the
    colour of `label`, the truth. Rows without a face are left out.
    """
    strips: list[Strip] = []
    for title, faces in groups.items():
        row: list[Picture] = []
        for face, overlay, label, text in faces:
            row += [(face, text, COLORS[label]), (overlay, "", None)]
        strips += [(title, INK, [row])] if row else []
    figure = draw_strips(strips, foot=0.75)
    ax = figure.subfigs[-1].subplots()
    ax.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap=HEAT, extent=(0, 1, 0, 1))
    ax.set(yticks=[], xticks=[0, 0.5, 1], xticklabels=["speaks for REAL", "neither", "for FAKE"])
    ax.grid(visible=False)
    return figure


def plot_gallery(entries: Sequence[Mapping[str, Any]]) -> Figure:
    """Videos that were judged most wrongly: crops, and the training faces most like them.

    Each has `title`, `label` (the truth), `crops`: (image, text) each, and `neighbours`:
    (image, text, label) each.
    """
    n_crops = max((len(entry["crops"]) for entry in entries), default=0)
    strips = []
    for entry in entries:
        row: list[Picture] = [(*crop, COLORS[entry["label"]]) for crop in entry["crops"]]
        row += [None] * (n_crops - len(row))
        row += [(image, text, COLORS[label]) for image, text, label in entry["neighbours"]]
        strips.append((entry["title"], INK, [row]))
    short = all(len(rows[0]) <= 4 for _, _, rows in strips)  # leaves room for two
    return draw_strips(strips, across=2 if short and len(strips) > 1 else 1)


def plot_timeline(
    faces: pd.DataFrame,
    people: pd.DataFrame,
    *,
    threshold: float,
    band: tuple[float, float],
    title: str,
    peaks: Sequence[tuple[int, Image.Image]] = (),
    ax: Axes | None = None,
) -> Axes:
    """Score of each face of one video over time, a line a person.

    Args:
        faces: columns `time_s` (s), `score` (P(FAKE)) and `track`; a line breaks where a person
            was out of sight for long.
        people: `track, decides` of `find_people`; names those who were not counted.
        threshold: at and above it a face is called FAKE.
        band: (low, high) of UNSURE.
        title: for example the name of the video; the number of people is added.
        peaks: rows of `faces` (by position) with their crops, drawn above their points.
    """
    tracks = dict(list(faces.groupby("track")))
    aside = set(people.loc[~people["decides"].astype(bool), "track"])
    ax = get_axes(ax, figsize=(8.4, 4.6 if peaks else 3.6))
    for i, (name, rows) in enumerate(tracks.items()):
        color, line, marker = LOOKS[i % len(LOOKS)]
        label = f"person {name}" + " (not counted)" * (name in aside) if i < SHOWN else None
        x, y = rows.sort_values("time_s")[["time_s", "score"]].to_numpy(float).T
        steps = np.diff(x)
        usual = np.median(steps) if len(steps) else 0  # a person may be seen once
        gaps = np.flatnonzero(steps > 2.5 * usual) + 1
        x, y = np.insert(x, gaps, np.nan), np.insert(y, gaps, np.nan)  # no line over them
        ax.plot(x, y, line, color=color, marker=marker, markersize=5, label=label)
    ax.axhline(threshold, color=INK, linewidth=1.2, label=f"threshold {threshold:.2f}")
    low, high = band
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


def _draw_peaks(ax: Axes, faces: pd.DataFrame, peaks: Sequence[tuple[int, Image.Image]]) -> None:
    """Crops in a row above the Axes, in the order of their times, tied to their points."""
    tracks = sorted(set(faces["track"]))
    ordered = sorted(peaks, key=lambda peak: faces["time_s"].iloc[peak[0]])
    for place, (row, crop) in zip(np.linspace(0.07, 0.93, len(ordered)), ordered, strict=True):
        face = faces.iloc[row]
        color, _, _ = LOOKS[tracks.index(face["track"]) % len(LOOKS)]
        picture = OffsetImage(np.asarray(crop.resize((110, 110))), zoom=0.46)
        box = AnnotationBbox(picture, (face["time_s"], face["score"]), xybox=(place, 1.02),
                             boxcoords="axes fraction", box_alignment=(0.5, 0), pad=0.12,
                             bboxprops={"edgecolor": color, "linewidth": 1.5},
                             arrowprops={"arrowstyle": "-", "color": MUTED, "linewidth": 0.8},
                             annotation_clip=False)  # fmt: skip
        ax.add_artist(box)


def plot_people(
    rows: Sequence[tuple[str, str, Sequence[Image.Image], Sequence[str]]],
    *,
    maps: Sequence[Sequence[np.ndarray]] = (),
    title: str = "",
) -> Figure:
    """Contact sheet of the people of one file: a row of crops a person, heat maps below it.

    Args:
        rows: for each person a heading, the answer (REAL, FAKE or UNSURE: the colour of the
            borders), crops and a caption for each.
        maps: pictures (H, W, 3) of the maps of those crops, in the same shape.
    Raises ValueError: no crop, or not a caption (and a map) for each.
    """
    strips = []
    for i, (heading, answer, crops, captions) in enumerate(rows):
        color = COLORS.get(answer, MUTED)
        shown: list[Picture] = [(*both, color) for both in zip(crops, captions, strict=True)]
        strip = [shown]
        if maps:
            strip.append([(heat, "", None) for heat, _ in zip(maps[i], crops, strict=True)])
        strips.append((heading, color, strip))
    figure = draw_strips(strips, columns=4)
    if title:
        figure.suptitle(plain(title), x=0.01, ha="left", fontsize=12.5, fontweight="bold")
    if maps:
        figure.supxlabel(HEAT_WORDS, x=0.01, ha="left", fontsize=9, color=MUTED)
    return figure


def plot_looks(crops: pd.DataFrame) -> Figure:
    """`plot_feature_by_class` of each column of FEATURES, two in a row."""
    figure, axes = plt.subplots(2, 2, figsize=(10, 8.6), layout="constrained")
    for ax, (column, label) in zip(axes.flat, FEATURES.items(), strict=True):
        plot_feature_by_class(crops, column, label=label, ax=ax)
    return figure


def plot_detections(frame: Image.Image, faces: Sequence[Any]) -> Figure:
    """A frame with the box of each face, and beside it the crops.

    The faces have `box` (x1, y1, x2, y2) in its pixels, `probability` and `crop`.
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
