"""Answers as pictures and files: timelines, contact sheets, annotated copies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from utils.annotate import annotate_image, annotate_video
from utils.explain import heat_maps, overlay
from utils.judging import Answer, Judge, recut
from utils.media import is_image
from utils.plots import COLORS
from utils.plots_video import SHOWN, plot_people, plot_timeline

#: Crops a person on a contact sheet, spread over its time.
CROPS = 6


def file_names(names: Sequence[str]) -> list[str]:
    """A file name for each name from the data: one part, no markup, no two alike.

    Letters and digits of any script stay, all else becomes "_".
    """
    result: list[str] = []
    for name in names:
        safe = re.sub(r"[^\w.-]+", "_", name).strip("._-")[-80:].strip("._-") or "file"
        number, unique = 2, safe
        while unique.casefold() in {given.casefold() for given in result}:
            unique, number = f"{safe}-{number}", number + 1
        result.append(unique)
    return result


def peak_rows(faces: pd.DataFrame, people: pd.DataFrame, *, n: int) -> pd.Series:
    """The most telling faces: of each of `n` equal parts of a person's time, the highest score.

    Returns:
        Positions in `faces`, by time, for each track that is in `people`.
    """
    placed = faces.assign(position=range(len(faces)))
    chosen = {}
    for track in people["track"]:
        seen = placed[placed["track"] == track].sort_values("time_s")
        parts = np.array_split(np.arange(len(seen)), min(n, len(seen)))
        best = [part[seen["score"].to_numpy()[part].argmax()] for part in parts]
        chosen[track] = seen["position"].to_numpy()[best].tolist()
    return pd.Series(chosen, dtype=object)


def show_timeline(
    judge: Judge, answer: Answer, *, title: str, frames_per_video: int
) -> Figure | None:
    """Score over time, a line a person, with the crops at the peaks; None without faces."""
    people = _leading(answer)
    if people.empty:
        return None
    peaks = peak_rows(answer.faces, people, n=max(1, SHOWN // len(people)))
    positions = [position for rows in peaks for position in rows][:SHOWN]
    crops = recut(judge, answer, answer.faces.iloc[positions], frames_per_video=frames_per_video)
    threshold = judge.decision["threshold"]
    band = judge.decision.get("abstention") or {"low": threshold, "high": threshold}
    ax = plot_timeline(
        answer.faces,
        threshold=threshold,
        band=(band["low"], band["high"]),
        title=title,
        peaks=list(zip(positions, crops, strict=True)),
    )
    return ax.figure  # type: ignore[return-value]


def show_people(
    judge: Judge,
    answer: Answer,
    *,
    title: str,
    frames_per_video: int,
    with_maps: bool = False,
    cropped: bool = False,
) -> Figure | None:
    """Contact sheet: a row of crops a person, with heat maps if wanted; None without faces."""
    people = _leading(answer)
    if people.empty:
        return None
    peaks = peak_rows(answer.faces, people, n=CROPS)
    positions = [position for rows in peaks for position in rows]
    faces = answer.faces.iloc[positions]
    found = recut(judge, answer, faces, frames_per_video=frames_per_video, cropped=cropped)
    pictures = iter(zip(found, faces.itertuples(), strict=True))
    rows = []
    for person in people.itertuples():
        crops, captions = [], []
        for crop, face in (next(pictures) for _ in peaks[person.track]):
            crops.append(crop)
            captions.append(f"{face.time_s:.1f} s: {face.score:.2f}")
        note = f" ({person.note})" if person.note else ""
        heading = f"Person {person.track}: {person.decision}, P(FAKE) {person.score:.2f}{note}"
        rows.append((heading, person.decision, crops, captions))
    maps: list[list[np.ndarray]] = []
    if with_maps:
        heat = heat_maps(judge.model, found, judge.transform, device=judge.device, progress=False)
        limit = float(np.abs(heat).max()) or 1.0
        drawn = iter([overlay(c, h, limit=limit) for c, h in zip(found, heat, strict=True)])
        maps = [[next(drawn) for _ in crops] for _, _, crops, _ in rows]
    return plot_people(rows, maps=maps, title=title)


def _leading(answer: Answer) -> pd.DataFrame:
    """The people who are shown: those who decide first, then by score, SHOWN at most."""
    order = answer.people.sort_values(["decides", "score"], ascending=False)
    return order.head(SHOWN).sort_values("track")


def annotate(answer: Answer, folder: Path, name: str) -> Path:
    """Write an annotated copy: `<name>.mp4` of a video or an animation, `<name>.png` of a picture.

    Raises:
        ValueError: the file cannot be read.
    """
    still = is_image(answer.input) and answer.faces["frame"].nunique() <= 1
    if still:
        return annotate_image(answer, folder / f"{name}.png")
    return annotate_video(answer, folder / f"{name}.mp4")


def answer_colors(answers: Sequence[Answer]) -> list[str | None]:
    """Frame colour of each answer."""
    return [COLORS.get(answer.decision) for answer in answers]
