"""Raw videos in, face crops out, in the layout of the main data set."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from PIL import Image

from utils.faces.detection import (
    ABOUT,
    DRAWN,
    CropRecipe,
    Face,
    Linker,
    cut_at,
    cut_faces,
    find_faces,
    load_detector,
    look,
    read_about,
    shrink,
)
from utils.faces.media import probe, sample_frames
from utils.run.artifacts import ARTIFACTS, atomic_path
from utils.run.jobs import Bar, prefetch, run_jobs

NEEDED = ("path", "dataset", "video", "filename", "label", "original", "method", "split")
METADATA, BOXES, RECIPE = "metadata.csv", "boxes.csv", "recipe.json"
#: Where the crops of unfinished videos lie; and a file for each finished one, with what was found,
#: from what and how.
PARTIAL, RECORDS = ".partial", ".records"
#: Part of every fingerprint: a change of this package that changes crops or records raises it.
VERSION = 3
_detector = lru_cache(maxsize=1)(load_detector)


def find_example(
    videos: pd.DataFrame, recipe: CropRecipe, *, seed: int = 0
) -> tuple[Image.Image, list[Face]]:
    """The middle frame with most faces among eight videos drawn by chance, and its faces.

    A video that cannot be read is passed over. Raises ValueError if none can.
    """

    def middles() -> Iterator[Image.Image]:
        for path in videos["path"].sample(frac=1, random_state=seed):
            with suppress(ValueError, OSError):
                yield next(sample_frames(path, 1))[2]

    found = [(f, cut_faces(_detector(recipe), f, recipe)) for f in islice(middles(), 8)]
    if not found:
        raise ValueError(f"none of {len(videos)} videos can be read: {videos['path'].tolist()[:3]}")
    return max(found, key=lambda example: len(example[1]))


def one_face_a_video(boxes: pd.DataFrame, folder: str | Path, *, seed: int = 0) -> pd.DataFrame:
    """Rows of `boxes` (of boxes.csv): a face of each of 24 videos, both drawn by chance.

    The column `crop` is the path of the image in `folder`, where `extract_faces` wrote it.
    """
    drawn = boxes.sample(frac=1, random_state=seed).drop_duplicates("video").head(24)
    crops = [Path(folder, row.video, crop_name(row.frame, row.face)) for row in drawn.itertuples()]
    return drawn.assign(crop=crops)


def crop_name(frame: int, face: int) -> str:
    """`<frame>.png`; further faces of a frame are `<frame>_2.png`, `<frame>_3.png`."""
    return f"{frame}_{face}.png" if face > 1 else f"{frame}.png"


def extract_faces(
    videos: pd.DataFrame,
    folder: str | Path,
    *,
    frames_per_video: int = 0,
    recipe: CropRecipe | None = None,
    workers: int = 1,
    scheduler: str = "",
    progress: bool = True,
) -> pd.DataFrame:
    """Cut the faces of many videos into the layout of the main data set.

    Writes `folder/<video>/<frame>.png` (further faces of a frame: `_2`, `_3`), `boxes.csv` (a row
    a face), `recipe.json` and, last of all, `metadata.csv` (a row a video, with or without faces).

    A run that was stopped goes on where it was, and a second one does nothing twice: a video is
    finished when its record in `folder/.records` tells of the same source file (size and time of
    change), frames and recipe, and its crops are all there. Any other is made anew, as a whole.
    What a former run wrote for videos that are not in the table any more is removed.

    Args:
        videos: a row a video, with the columns NEEDED; `video` is unique and names the folder.
        frames_per_video: evenly spaced frames to search; 0 means every frame.
        workers, scheduler: see `run_jobs`.
    Returns:
        A row a video: `video, n_frames` (searched), `n_faces, seconds, reason` (why there are no
        faces, or ""), `kept` (a former run had finished it). A video that cannot be read,
        or whose name is unfit for a folder, does not stop the others.
    Raises:
        ValueError: a column is missing, a video's name is not unique, or `folder` holds something
            that this function did not write.
    """
    recipe, folder = recipe or CropRecipe(), Path(folder).absolute()
    missing = [column for column in NEEDED if column not in videos]
    if missing:
        raise ValueError(f"the table of videos lacks: {', '.join(missing)}")
    if len(twice := videos.loc[videos["video"].duplicated(), "video"]):
        raise ValueError(f"video {twice.iloc[0]!r} is in the table twice; names must be unique")
    _detector(recipe)  # a missing package must not fail every video by itself
    rows = videos.fillna({"original": ""}).to_dict("records")
    # In the tables a file is called by its folder, and so is an original, whose name may differ.
    files = {row["video"]: row["video"] + (Path(row["path"]).suffix or ".mp4") for row in rows}
    known = {(r["dataset"], r["filename"]): files[r["video"]] for r in rows if r["label"] == "REAL"}
    originals = {r["video"]: known.get((r["dataset"], r["original"]), r["original"]) for r in rows}
    how = (folder, frames_per_video, recipe, 1 if workers != 1 else 0)
    jobs = [_Job(row["video"], os.path.abspath(row["path"]), *how) for row in rows]
    records: dict[str, dict[str, Any]] = {}
    with (
        _working_folder(folder, [name for name in files if not _unfit(name)]),
        Bar(total=len(rows), desc="Extract faces", unit="video", disable=not progress) as bar,
    ):
        for record in _run(jobs, workers, scheduler):
            records[record["video"]] = record
            bar.update()
        ordered = [records[video] for video in files]
        boxes = [(record["video"], *face) for record in ordered for face in record["faces"]]
        _write(pd.DataFrame(boxes, columns=ARTIFACTS[f"faces/{BOXES}"].columns), folder, BOXES)
        with atomic_path(folder / RECIPE) as temporary:
            temporary.write_text(json.dumps(recipe.to_dict(), indent=2) + "\n")
        if {read_about(path) for path in {Path(job.path).parent for job in jobs}} == {DRAWN}:
            with atomic_path(folder / ABOUT) as temporary:
                temporary.write_text(json.dumps({"faces": DRAWN}) + "\n")
        told = videos.assign(filename=list(files.values()), original=list(originals.values()))
        told["fps"] = [record["fps"] for record in ordered]
        for i, side in enumerate(("width", "height")):  # whole numbers, or nothing
            told[side] = pd.array([record["size"][i] for record in ordered], dtype="Int64")
        more = [c for c in ("person", "group") if c in told and (told[c] != "").any()]
        _write(told, folder, METADATA, more)
    columns = ["video", "n_frames", "n_faces", "seconds", "reason", "kept"]
    return pd.DataFrame([r | {"n_faces": len(r["faces"])} for r in ordered], columns=columns)


def _unfit(name: str) -> str:
    """Why a video's name is not the plain name of a folder, "" if it is."""
    plain = name.isprintable() and name == name.strip() == Path(name).name and "\\" not in name
    # In 255 bytes a record has its suffix, too.
    if plain and not name.startswith(".") and 0 < len(name.encode()) <= 250:
        return ""
    return f"{name!a:.80} cannot name a folder: use up to 250 letters, digits, - and _"


