"""Figures of one judged image or video: who looks fake, when, and where in the face."""

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties, findfont, get_font
from matplotlib.offsetbox import AnnotationBbox, OffsetImage
from PIL import Image

from utils.plots import COLORS, INK, MUTED, draw_image, get_axes, require_columns

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
