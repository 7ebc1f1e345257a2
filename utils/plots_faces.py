"""Figures of faces: where the model looks, and what it gets most wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from utils.plots import COLORS, draw_image

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