@contextmanager
def _working_folder(folder: Path, names: list[str]) -> Iterator[None]:
    """Take away what a former run wrote and the new one does not know; tidy up in the end.

    Only folders of videos that have a record, finished or not, are ever removed.
    """
    partial, records = folder / PARTIAL, folder / RECORDS
    if (folder / METADATA).exists() and not records.exists():
        raise ValueError(f"{folder} holds a data set from elsewhere; choose another OUTPUT")
    owned = {path.stem for path in records.glob("[!.]*.json")}  # no half one of a killed process
    foreign = sorted(name for name in set(names) - owned if (folder / name).exists())
    if foreign:
        raise ValueError(
            f"{folder / foreign[0]} was not made by an extraction and is not replaced; "
            "choose another OUTPUT or move it away"
        )
    shutil.rmtree(partial, ignore_errors=True)
    for made in (partial, records):
        made.mkdir(parents=True, exist_ok=True)
    for name in (METADATA, BOXES, RECIPE, ABOUT):
        (folder / name).unlink(missing_ok=True)
    for name in owned - set(names):
        _remove_video(folder, name)
    yield
    shutil.rmtree(partial)


def _remove_video(folder: Path, name: str) -> None:
    if (folder / name).exists():  # before the record, by which the folder is known as ours
        shutil.rmtree(folder / name)
    _record(folder, name).unlink(missing_ok=True)


def _record(folder: Path, name: str) -> Path:
    return folder / RECORDS / f"{name}.json"


def _write(table: pd.DataFrame, folder: Path, name: str, more: Sequence[str] = ()) -> None:
    with atomic_path(folder / name) as temporary:
        told = table[[*ARTIFACTS[f"faces/{name}"].columns, *more]]
        told.to_csv(temporary, index=False, errors="backslashreplace")


