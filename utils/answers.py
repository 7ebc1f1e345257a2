"""Answers as pictures and files: timelines, contact sheets, annotated copies."""

from __future__ import annotations

import argparse
import ast
import re
import sys
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path, PurePath

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from utils.annotate import annotate_image, annotate_video
from utils.artifacts import write_table
from utils.explain import can_explain, heat_maps, overlay
from utils.inference import answer_tables, find_model, judge_files, submission
from utils.judging import Answer, recut
from utils.media import collect_inputs, is_image
from utils.plots import save_figure
from utils.plots_video import SHOWN, plot_people, plot_timeline
from utils.runtime import get_device
from utils.scoring import Judge, load_judge

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


def main(argv: list[str] | None = None) -> int:
    """Judge files from the command line; returns 0, or 2 where nothing could be judged at all."""
    parser = argparse.ArgumentParser(prog="python -m utils.answers", description=main.__doc__)
    parser.add_argument("--input", required=True, help="file, folder or glob; or a list ['a','b']")
    parser.add_argument("--model", default="", help="model folder; default: of OUTPUT")
    parser.add_argument("--output", default="", help="where tables and pictures go; default: none")
    parser.add_argument("--frames", type=int, default=16, help="frames a video; 0: all")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    args = parser.parse_args(argv)
    try:
        inputs = collect_inputs(_as_list(args.input))
        judge = load_judge(find_model(args.model, args.output), device=get_device(args.device))
        answers = judge_files(judge, inputs, frames_per_video=args.frames, progress=False)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for answer in answers:
        print(answer)
    if args.output:
        write_answers(judge, answers, Path(args.output), frames_per_video=args.frames)
        print(f"Tables and pictures are in {args.output}")
    return 0


def _as_list(text: str) -> list[str]:
    """One pattern, or a list of them as Python or JSON writes it."""
    if not (text.startswith("[") and text.endswith("]")) or Path(text).exists():
        return [text]
    try:
        return [str(pattern) for pattern in ast.literal_eval(text)]
    except (ValueError, SyntaxError):
        return [text]  # a glob, such as [ab].png


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


if __name__ == "__main__":
    sys.exit(main())
