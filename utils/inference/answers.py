"""Images and videos in, answers out: frames → faces → people → REAL, FAKE or UNSURE."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache, partial
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.special import expit
from tqdm.auto import tqdm

from utils.data.crops import crop_paths
from utils.data.layouts import index_videos
from utils.faces.detection import (
    CropRecipe,
    Face,
    Linker,
    cut_faces,
    load_detector,
    look,
    focus,
)
from utils.faces.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, Frame, open_media
from utils.model.network import find_model_folder, fold_batch_norms, load_model
from utils.model.scoring import Transform, model_transform, predict_logits
from utils.run.artifacts import ARTIFACTS, check_fields, data_folder
from utils.run.jobs import prefetch, run_jobs
from utils.run.machine import get_device, input_roots, output_folder
from utils.stats.decisions import PERSON, UNSURE, find_people, judge_people


def attached_media() -> list[str]:
    """Attached inputs with images or videos: what 05 judges beside a model that comes alone.

    Raises:
        FileNotFoundError: there are none; says what to do.
    """
    suffixes = IMAGE_SUFFIXES + VIDEO_SUFFIXES
    found = [
        str(root)
        for root in input_roots()
        if any(path.suffix.lower() in suffixes for path in root.rglob("*"))
    ]
    if not found:
        raise FileNotFoundError(
            "nothing to judge: name files in INPUTS, attach a data set with images or videos, or, "
            "for held-out examples, the output of 04_evaluate"
        )
    return found


#: Crops that are scored at once, and that wait for it at most: memory does not grow with a video.
BATCH = 32
#: The rule before 04 has chosen one: uncalibrated, half, nothing withheld.
UNDECIDED = {
    "temperature": 1.0,
    "threshold": 0.5,
    "rule": "none: 04_evaluate has not run",
    "aggregation": "mean_logit",
    "abstention": None,
}


@dataclass(frozen=True)
class Judge:
    """A model with all that it takes to judge a file as it was evaluated.

    Attributes:
        model: two logits, REAL and FAKE; batch norms folded into the convolutions before them.
        transform: the model's own eval transform.
        detector: the face detector that cut the training crops.
        recipe: how it cut them.
        decision: temperature, threshold, rule, aggregation and abstention band, chosen on val.
        prior: share of FAKE videos in training, the answer where nothing can be seen.
        device: where the model runs.
        folder: where it was loaded from, for other processes.
    """

    model: torch.nn.Module
    transform: Transform
    detector: Any
    recipe: CropRecipe
    decision: dict[str, Any]
    prior: float
    device: torch.device
    folder: Path


def load_judge(folder: str | Path, *, device: torch.device) -> Judge:
    """Load a model folder with its decision rule and its crop recipe.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: it is no model of this kind.
    """
    model, extra = load_model(folder)
    decision: dict[str, Any] = UNDECIDED
    chosen = Path(folder) / "decision.json"
    if chosen.is_file():
        decision = json.loads(chosen.read_text(encoding="utf-8"))
        check_fields("model/decision.json", decision, chosen)
    recipe = CropRecipe.from_dict(extra.get("crop_recipe", {}))
    transform = model_transform(model)
    return Judge(
        model=fold_batch_norms(model).to(device).to(memory_format=torch.channels_last),
        transform=transform,
        detector=load_detector(recipe),
        recipe=recipe,
        decision=decision,
        prior=float(extra.get("prior", 0.5)),
        device=device,
        folder=Path(folder),
    )


def score_crops(judge: Judge, crops: Iterable[Image.Image]) -> np.ndarray:
    """The logit of FAKE of each crop, shape (n,), before calibration."""
    images = [judge.transform(crop) for crop in crops]
    batches = [(torch.stack(images[i : i + BATCH]), 0, 0) for i in range(0, len(images), BATCH)]
    return predict_logits(judge.model, batches, device=judge.device, progress=False)  # type: ignore[arg-type]


FACE_COLUMNS = [
    *ARTIFACTS["inference.csv"].columns,
    *("probability", "side", "focus", "logit"),
]


@dataclass(frozen=True)
class Answer:
    """What is said about one file; `print` it, or `str` it, for a person.

    Attributes:
        input: the file.
        decision: REAL, FAKE or UNSURE.
        score: calibrated P(FAKE), in [0, 1]; the training prior where no face could be judged.
        reason: why UNSURE, or who decided.
        faces: one row a face: the columns of inference.csv, then `probability` (of being a face),
            `side` (pixels where it was cut), `focus` and `logit`.
        people: one row a person, of `find_people`.
    """

    input: str
    decision: str
    score: float
    reason: str
    faces: pd.DataFrame = field(repr=False)
    people: pd.DataFrame = field(repr=False)

    def __str__(self) -> str:
        name = printable(self.input)
        if self.faces.empty:
            return f"{name}: {self.decision}. Not judged: {printable(self.reason)}"
        seen = f"{len(self.faces)} {'face' if len(self.faces) == 1 else 'faces'}"
        if self.n_people > 1:
            seen += f" of {self.n_people} people"
        reason = f"; {self.reason}" if self.reason else ""
        return f"{name}: {self.decision}, P(FAKE) {self.score:.2f} ({seen}{reason})"

    @property
    def n_people(self) -> int:
        """How many people decided."""
        return int(self.people["decides"].sum())

    def row(self) -> tuple[str, int, int, float, str, str]:
        """The row of verdicts.csv."""
        n_faces = len(self.faces)
        return (self.input, n_faces, self.n_people, self.score, self.decision, self.reason)


def printable(text: str) -> str:
    """A name from the data on one line, without what would steer a terminal."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def judge_file(
    judge: Judge,
    path: str,
    *,
    frames_per_video: int = 16,
    cropped: bool = False,
    threads: int = 0,
) -> Answer:
    """Score every face of one image or video and answer for the whole.

    Args:
        judge: of `load_judge`.
        path: an image or a video.
        frames_per_video: evenly spaced frames that are searched for faces; 0 means all.
        cropped: the image is a face crop already, so it is scored as it is.
        threads: of the video decoder; 0: as many as FFmpeg thinks fit; 1: no work at the same
            time, for callers who judge several files at once.
    Returns:
        The answer. A file that cannot be judged has the training prior, UNSURE, and the reason.
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
    people = find_people(faces, judge.decision)
    verdict = judge_people(people, judge.decision)
    return Answer(path, verdict.decision, verdict.score, verdict.reason, faces, people)


def unjudged(judge: Judge, path: str, reason: str) -> Answer:
    """The answer to a file that shows nothing: the training prior, UNSURE, and why."""
    faces, people = pd.DataFrame(columns=FACE_COLUMNS), pd.DataFrame(columns=PERSON)
    return Answer(path, UNSURE, judge.prior, reason, faces, people)


def _score_faces(
    judge: Judge, path: str, frames: Iterator[Frame], cropped: bool
) -> tuple[pd.DataFrame, str]:
    """The table of faces, and why there are none, or ""."""
    rows: list[tuple[Any, ...]] = []
    crops: list[Image.Image] = []
    logits: list[np.ndarray] = []
    spare: list[Image.Image] = []  # a few frames, for the case that none has a face
    linker = Linker()
    for (number, seconds, image), faces in _cut(judge, frames, cropped):
        looks = [look(face.crop) for face in faces]
        tracks = linker.link([face.box for face in faces], looks)
        for face, track in zip(faces, tracks, strict=True):
            side = _side(face, image, judge.recipe, cropped)
            facts = (face.probability, side, focus(face.crop))
            rows.append((path, number, seconds, track, *face.box, *facts))
            crops.append(face.crop)
        if not rows and len(spare) < 3:
            spare.append(image)
        if len(crops) >= BATCH:
            logits.append(score_crops(judge, crops))
            crops = []
    if not rows:
        return pd.DataFrame(columns=FACE_COLUMNS), _why_no_face(judge, spare)
    logits.append(score_crops(judge, crops))
    table = pd.DataFrame(rows, columns=FACE_COLUMNS[:8] + FACE_COLUMNS[9:-1])
    table["logit"] = np.concatenate(logits)
    table["score"] = expit(table["logit"] / judge.decision["temperature"])
    return table[FACE_COLUMNS], ""


def _cut(
    judge: Judge, frames: Iterator[Frame], cropped: bool
) -> Iterator[tuple[Frame, list[Face]]]:
    for frame in frames:
        image = frame[2]
        if cropped:
            whole = (0.0, 0.0, float(image.width), float(image.height))
            yield frame, [Face(whole, 1.0, image)]
        else:
            yield frame, cut_faces(judge.detector, image, judge.recipe)


def _side(face: Face, image: Image.Image, recipe: CropRecipe, cropped: bool) -> float:
    """Shorter side of a face in pixels of the frame that it was cut from."""
    x1, y1, x2, y2 = face.box
    if cropped:  # how large it was before it was cut is not known
        return float(recipe.image_size)
    return min(x2 - x1, y2 - y1) * recipe.shrunk(*image.size)[0] / image.width


def _why_no_face(judge: Judge, images: list[Image.Image]) -> str:
    """Look again at twice the size: a face that appears then was only too small."""
    for image in images:
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
    judge: Judge,
    answer: Answer,
    faces: pd.DataFrame,
    *,
    frames_per_video: int,
    cropped: bool = False,
) -> list[Image.Image]:
    """The crops of some rows of `answer.faces` again, to be looked at: they are not kept.

    Args:
        judge: that gave the answer.
        answer: of `judge_file`.
        faces: rows of `answer.faces`.
        frames_per_video, cropped: as then.
    Returns:
        One crop a row, in order.
    """
    found: dict[int, list[Face]] = {}
    wanted = set(faces["frame"])
    frames = (f for f in open_media(answer.input, frames_per_video) if f[0] in wanted)
    for (number, _, _), cut in _cut(judge, frames, cropped):
        found[number] = cut

    def crop(row: Any) -> Image.Image:
        # The nearest: other numbers of threads change the last digits of the boxes.
        box = np.array([row.x1, row.y1, row.x2, row.y2])
        return min(found[row.frame], key=lambda face: float(np.abs(box - face.box).sum())).crop

    return [crop(row) for row in faces.itertuples()]


#: Fewest and most files that are judged at once in one process, by its cores: while one is decoded,
#: another is scored, and the last ones end together.
IN_FLIGHT = (4, 16)
#: From so many files on, processes that load the model first are worth it on a CPU.
MANY = 64
#: P(FAKE) in submission.csv lies within this: the log loss of one sure mistake is then 4.6 at most.
CLIP = (0.01, 0.99)
_Work = tuple[int, str, bool]  # number, path, whether it is a crop already
_Result = tuple[int, Answer]
_Model = tuple[str, tuple[int, ...]]  # folder, when its files were written


def find_model(model: str | Path = "", output: str | Path = "") -> Path:
    """The model folder: `model` itself, or the one in OUTPUT or in an attached Kaggle input.

    Raises:
        FileNotFoundError: there is none; says how to get one.
    """
    if model:
        return Path(model)
    return find_model_folder(output or output_folder())


def predict(
    path: str | Path,
    *,
    model: str | Path | Judge = "",
    frames_per_video: int = 16,
    device: str = "auto",
) -> Answer:
    """Judge one image or video: `print(predict("clip.mp4"))`.

    Args:
        path: an image or a video.
        model: folder of 03 and 04; "" looks in OUTPUT and in attached inputs. For many files pass
            a `Judge`, or use `judge_files`.
        frames_per_video: evenly spaced frames that are searched for faces; 0 means all.
        device: "auto", "cpu" or "cuda".
    Returns:
        The answer, with its reason where it is UNSURE, also if the file cannot be read.
    Raises:
        FileNotFoundError: there is no model.
    """
    if not isinstance(model, Judge):
        model = load_judge(find_model(model), device=get_device(device))
    return judge_file(model, str(path), frames_per_video=frames_per_video)


def held_out_examples(
    index: pd.DataFrame, data: str, output: str | Path, *, n: int, seed: int = 0
) -> tuple[list[str], list[str]]:
    """Paths of up to `n` raw videos and up to `n` crops of the test split.

    Args:
        index: of index.csv.
        data: folder of the raw videos or of the crops that the index was made from, or "".
        output: where 00 may have written the crops.
        n: how many of each, drawn at random.
        seed: of the draw.
    """
    test = index[index["split"] == "test"]
    crops = test.sample(min(n, len(test)), random_state=seed)
    try:
        raw = index_videos(data)
    except FileNotFoundError:  # crops only, as Kaggle's main data set
        return [], crop_paths(crops, data_folder(data, output))
    held_out = raw[raw["video"].isin(test["video"]) & (raw["reason"] == "")]
    videos = held_out.sample(min(n, len(held_out)), random_state=seed)["path"].tolist()
    return videos, crop_paths(crops, data_folder("", output))


def judge_files(
    judge: Judge,
    inputs: Sequence[str],
    *,
    crops: Sequence[str] = (),
    frames_per_video: int = 16,
    workers: int = 0,
    scheduler: str = "",
    progress: bool = True,
) -> list[Answer]:
    """Judge many files; one that cannot be judged is listed with its reason, the others go on.

    Args:
        judge: of `load_judge`.
        inputs: images and videos in which faces are looked for.
        crops: images that are face crops already.
        frames_per_video: see `judge_file`.
        workers: processes; 1: this one alone, which still works at several files at once; 0: this
            one on a GPU and for fewer than MANY files, else one a core.
        scheduler: address of a Dask scheduler whose workers do the work instead.
        progress: show a bar over the files.
    Returns:
        One answer a file: the inputs, then the crops.
    Raises:
        ValueError: a file is named as an input and as a crop.
    """
    if twice := sorted(set(inputs) & set(crops)):
        raise ValueError(f"{twice[0]} is in INPUTS and in CROPS: name it in one of them")
    files = [(path, False) for path in inputs] + [(path, True) for path in crops]
    work = [(number, path, cropped) for number, (path, cropped) in enumerate(files)]
    if not workers and not scheduler and (judge.device.type != "cpu" or len(work) < MANY):
        workers = 1
    if workers == 1 and not scheduler:
        results = _judge_here(judge, work, frames_per_video)
    else:
        function = partial(_judge_apart, _model_state(judge), judge.device.type, frames_per_video)
        away = [(number, os.path.abspath(path), cropped) for number, path, cropped in work]
        lost = partial(_lost, judge)
        results = run_jobs(function, away, workers=workers, scheduler=scheduler, lost=lost)
    bar = tqdm(results, "judge", len(work), unit="file", disable=not progress)
    ordered = sorted(bar, key=itemgetter(0))
    return [replace(answer, input=files[number][0]) for number, answer in ordered]


def _judge_here(judge: Judge, work: Sequence[_Work], frames_per_video: int) -> Iterator[_Result]:
    """Several files at once in threads: while one is decoded, others are searched and scored."""
    fewest, most = IN_FLIGHT
    cores = os.cpu_count() or 1
    at_once = min(max(fewest, min(most, cores)), len(work))
    if at_once < 2:
        yield from ((n, judge_file(judge, p, frames_per_video=frames_per_video, cropped=c))
                    for n, p, c in work)  # fmt: skip
        return
    # No more threads within than cores that no file keeps busy: they would fight for them.
    judge_one = partial(_judge_one, judge, frames_per_video, max(1, cores // at_once))
    set_threads = torch.set_num_threads  # of the thread that calls it
    with _torch_threads(1), ThreadPoolExecutor(at_once, "judge", set_threads, (1,)) as pool:
        # Large ones first: a large one at the end would keep one core busy and the others waiting.
        largest_first = sorted(work, key=lambda item: -_size(item[1]))
        futures = [pool.submit(judge_one, item) for item in largest_first]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0


def _judge_one(judge: Judge, frames_per_video: int, threads: int, item: _Work) -> _Result:
    number, path, cropped = item
    answer = judge_file(
        judge, path, frames_per_video=frames_per_video, cropped=cropped, threads=threads
    )
    return number, answer


def _judge_apart(model: _Model, device: str, frames_per_video: int, item: _Work) -> _Result:
    """The same in another process, which loads the model once and again when it changes."""
    return _judge_one(_loaded(model, device), frames_per_video, 1, item)


def _model_state(judge: Judge) -> _Model:
    files = sorted(judge.folder.resolve().iterdir())
    return str(judge.folder.resolve()), tuple(file.stat().st_mtime_ns for file in files)


@lru_cache(maxsize=1)
def _loaded(model: _Model, device: str) -> Judge:
    return load_judge(model[0], device=get_device(device))


def _lost(judge: Judge, item: _Work) -> _Result:
    number, path, _ = item
    reason = f"{Path(path).name} took down every process that judged it"
    return number, unjudged(judge, path, reason)


@contextmanager
def _torch_threads(n: int) -> Iterator[None]:
    """Give each of several files one thread of torch, so that they do not fight for the cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def answer_tables(answers: Sequence[Answer]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of inference.csv (a row a face) and of verdicts.csv (a row an input).

    An input is named by its bare file name where that is unique, and by as much of its path as it
    takes to tell two inputs apart where it is not. Faces have `person_score` and `note` too.
    """
    names = short_names([answer.input for answer in answers])
    rows = [(name, *answer.row()[1:]) for name, answer in zip(names, answers, strict=True)]
    verdicts = pd.DataFrame(rows, columns=ARTIFACTS["verdicts.csv"].columns)
    faces = [_with_people(a).assign(input=name) for name, a in zip(names, answers) if len(a.faces)]
    if not faces:
        return pd.DataFrame(columns=ARTIFACTS["inference.csv"].columns), verdicts
    return pd.concat(faces, ignore_index=True), verdicts


def _with_people(answer: Answer) -> pd.DataFrame:
    people = answer.people.set_index("track")
    faces = answer.faces.drop(columns="logit")
    return faces.assign(
        person_score=faces["track"].map(people["score"]), note=faces["track"].map(people["note"])
    )


def submission(verdicts: pd.DataFrame, *, clip: Sequence[float] = CLIP) -> pd.DataFrame:
    """`filename,label` for every input once; label is P(FAKE) within `clip`.

    Args:
        verdicts: of `answer_tables`; an input that could not be judged has the training prior.
        clip: lowest and highest label.
    Raises:
        ValueError: `clip` is not two rising numbers within 0 and 1.
    """
    if len(clip) != 2 or not 0 <= clip[0] <= clip[1] <= 1:
        raise ValueError(f"CLIP is {clip}; it must be two rising numbers within 0 and 1")
    labels = verdicts["score"].astype(float).clip(*clip)
    return pd.DataFrame({"filename": verdicts["input"], "label": labels})


def short_names(paths: Sequence[str]) -> list[str]:
    """The end of each path, as short as it can be for all to differ."""
    parts = [Path(path).parts for path in paths]
    depth = [1] * len(parts)
    names: list[str] = []
    for _ in range(max(map(len, parts), default=0)):
        names = ["/".join(part[-d:]) for part, d in zip(parts, depth)]
        twice = pd.Series(names).duplicated(keep=False)
        if not twice.any():
            break
        depth = [d + bool(t) for d, t in zip(depth, twice)]
    return names
