"""Many images and videos in, answers and tables out."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from functools import lru_cache, partial
from operator import itemgetter
from pathlib import Path

import pandas as pd
import torch

from utils.data.crops import crop_paths
from utils.data.datasets import index_videos
from utils.faces.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES, collect_inputs
from utils.inference.judging import Answer, Judge, judge_file, load_judge, unjudged
from utils.model.network import choose_model
from utils.run.artifacts import ARTIFACTS, bring, data_folder, read_table, write_table
from utils.run.jobs import Bar, run_jobs
from utils.run.machine import get_device, input_roots, short_names

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


def predict(
    path: str | Path,
    *,
    model: str | Path | Judge = "",
    frames_per_video: int = 16,
    device: str = "auto",
    prior: float = 0.0,
) -> Answer:
    """Judge one image or video: `print(predict("clip.mp4"))`.

    The answer has its reason where it is UNSURE, also if the file cannot be read. Raises
    FileNotFoundError if there is no model.

    Args:
        model: folder of 03 and 04; "" looks in OUTPUT, in attached inputs and in `models/` of the
            project. For many files pass a `Judge`, or use `judge_files`.
        frames_per_video: evenly spaced frames that are searched for faces; 0 means all.
        device: "auto", "cpu" or "cuda".
        prior: of `load_judge`; a `Judge` has its own.
    """
    if not isinstance(model, Judge):
        model = load_judge(choose_model(model), device=get_device(device), prior=prior)
    return judge_file(model, str(path), frames_per_video=frames_per_video)


def choose_inputs(
    inputs: Sequence[str], crops: Sequence[str], data: str, output: str | Path, *, n: int, seed: int
) -> tuple[list[str], list[str]]:
    """What 05 judges: what is named; else held-out examples; else what is attached to the model.

    Args:
        inputs, crops: files, folders and globs, of `collect_inputs`.
        data, output: DATA and OUTPUT.
        n: examples of either kind at most, where nothing is named.
        seed: of their draw.
    Returns:
        Images and videos to look for faces in; face crops.
    Raises:
        FileNotFoundError: a pattern matches nothing, or there is nothing to judge at all.
    """
    named = collect_inputs(inputs), collect_inputs(crops)
    if any(named):
        return named
    if bring(["index.csv"], output):
        return held_out_examples(read_table(output, "index.csv"), data, output, n=n, seed=seed)
    suffixes = IMAGE_SUFFIXES + VIDEO_SUFFIXES
    roots = input_roots()
    found = [str(r) for r in roots if any(p.suffix.lower() in suffixes for p in r.rglob("*"))]
    if not found:
        raise FileNotFoundError(
            "nothing to judge: name files in INPUTS, attach a data set with images or videos, or, "
            "for held-out examples, the output of 04_evaluate"
        )
    return collect_inputs(found)[:n], []


def held_out_examples(
    index: pd.DataFrame, data: str, output: str | Path, *, n: int, seed: int = 0
) -> tuple[list[str], list[str]]:
    """Paths of up to `n` raw videos and up to `n` crops of the test split, drawn by chance.

    `data` is the folder of the raw videos or of the crops that the index was made from, or "";
    `output` is where 00 may have written the crops.
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
    progress: bool | None = True,
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
        progress: show a bar; None: none in a file.
    Returns:
        One answer a file: the inputs, then the crops.
    Raises:
        ValueError: a file is named as an input and as a crop.
    """
    if twice := sorted(set(inputs) & set(crops)):
        raise ValueError(f"{twice[0]} is in INPUTS and in CROPS: name it in one of them")
    files = [(path, False) for path in inputs] + [(path, True) for path in crops]
    work = [(number, path, cropped) for number, (path, cropped) in enumerate(files)]
    if not workers and not scheduler and (judge.scorer.device.type != "cpu" or len(work) < MANY):
        workers = 1
    if workers == 1 and not scheduler:
        results = _judge_here(judge, work, frames_per_video)
    else:
        model, device = _model_state(judge), judge.scorer.device.type
        function = partial(_judge_apart, model, device, judge.asked, frames_per_video)
        away = [(number, os.path.abspath(path), cropped) for number, path, cropped in work]
        lost = partial(_lost, judge)
        results = run_jobs(function, away, workers=workers, scheduler=scheduler, lost=lost)
    hidden = None if progress is None else not progress
    bar = Bar(results, "judge", len(work), unit="file", disable=hidden)
    ordered = sorted(bar, key=itemgetter(0))
    return [replace(answer, input=files[number][0]) for number, answer in ordered]


def _judge_here(judge: Judge, work: Sequence[_Work], frames_per_video: int) -> Iterator[_Result]:
    """Several files at once in threads: while one is decoded, others are searched and scored."""
    fewest, most = IN_FLIGHT
    cores = os.cpu_count() or 1
    at_once = min(max(fewest, min(most, cores)), len(work))
    if at_once < 2:
        yield from map(partial(_judge_one, judge, frames_per_video, 0), work)
        return
    # No more threads within than cores that no file keeps busy: they would fight for them.
    judge_one = partial(_judge_one, judge, frames_per_video, max(1, cores // at_once))
    # Large ones first: a large one at the end would keep one core busy and the others waiting.
    sizes = {p: os.path.getsize(p) if os.path.exists(p) else 0 for _, p, _ in work}
    largest_first = sorted(work, key=lambda item: -sizes[item[1]])
    # One thread of torch a file, or they would fight for the cores; set for the thread that calls.
    before, set_threads = torch.get_num_threads(), torch.set_num_threads
    set_threads(1)
    pool = ThreadPoolExecutor(at_once, "judge", set_threads, (1,))
    try:
        for future in as_completed([pool.submit(judge_one, item) for item in largest_first]):
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)
        set_threads(before)


def _judge_one(judge: Judge, frames_per_video: int, threads: int, item: _Work) -> _Result:
    number, path, cropped = item
    answer = judge_file(
        judge, path, frames_per_video=frames_per_video, cropped=cropped, threads=threads
    )
    return number, answer


def _judge_apart(
    model: _Model, device: str, prior: float, frames_per_video: int, item: _Work
) -> _Result:
    """The same in another process, which loads the model once and again when it changes."""
    return _judge_one(_loaded(model, device, prior), frames_per_video, 1, item)


def _model_state(judge: Judge) -> _Model:
    files = sorted(judge.scorer.folder.resolve().iterdir())
    return str(judge.scorer.folder.resolve()), tuple(file.stat().st_mtime_ns for file in files)


@lru_cache(maxsize=1)
def _loaded(model: _Model, device: str, prior: float) -> Judge:
    return load_judge(model[0], device=get_device(device), prior=prior)


def _lost(judge: Judge, item: _Work) -> _Result:
    number, path, _ = item
    reason = f"{Path(path).name} took down every process that judged it"
    return number, unjudged(judge, path, reason)


def answer_tables(answers: Sequence[Answer]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The tables of inference.csv (a row a face) and of verdicts.csv (a row an input).

    An input is named by its bare file name where that is unique, and by as much of its path as it
    takes to tell two inputs apart where it is not. Faces have `person_score` and `note` too, and
    both `prior`: the share of FAKE for which a score holds. Verdicts tell the `model`.
    """
    rows, faces = [], []
    for name, a in zip(short_names([answer.input for answer in answers]), answers, strict=True):
        rows.append(
            (name, len(a.faces), a.n_people, a.score, a.decision, a.reason, a.prior, a.model)
        )
        if len(a.faces):
            people = a.people.set_index("track").rename(columns={"score": "person_score"})
            told = a.faces.drop(columns="logit").assign(input=name)
            told = told.join(people[["person_score", "note"]], on="track")
            faces.append(told.assign(prior=a.prior))
    verdicts = pd.DataFrame(rows, columns=[*ARTIFACTS["verdicts.csv"].columns, "prior", "model"])
    if not faces:
        return pd.DataFrame(columns=ARTIFACTS["inference.csv"].columns), verdicts
    return pd.concat(faces, ignore_index=True), verdicts


def submission(verdicts: pd.DataFrame, *, clip: Sequence[float] = CLIP) -> pd.DataFrame:
    """`filename,label` for every input once; label is P(FAKE) within `clip`.

    An input that could not be judged has the prior. Raises ValueError if `clip` is not two
    rising numbers within 0 and 1.
    """
    if len(clip) != 2 or not 0 <= clip[0] <= clip[1] <= 1:
        raise ValueError(f"CLIP is {clip}; it must be two rising numbers within 0 and 1")
    labels = verdicts["score"].astype(float).clip(*clip)
    return pd.DataFrame({"filename": verdicts["input"], "label": labels})


def write_tables(
    answers: Sequence[Answer], output: str | Path, *, clip: Sequence[float] = CLIP
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Write inference.csv, verdicts.csv, submission.csv; return the tables of faces and files."""
    faces, verdicts = answer_tables(answers)
    write_table(faces, output, "inference.csv")
    write_table(verdicts, output, "verdicts.csv")
    write_table(submission(verdicts, clip=clip), output, "submission.csv")
    return faces, verdicts
