"""Answers as pictures: timelines, contact sheets, annotated copies."""

from __future__ import annotations

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path, PurePath
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from PIL import Image, ImageDraw, ImageFont

from utils.evaluation.showing import can_explain, heat_maps, overlay
from utils.faces.media import Frame, is_image, open_media, probe, read_image, write_video
from utils.inference.judging import Answer, Judge, recut
from utils.report.figures import (
    COLORS,
    INK,
    MUTED,
    SHOWN,
    plain,
    plot_image_grid,
    plot_people,
    plot_timeline,
)
from utils.report.words import embed_figures, environment, write_text
from utils.run.artifacts import atomic_path
from utils.run.jobs import Bar
from utils.run.machine import printable, short_names

Made = TypeVar("Made")
#: In the order of a headline.
ORDER = ("fake", "real", "unsure", "not judged")
#: Pictures of a file that stand on the page, and what they show.
KINDS = {"timeline": "The score over time", "people": "The faces that were judged"}
#: Crops a person on a contact sheet, spread over its time.
CROPS = 6
#: Longest side of an annotated video or picture, in pixels; a larger one is shrunk.
LONGEST = 1280
#: A person who is not seen for more than so many sampling steps is gone in between.
MAX_GAP = 2.5
#: A copy ends after so many frames and ten for each of the video: two may lie years apart.
ENOUGH = 10_000
#: Rates that players like; a file of no or of an absurd rate gets the nearer end.
RATES = (1.0, 60.0)