@dataclass(frozen=True)
class _Job:
    """One video to cut."""

    video: str
    path: str
    folder: Path
    frames_per_video: int
    recipe: CropRecipe
    threads: int

    def blank(self) -> dict[str, Any]:
        """The record of a video of which nothing is known yet."""
        nothing = {"key": "", "reason": "", "kept": False, "fps": None, "seconds": 0.0}
        found = {"size": [None, None], "n_frames": 0, "faces": []}
        return {"video": self.video, **nothing, **found}

    def key(self) -> str:
        """Fingerprint of the source file and of all that its crops follow from; may be OSError."""
        source = os.stat(self.path)
        how = (self.recipe.to_dict(), self.frames_per_video)
        told = json.dumps([VERSION, source.st_size, source.st_mtime_ns, how], sort_keys=True)
        return hashlib.sha256(told.encode()).hexdigest()

    def finished(self) -> dict[str, Any] | None:
        """The record of a former run, if its key still holds and its crops are all there."""
        try:
            record = json.loads(_record(self.folder, self.video).read_text(encoding="utf-8"))
            crops = {crop_name(*row[:2]) for row in record["faces"]}
            present = set(os.listdir(self.folder / self.video)) if crops else set()
            return record if record["key"] == self.key() and crops == present else None
        except (OSError, ValueError, TypeError, KeyError):
            return None


def _run(jobs: list[_Job], workers: int, scheduler: str) -> Iterator[dict[str, Any]]:
    """The records of all jobs, first those that were finished before."""
    left = []
    for job in jobs:
        if reason := _unfit(job.video):
            yield job.blank() | {"reason": reason}
        elif record := job.finished():
            yield record | {"kept": True}
        else:
            left.append(job)
    yield from run_jobs(_extract, left, workers=workers, scheduler=scheduler, lost=_lost)


def _lost(job: _Job) -> dict[str, Any]:
    _remove_video(job.folder, job.video)  # what a former run made in another way
    reason = "the process that cut it died again and again: too little memory, or a broken file"
    return job.blank() | {"reason": reason}


def _extract(job: _Job) -> dict[str, Any]:
    """Cut one video: its crops and its record are written, or neither."""
    start = time.perf_counter()
    if record := job.finished():  # by a process that died before it could tell
        return record
    record, made = job.blank(), job.folder / PARTIAL / job.video
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    torch_threads = torch.get_num_threads()
    # The other cores decode meanwhile: two teams of threads would wait for each other.
    torch.set_num_threads(1)
    try:
        key, info = job.key(), probe(job.path)
        record |= {"fps": round(info.fps, 4), "size": [info.width, info.height]}
        record["n_frames"], record["faces"] = _cut(job, made)
        if not record["faces"]:
            record["reason"] = f"no face found in {record['n_frames']} frames"
        record["key"] = key
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: of the detector
        record["reason"] = str(error)
    finally:
        torch.set_num_threads(torch_threads)
    record["seconds"] = time.perf_counter() - start
    # The crops come as a whole, after the record: killed in between, it does not hold.
    _remove_video(job.folder, job.video)
    with atomic_path(_record(job.folder, job.video)) as temporary:
        temporary.write_text(json.dumps(record), encoding="utf-8")
    if record["faces"]:
        os.replace(made, job.folder / job.video)
    shutil.rmtree(made, ignore_errors=True)
    return record


def _cut(job: _Job, made: Path) -> tuple[int, list]:
    """Save the crops of one video; give the number of frames and the rows of `boxes.csv`."""
    frames = sample_frames(job.path, job.frames_per_video, threads=job.threads)
    shrunk = ((number, image, shrink(image, job.recipe)) for number, _, image in frames)
    linker, n_frames, rows = Linker(), 0, []
    for number, image, small in prefetch(shrunk):
        n_frames += 1
        faces = cut_at(image, small, find_faces(_detector(job.recipe), small), job.recipe)
        # As 05 does it: the same frames give the same tracks.
        tracks = linker.link([face.box for face in faces], [look(face.crop) for face in faces])
        for index, (face, track) in enumerate(zip(faces, tracks, strict=True), start=1):
            face.crop.save(made / crop_name(number, index))
            sides = (round(side, 2) for side in face.box)
            rows.append([number, index, track, *sides, round(face.probability, 5)])
    return n_frames, rows
