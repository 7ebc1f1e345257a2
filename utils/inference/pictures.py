"""Answers as pictures and files: timelines, contact sheets, annotated copies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from pathlib import Path, PurePath

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from utils.evaluation.explanation import can_explain, heat_maps, overlay
from utils.faces.media import Frame, is_image, open_media, probe, write_video
from utils.inference.answers import Answer, Judge, answer_tables, recut, submission
from utils.report.figures import COLORS, MUTED, SHOWN, plot_people, plot_timeline, save_figure
from utils.run.artifacts import atomic_path, write_table

#: Crops a person on a contact sheet, spread over its time.
CROPS = 6


def file_names(names: Sequence[str]) -> list[str]:
    """A file name for each name from the data: one part, no suffix, no markup, no two alike.

    Letters and digits of any script stay, all else becomes "_".
    """
    result: list[str] = []
    for path in names:
        name = str(PurePath(path).with_suffix("")) if PurePath(path).name else path
        safe = re.sub(r"[^\w.-]+", "_", name).strip("._-")[-80:].strip("._-") or "file"
        number, unique = 2, safe
        while unique.casefold() in {given.casefold() for given in result}:
            unique, number = f"{safe}-{number}", number + 1
        result.append(unique)
    return result


def extremes(answers: Sequence[Answer], *, n: int) -> list[Answer]:
    """`n` answers, those of the highest and of the lowest score in turn; -1: all, highest first."""
    ordered = sorted(answers, key=lambda answer: -answer.score)
    if n < 0:
        return ordered
    high, low = ordered[: -(-n // 2)], ordered[-(-n // 2) :][::-1][: n // 2]
    return [answer for pair in zip_longest(high, low) for answer in pair if answer is not None]


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
        answer.people,
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


def write_answers(
    judge: Judge, answers: Sequence[Answer], output: Path, *, frames_per_video: int
) -> None:
    """Write the tables, and for each judged file a contact sheet, an annotated copy, a timeline."""
    faces, verdicts = answer_tables(answers)
    write_table(faces, output, "inference.csv")
    write_table(verdicts, output, "verdicts.csv")
    write_table(submission(verdicts), output, "submission.csv")
    folder, n = output / "annotated", frames_per_video
    for answer, title, name in zip(answers, verdicts["input"], file_names(verdicts["input"])):
        if answer.faces.empty:
            continue
        if answer.faces["frame"].nunique() > 1:
            show_timeline(judge, answer, title=title, frames_per_video=n)
            save_figure(folder / f"{name}.timeline.png")
        maps = can_explain()
        show_people(judge, answer, title=title, frames_per_video=n, with_maps=maps)
        save_figure(folder / f"{name}.people.png")
        plt.close("all")
        annotate(answer, folder, name)


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
