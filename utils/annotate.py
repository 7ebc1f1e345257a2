"""Boxes, people and scores drawn into a video that plays in a browser, with its sound."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageDraw, ImageFont

from utils.artifacts import atomic_path
from utils.judging import Answer
from utils.media import Frame, is_image, open_media
from utils.plots import COLORS, MUTED
from utils.video import probe, write_video

#: Longest side of an annotated video or picture, in pixels; a larger one is shrunk.
LONGEST = 1280
#: A person who is not seen for more than so many sampling steps is gone in between.
MAX_GAP = 2.5
#: Rates that players like; a file of no or of an absurd rate gets the nearer end.
RATES = (1.0, 60.0)


def boxes_between(faces: pd.DataFrame, *, step: float) -> dict[int, pd.DataFrame]:
    """Per person, where the box and the score bend: lines between them give every frame.

    A box stands still for half a step before its person is first seen and after it is last seen;
    between two sightings more than MAX_GAP steps apart the person counts as gone.

    Args:
        faces: `frame, track, x1, y1, x2, y2, score`.
        step: frames from one sampled frame to the next.
    Returns:
        For each track the columns `frame, x1, y1, x2, y2, score`, frames rising; NaN while gone.
    """
    bends = {}
    for track, seen in faces.groupby("track"):
        rows = seen.sort_values("frame")[["frame", "x1", "y1", "x2", "y2", "score"]]
        values, frames = rows.to_numpy(float), rows["frame"].to_numpy(float)
        parts = np.split(values, np.flatnonzero(np.diff(frames) > MAX_GAP * step) + 1)
        held = []
        for part in parts:
            first, last = part[0].copy(), part[-1].copy()
            first[0], last[0] = first[0] - step / 2, last[0] + step / 2
            gone = np.full(6, np.nan)
            gone[0] = last[0] + 1e-6
            held += [first, *part, last, gone]
        bends[int(track)] = pd.DataFrame(held, columns=rows.columns)
    return bends


def annotate_video(answer: Answer, path: str | Path) -> Path:
    """Draw the answer into a copy of the video: boxes, people, scores; its sound is kept.

    Boxes are interpolated between the frames that were judged. Frames come at the mean rate of
    the video whatever their own times are, so that sound and pictures stay together.

    Args:
        answer: of `judge_file`, with faces or without.
        path: .mp4 to write.
    Raises:
        ValueError: the video cannot be read.
    """
    info = None if is_image(answer.input) else probe(answer.input)
    fps = float(np.clip(info.fps if info else 10.0, *RATES))
    frames = _drawn(answer, open_media(answer.input, 0))
    sound = None if info is None else answer.input
    return write_video(path, _steady(frames, fps), fps=fps, preset="veryfast", sound_from=sound)


def annotate_image(answer: Answer, path: str | Path) -> Path:
    """Draw the answer into a copy of the picture (the first judged frame of an animation)."""
    frame = int(answer.faces["frame"].min()) if len(answer.faces) else 0
    drawn = (d for number, _, d in _drawn(answer, open_media(answer.input, 0)) if number == frame)
    with atomic_path(path) as temporary:
        Image.fromarray(next(drawn)).save(temporary)
    return Path(path)


def _steady(frames: Iterable[tuple[int, float, np.ndarray]], fps: float) -> Iterator[np.ndarray]:
    """Repeat or leave out frames such that they come at a constant rate."""
    tick, held = 0, None
    for _, time_s, image in frames:
        while held is not None and tick + 0.5 < time_s * fps:
            yield held
            tick += 1
        held = image
    if held is not None:
        yield held


def _drawn(answer: Answer, frames: Iterator[Frame]) -> Iterator[tuple[int, float, np.ndarray]]:
    sampled = np.unique(answer.faces["frame"]) if len(answer.faces) else np.array([0])
    step = float(np.diff(sampled).min()) if len(sampled) > 1 else 12.0
    bends = boxes_between(answer.faces, step=step)
    people = answer.people.set_index("track")
    for number, time_s, image in frames:
        scale = min(1.0, LONGEST / max(image.size))
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        canvas = image.resize(size, Image.Resampling.BILINEAR) if scale < 1 else image
        pen = ImageDraw.Draw(canvas)
        font = ImageFont.load_default(max(13, min(size) // 24))
        for track, bend in bends.items():
            now = [np.interp(number, bend["frame"], bend[c], np.nan, np.nan) for c in bend][1:]
            if np.isfinite(now).all():
                corners, score = np.array(now[:4]) * scale, now[4]
                who = people.loc[track]
                label = f"person {track}: {who['decision']} {who['score']:.2f}, now {score:.2f}"
                _draw_box(pen, corners, label, who["decision"], font, size)
        verdict = f" {answer.decision}  P(FAKE) {answer.score:.2f} "
        if answer.faces.empty:
            verdict = " UNSURE  not judged "
        _draw_label(pen, (0, 0), verdict, answer.decision, font)
        yield number, time_s, np.asarray(canvas)


def _draw_box(
    pen: ImageDraw.ImageDraw,
    corners: np.ndarray,
    label: str,
    decision: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    size: tuple[int, int],
) -> None:
    x1, y1, x2, y2 = corners.tolist()
    if x2 <= x1 or y2 <= y1:
        return
    pen.rectangle(
        (x1, y1, x2, y2), outline=COLORS.get(decision, MUTED), width=max(2, size[1] // 240)
    )
    left, _, right, bottom = pen.textbbox((0, 0), label, font=font)
    x = max(0, min(x1, size[0] - (right - left) - 8))
    y = y1 - bottom - 6 if y1 - bottom - 6 > bottom + 6 else min(y2 + 2, size[1] - bottom - 6)
    _draw_label(pen, (x, y), label, decision, font)


def _draw_label(
    pen: ImageDraw.ImageDraw,
    place: tuple[float, float],
    text: str,
    decision: str,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
) -> None:
    """White on the colour of the answer, which the text says too."""
    x, y = place
    _, _, right, bottom = pen.textbbox((x + 4, y + 2), text, font=font)
    pen.rectangle((x, y, right + 4, bottom + 3), fill=COLORS.get(decision, MUTED))
    pen.text((x + 4, y + 2), text, fill="white", font=font)