@dataclass(frozen=True)
class Pictures:
    """What answers look like; judge and `frames_per_video` are those that gave them."""

    judge: Judge
    answers: Sequence[Answer]
    frames_per_video: int
    #: Names of what was drawn; a picture of that name may also lie there from an earlier run.
    drawn: set[str] = field(default_factory=set, compare=False)

    def choose(self, n: int) -> dict[str, Answer]:
        """`n` files (-1: all) in which faces were found, the highest and the lowest score in turn.

        Gives a name for files to its answer.
        """
        names = file_names(short_names([answer.input for answer in self.answers]))
        judged = [
            (name, answer)
            for name, answer in zip(names, self.answers, strict=True)
            if len(answer.faces) and not answer.cropped
        ]
        judged.sort(key=lambda item: -item[1].score)
        if n < 0:
            return dict(judged)
        high, low = judged[: -(-n // 2)], judged[-(-n // 2) :][::-1][: n // 2]
        return dict(item for pair in zip_longest(high, low) for item in pair if item is not None)

    def crops(self) -> Iterator[tuple[str, Figure | None]]:
        """Up to 24 face crops with their answers, by score; yields "faces" and the figure."""
        judged = [answer for answer in self.answers if answer.cropped and len(answer.faces)]
        judged = sorted(judged, key=lambda answer: answer.score)[:24]
        if not judged:
            yield "faces", None
            return
        figure = plot_image_grid(
            [read_image(answer.input) for answer in judged],
            [
                "\n".join(filter(None, (f"{a.decision} {a.score:.2f}", a.note.strip())))
                for a in judged
            ],
            columns=8,
            colors=[COLORS.get(answer.decision, MUTED) for answer in judged],
        )
        yield "faces", self._signed(figure)

    def _signed(self, figure: Figure) -> Figure:
        """The figure with the model below it, and below what else stands there."""
        words = [figure.get_supxlabel(), plain(f"Judged by {self.judge.model}", 120)]
        text = "\n".join(filter(None, words))
        figure.supxlabel(text, x=0.01, ha="left", fontsize=9, color=MUTED)
        return figure

    def timelines(self, *, n: int) -> Iterator[tuple[str, Figure]]:
        """Score over time, a line a person, with crops at the peaks; of what has several frames.

        Yields `<name>.timeline` and its figure for each file of `choose`.
        """
        chosen = self.choose(n).items()
        several = {name: a for name, a in chosen if a.faces["frame"].nunique() > 1}
        yield from self._each("timeline", several, self._timeline)

    def _timeline(self, name: str, answer: Answer, _: int) -> tuple[str, Figure]:
        people = _leading(answer)
        peaks = peak_rows(answer.faces, people, n=max(1, SHOWN // len(people)))
        positions = [position for rows in peaks for position in rows][:SHOWN]
        faces = answer.faces.iloc[positions]
        crops = recut(self.judge, answer, faces, frames_per_video=self.frames_per_video)
        ax = plot_timeline(
            answer.faces,
            answer.people,
            threshold=self.judge.decision.threshold,
            band=self.judge.decision.band,
            title=name + answer.note,
            peaks=list(zip(positions, crops, strict=True)),
        )
        return f"{name}.timeline", self._signed(ax.figure)  # type: ignore[arg-type]

    def _each(
        self, what: str, chosen: Mapping[str, Answer], make: Callable[[str, Answer, int], Made]
    ) -> Iterator[Made]:
        """What `make(name, answer, number)` makes; a picture that cannot be made is a line."""
        for number, (name, answer) in enumerate(chosen.items()):
            try:
                made = make(name, answer, number)
            except Exception as error:  # whatever a file brings about when it is read again
                reason = printable(str(error))
                Bar.write(f"{printable(name)}: no picture of it: {reason}", file=sys.stderr)
            else:
                self.drawn.add(f"{name}.{what}")
                yield made

    def people(self, *, n: int, n_maps: int) -> Iterator[tuple[str, Figure]]:
        """Contact sheets, a row of crops a person; the first `n_maps` show heat maps, with captum.

        Yields `<name>.people` and its figure for each file of `choose`.
        """
        yield from self._each("people", self.choose(n), partial(self._people, n_maps))

    def _people(self, n_maps: int, name: str, answer: Answer, number: int) -> tuple[str, Figure]:
        people = _leading(answer)
        peaks = peak_rows(answer.faces, people, n=CROPS)
        faces = answer.faces.iloc[[position for rows in peaks for position in rows]]
        found = recut(self.judge, answer, faces, frames_per_video=self.frames_per_video)
        pictures = iter(zip(found, faces.itertuples(), strict=True))
        rows = []
        for person in people.itertuples():
            seen = [next(pictures) for _ in peaks[person.track]]
            note = f" ({person.note})" if person.note else ""
            said = f"{person.decision}, P(FAKE) {person.score:.2f}{note}"
            captions = [f"{face.time_s:.1f} s: {face.score:.2f}" for _, face in seen]
            crops = [crop for crop, _ in seen]
            rows.append((f"Person {person.track}: {said}", person.decision, crops, captions))
        maps: list[list[np.ndarray]] = []
        if number < n_maps and can_explain():
            heat = heat_maps(self.judge.scorer, found, progress=False)
            limit = float(np.abs(heat).max()) or 1.0
            drawn = iter([overlay(c, h, limit=limit) for c, h in zip(found, heat, strict=True)])
            maps = [[next(drawn) for _ in crops] for _, _, crops, _ in rows]
        sheet = plot_people(rows, maps=maps, title=name + answer.note)
        return f"{name}.people", self._signed(sheet)

    def annotate(self, folder: Path, *, n: int) -> list[Path]:
        """Write annotated copies: `<name>.mp4` of what moves, `<name>.png` of pictures."""

        def write(name: str, answer: Answer, _: int) -> Path:
            still = is_image(answer.input) and answer.faces["frame"].nunique() <= 1
            how, suffix = (annotate_image, ".png") if still else (annotate_video, ".mp4")
            return how(answer, folder / f"{name}{suffix}")

        return list(self._each("copy", self.choose(n), write))

    def write_page(self, output: Path) -> Path:
        """Write answers.html: each answer in words, with its pictures in `output/annotated`.

        One file that loads nothing, for people who do not read tables.
        """
        names = short_names([answer.input for answer in self.answers])
        rows: list[dict[str, Any]] = []
        for name, file, answer in zip(names, file_names(names), self.answers, strict=True):
            paths = {kind: output / "annotated" / f"{file}.{kind}.png" for kind in KINDS}
            made = [
                {"path": path, "title": f"{KINDS[kind]}: {name}"}
                for kind, path in paths.items()
                if f"{file}.{kind}" in self.drawn and path.is_file()
            ]
            rows.append({"name": name, "answer": answer, "pictures": made})
        embedded = iter(embed_figures([picture for row in rows for picture in row["pictures"]]))
        for row in rows:
            row["pictures"] = [next(embedded) for _ in row["pictures"]]
        scorer, decision = self.judge.scorer, self.judge.decision
        told = {
            "Model": self.judge.about.splitlines()[-1],
            "Network": scorer.network.pretrained_cfg["architecture"],  # type: ignore[index]
            "Training": scorer.facts.get("splits", {}).get("train"),
        }
        counts = Counter(a.decision.lower() if len(a.faces) else "not judged" for a in self.answers)
        said = [f"{counts[word]} {word}" for word in ORDER if counts[word]]
        page = environment(autoescape=True).get_template("answers.html")
        html = page.render(
            title=f"{len(rows):,} {'file' if len(rows) == 1 else 'files'}: {', '.join(said)}",
            rows=rows,
            model={key: value for key, value in told.items() if value},
            prior=self.judge.prior,
            caution=self.judge.caution,
            decision=decision,
        )
        return write_text(output / "answers.html", html)


def file_names(names: Sequence[str]) -> list[str]:
    """A file name for each name from the data: one part, no suffix, no markup, no two alike.

    Letters and digits of any script stay, all else becomes "_". Has 200 bytes at most.
    """
    result: list[str] = []
    for path in names:
        name = str(PurePath(path).with_suffix("")) if PurePath(path).name else path
        safe = re.sub(r"[^\w.-]+", "_", name).strip("._-")[-80:]
        safe = safe.encode()[-180:].decode(errors="ignore").strip("._-") or "file"
        number, unique = 2, safe
        while unique.casefold() in {given.casefold() for given in result}:
            unique, number = f"{safe}-{number}", number + 1
        result.append(unique)
    return result


def _leading(answer: Answer) -> pd.DataFrame:
    """The people who are shown: those who decide first, then by score, SHOWN at most."""
    order = answer.people.sort_values(["decides", "score"], ascending=False)
    return order.head(SHOWN).sort_values("track")


def peak_rows(faces: pd.DataFrame, people: pd.DataFrame, *, n: int) -> pd.Series:
    """The most telling faces: of each of `n` equal parts of a person's time, the highest score.

    Gives positions in `faces`, by time, for each track that is in `people`.
    """
    placed = faces.assign(position=range(len(faces)))
    chosen = {}
    for track in people["track"]:
        seen = placed[placed["track"] == track].sort_values("time_s")
        parts = np.array_split(np.arange(len(seen)), min(n, len(seen)))
        best = [part[seen["score"].to_numpy()[part].argmax()] for part in parts]
        chosen[track] = seen["position"].to_numpy()[best].tolist()
    return pd.Series(chosen, dtype=object)


def boxes_between(faces: pd.DataFrame, *, step: float) -> dict[int, pd.DataFrame]:
    """Per person, where the box and the score bend: lines between them give every frame.

    A box stands still for half a step before its person is first seen and after it is last seen;
    between two sightings more than MAX_GAP steps apart the person counts as gone. `step` is how
    many frames lie from one sampled frame to the next. Gives for each track the columns `frame, x1,
    y1, x2, y2, score`, frames rising; NaN while gone.
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
    the video whatever their own times are, so that sound and pictures stay together. The copy is
    cut after 10,000 frames and ten for each of the video. Raises ValueError if it cannot be read.
    """
    info = None if is_image(answer.input) else probe(answer.input)
    fps = float(np.clip(info.fps if info else 10.0, *RATES))
    frames = _steady(_drawn(answer, open_media(answer.input, 0)), fps)
    frames = islice(frames, ENOUGH + 10 * (info.n_frames if info else 0))
    sound = None if info is None else answer.input
    return write_video(path, frames, fps=fps, preset="veryfast", sound_from=sound)


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
    people, size = answer.people.set_index("track"), (0, 0)
    for number, time_s, image in frames:
        if not any(size):  # that of the first frame, for a stream may change its own half-way
            shrink = min(1.0, LONGEST / max(image.size))
            size = (max(1, round(image.width * shrink)), max(1, round(image.height * shrink)))
        scale = np.tile(np.divide(size, image.size), 2)
        same = image.size == size
        canvas = image if same else image.resize(size, Image.Resampling.BILINEAR)
        pen = ImageDraw.Draw(canvas)
        pen.font = ImageFont.load_default(max(13, min(size) // 24))
        for track, bend in bends.items():
            now = [np.interp(number, bend["frame"], bend[c], np.nan, np.nan) for c in bend][1:]
            if np.isfinite(now).all():
                corners, score = np.array(now[:4]) * scale, now[4]
                who = people.loc[track]
                label = f"person {track}: {who['decision']} {who['score']:.2f}, now {score:.2f}"
                _draw_box(pen, size, corners, label, COLORS.get(who["decision"], MUTED))
        verdict = f" {answer.decision}  P(FAKE) {answer.score:.2f}{answer.note} "
        if answer.faces.empty:
            verdict = " UNSURE  not judged "
        _draw_label(pen, 0, 0, verdict, COLORS.get(answer.decision, MUTED))
        pen.font = ImageFont.load_default(max(10, min(size) // 40))
        _, _, _, bottom = pen.textbbox((4, 2), answer.model)
        _draw_label(pen, 0, size[1] - bottom - 3, answer.model, INK)
        yield number, time_s, np.asarray(canvas)


def _draw_box(
    pen: ImageDraw.ImageDraw, size: tuple[int, int], corners: np.ndarray, label: str, color: str
) -> None:
    x1, y1, x2, y2 = corners.tolist()
    if x2 <= x1 or y2 <= y1:
        return
    pen.rectangle((x1, y1, x2, y2), outline=color, width=max(2, size[1] // 240))
    left, _, right, bottom = pen.textbbox((0, 0), label)
    x = max(0, min(x1, size[0] - (right - left) - 8))
    y = y1 - bottom - 6 if y1 - bottom - 6 > bottom + 6 else min(y2 + 2, size[1] - bottom - 6)
    _draw_label(pen, x, y, label, color)


def _draw_label(pen: ImageDraw.ImageDraw, x: float, y: float, text: str, color: str) -> None:
    """White on the colour of the answer, which the text says too."""
    _, _, right, bottom = pen.textbbox((x + 4, y + 2), text)
    pen.rectangle((x, y, right + 4, bottom + 3), fill=color)
    pen.text((x + 4, y + 2), text, fill="white")
