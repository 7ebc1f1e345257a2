"""One image or video in, an answer out: frames → faces → people → REAL, FAKE or UNSURE."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from utils.faces.detection import (
    DRAWN,
    CropRecipe,
    Face,
    Linker,
    cut_faces,
    face_side,
    focus,
    load_detector,
    look,
)
from utils.faces.media import Frame, open_media
from utils.model.network import FILES
from utils.model.scoring import Scorer, load_scorer
from utils.report.words import in_words
from utils.run.artifacts import ARTIFACTS
from utils.run.jobs import prefetch
from utils.run.machine import printable
from utils.stats.decisions import FACE_FACTS, PERSON, UNSURE, Decision

#: Crops that are scored at once, and that wait for it at most: memory does not grow with a video.
BATCH = 32
#: Said before the answers of a model that knows nothing else.
DRAWN_ONLY = "CAUTION: this model has seen drawn faces only; its answers say nothing about people."
FACE_COLUMNS = [*ARTIFACTS["inference.csv"].columns, *FACE_FACTS, "logit"]


@dataclass(frozen=True)
class Judge:
    """A model with all that it takes to judge a file as it was evaluated."""

    scorer: Scorer  # its folder is where other processes load the model from
    detector: Any  # that cut the training crops
    recipe: CropRecipe | None  # how it cut them; None: whole images were learned from
    decision: Decision  # chosen on val
    asked: float = 0.0  # the prior that was asked for; 0: the model's own

    @property
    def prior(self) -> float:
        """Share of FAKE for which scores hold, which is the answer where nothing can be seen."""
        known = self.decision.prior
        return float(self.scorer.facts.get("prior", 0.5)) if known is None else known

    @cached_property
    def model(self) -> str:
        """What the model is called, its version if it has one, and the hash of its weights."""
        facts, weights = self.scorer.facts, self.scorer.folder / FILES[1]
        named = facts.get("title") or facts.get("name") or self.scorer.folder.name
        parts = [named, facts.get("version")]
        if weights.is_file():
            parts.append(f"({hashlib.sha256(weights.read_bytes()).hexdigest()[:12]})")
        if self.caution:
            parts.append("of drawn faces")
        return printable(" ".join(str(part) for part in parts if part))

    @property
    def caution(self) -> str:
        """What is to be said before the answers of this model, or ""."""
        return DRAWN_ONLY if self.scorer.facts.get("faces") == DRAWN else ""

    @property
    def about(self) -> str:
        """What the model is for, in a line: what it has learned from, cut how, kept apart by what.

        Where there is a `caution`, that is a line before it.
        """
        facts = self.scorer.facts
        names = in_words(facts.get("datasets") or "data that it does not tell")
        parts = [f"{self.model}: trained on {'drawn ' * bool(self.caution)}faces of {names}"]
        if by := facts.get("split_by"):
            parts.append("official split" if by == "official" else f"split by {by}")
        if facts.get("cut"):
            parts.append(str(facts["cut"]))
        return f"{self.caution}\n{printable('; '.join(parts))}.".lstrip()

    def find_faces(self, image: Image.Image, *, cropped: bool = False) -> list[Face]:
        """The faces of a frame, the largest first; of a crop, and for whole images, it is one."""
        if cropped or self.recipe is None:
            return [Face((0.0, 0.0, float(image.width), float(image.height)), 1.0, image)]
        return cut_faces(self.detector, image, self.recipe)


def load_judge(folder: str | Path, *, device: torch.device, prior: float = 0.0) -> Judge:
    """Load a model folder with its decision rule and its crop recipe.

    `prior` is the share of FAKE among the files to judge, 0 for that which the model was calibrated
    on; see `Decision.at_prior`. Raises FileNotFoundError if the folder holds no model, ValueError
    if none of this kind, or the prior is no share.
    """
    scorer = load_scorer(folder, device=device)
    told = scorer.facts.get("crop_recipe", {})
    recipe = None if told is None else CropRecipe.from_dict(told)
    detector = load_detector(recipe) if recipe else None
    judge = Judge(scorer, detector, recipe, Decision.read(folder))
    if not prior:
        return judge
    own = replace(judge.decision, prior=judge.prior)
    return replace(judge, decision=own.at_prior(prior), asked=prior)


@dataclass(frozen=True)
class Answer:
    """What is said about one file; `print` it, or `str` it, for a person.

    `faces` has a row a face: the columns of inference.csv, then `probability` (of being a face),
    `side` (pixels where it was cut), `focus` and `logit`.
    """

    input: str
    decision: str  # REAL, FAKE or UNSURE
    score: float  # calibrated P(FAKE), in [0, 1]; the prior where no face could be judged
    reason: str  # why UNSURE, or who decided
    faces: pd.DataFrame = field(repr=False)
    people: pd.DataFrame = field(repr=False)  # a row a person, of `Decision.find_people`
    cropped: bool = False  # the file was a face crop already
    prior: float = float("nan")  # share of FAKE for which the score holds
    note: str = ""  # tells of a prior that was set
    model: str = ""  # which answered, of `Judge.model`

    def __str__(self) -> str:
        name = printable(self.input)
        if self.faces.empty:
            return f"{name}: {self.decision}. Not judged: {printable(self.reason)}"
        seen = f"{len(self.faces)} {'face' if len(self.faces) == 1 else 'faces'}"
        if self.n_people > 1:
            seen += f" of {self.n_people} people"
        reason = f"; {self.reason}" if self.reason else ""
        said = f"{self.decision}, P(FAKE) {self.score:.2f}{self.note}"
        return f"{name}: {said} ({seen}{reason})"

    @property
    def n_people(self) -> int:
        """How many people decided."""
        return int(self.people["decides"].sum())


def judge_file(
    judge: Judge,
    path: str,
    *,
    frames_per_video: int = 16,
    cropped: bool = False,
    threads: int = 0,
) -> Answer:
    """Score every face of one image or video and answer for the whole.

    A file that cannot be judged has the prior, UNSURE, and the reason.

    Args:
        frames_per_video: evenly spaced frames that are searched for faces; 0 means all.
        cropped: the image is a face crop already, so it is scored as it is.
        threads: of the video decoder; 0: as many as FFmpeg thinks fit; 1: no work at the same
            time, for callers who judge several files at once.
    """
    try:
        frames = open_media(path, frames_per_video, threads=threads)
        if threads != 1:  # else other files keep the cores busy
            frames = prefetch(frames)
        faces, reason = _score_faces(judge, path, frames, cropped)
    except ValueError as error:
        return unjudged(judge, path, str(error).replace(path, Path(path).name))
    if faces.empty:
        return unjudged(judge, path, reason)
    if odd := int((~np.isfinite(faces["logit"])).sum()):
        reason = f"the model gives no finite number for {odd} of {len(faces)} faces"
        return unjudged(judge, path, reason)
    people = judge.decision.find_people(faces)
    score, decision, reason = judge.decision.judge_file(people)
    return Answer(path, decision, score, reason, faces, people, cropped, *_told(judge))


def unjudged(judge: Judge, path: str, reason: str) -> Answer:
    """The answer to a file that shows nothing: the prior, UNSURE, and why."""
    faces, people = pd.DataFrame(columns=FACE_COLUMNS), pd.DataFrame(columns=PERSON)
    return Answer(path, UNSURE, judge.prior, reason, faces, people, False, *_told(judge))


def _told(judge: Judge) -> tuple[float, str, str]:
    note = f" where {100 * judge.prior:.3g}% are FAKE" if judge.asked else ""
    return judge.prior, note, judge.model


def _score_faces(
    judge: Judge, path: str, frames: Iterator[Frame], cropped: bool
) -> tuple[pd.DataFrame, str]:
    """The table of faces, and why there are none, or ""."""
    rows: list[tuple[Any, ...]] = []
    crops: list[Image.Image] = []
    logits: list[np.ndarray] = []
    spare: list[Image.Image] = []  # a few frames, for the case that none has a face
    linker = Linker()
    for number, seconds, image in frames:
        faces = judge.find_faces(image, cropped=cropped)
        looks = [look(face.crop) for face in faces]
        tracks = linker.link([face.box for face in faces], looks)
        for face, track in zip(faces, tracks, strict=True):
            if cropped or judge.recipe is None:  # how large it was before it was cut is not known
                side = float(CropRecipe().image_size)
            else:
                side = face_side(face.box, image.size, judge.recipe)
            facts = (face.probability, side, focus(face.crop))
            rows.append((path, number, seconds, track, *face.box, *facts))
            crops.append(face.crop)
        if not rows and len(spare) < 3:
            spare.append(image)
        if len(crops) >= BATCH:
            logits.append(judge.scorer.score_crops(crops, batch_size=BATCH))
            crops = []
    if not rows:
        return pd.DataFrame(columns=FACE_COLUMNS), _why_no_face(judge, spare)
    logits.append(judge.scorer.score_crops(crops, batch_size=BATCH))
    table = pd.DataFrame(rows, columns=FACE_COLUMNS[:8] + FACE_COLUMNS[9:-1])
    table["logit"] = np.concatenate(logits)
    table["score"] = judge.decision.score(table["logit"])
    return table[FACE_COLUMNS], ""


def _why_no_face(judge: Judge, images: list[Image.Image]) -> str:
    """Look again at twice the size: a face that appears then was only too small."""
    for image in images:
        assert judge.recipe  # a whole image is never without a face
        width, height = judge.recipe.shrunk(*image.size)
        if min(image.size) < judge.detector.min_face_size:
            return f"no face can be seen in {image.width} x {image.height} pixels"
        size = (min(2 * width, image.width), min(2 * height, image.height))
        if size == (width, height) or min(size) < judge.detector.min_face_size:
            continue
        boxes, _ = judge.detector.detect(image.resize(size, Image.Resampling.BICUBIC))
        if boxes is not None:
            scale = image.width / size[0]
            side = scale * max(min(x2 - x1, y2 - y1) for x1, y1, x2, y2 in boxes)
            needed = judge.detector.min_face_size * image.width / width
            return f"faces too small: {side:.0f} pixels, about {needed:.0f} are needed"
    return "no face found"


def recut(
    judge: Judge, answer: Answer, faces: pd.DataFrame, *, frames_per_video: int
) -> list[Image.Image]:
    """The crops of some rows of `answer.faces` again, in order, to be looked at: none are kept.

    Judge and `frames_per_video` are those that gave the answer.
    """
    wanted = set(faces["frame"])
    found = {
        number: judge.find_faces(image)
        for number, _, image in open_media(answer.input, frames_per_video)
        if number in wanted
    }

    def crop(row: Any) -> Image.Image:
        # The nearest: other numbers of threads change the last digits of the boxes.
        box = np.array([row.x1, row.y1, row.x2, row.y2])
        return min(found[row.frame], key=lambda face: float(np.abs(box - face.box).sum())).crop

    return [crop(row) for row in faces.itertuples()]
