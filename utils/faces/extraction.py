"""Raw videos in, face crops out, in the layout of the main data set."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from PIL import Image
from tqdm.auto import tqdm

if TYPE_CHECKING:
    from facenet_pytorch import MTCNN
from utils.faces.detection import (
    CropRecipe,
    Place,
    cut_at,
    find_faces,
    link_tracks,
    load_detector,
    shrink,
)
from utils.faces.media import frames_at, probe, sample_frames
from utils.run.artifacts import ARTIFACTS, atomic_path
from utils.run.jobs import prefetch, run_jobs

METADATA, BOXES, RECIPE = "metadata.csv", "boxes.csv", "recipe.json"
#: Where an extraction that is under way keeps its list of videos and its unfinished crops.
PARTIAL = ".partial"
#: A file for each finished video: what was found, and from what and how it was made.
RECORDS = ".records"


def check_names(names: Sequence[object]) -> None:
    """Refuse video names that are not the plain names of different folders.

    Raises:
        ValueError: a name is empty, hidden, holds a separator or "..", or is there twice.
    """
    for name in names:
        bad = not isinstance(name, str) or not name or name[0] == "." or name != name.strip()
        if bad or ".." in str(name) or any(sign in str(name) for sign in "/\\:\0\n"):
            raise ValueError(f"video {name!r} cannot name a folder: use letters, digits, - and _")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"video {twice[0]!r} is in the table twice; names must be unique")


@contextmanager
def working_folder(folder: Path, names: list[str]) -> Iterator[None]:
    """Take away what a former run wrote and the new one does not know; tidy up in the end.

    Only folders that a former run, finished or not, listed as its own are ever removed.
    """
    partial = folder / PARTIAL
    listed, ours = partial / "videos.txt", set(names)
    owned: set[str] = set(listed.read_text().splitlines()) if listed.exists() else set()
    if (folder / METADATA).exists():
        table = pd.read_csv(folder / METADATA, dtype=str, keep_default_na=False)
        if not {*ARTIFACTS["faces/metadata.csv"].columns} <= {*table.columns}:
            raise ValueError(f"{folder} holds a data set from elsewhere; choose another OUTPUT")
        owned |= {Path(name).stem for name in table["filename"]}
    check_names(sorted(owned))
    foreign = sorted(name for name in ours - owned if (folder / name).exists())
    if foreign:
        raise ValueError(
            f"{folder / foreign[0]} was not made by an extraction and is not replaced; "
            "choose another OUTPUT or move it away"
        )
    partial.mkdir(parents=True, exist_ok=True)
    (folder / RECORDS).mkdir(exist_ok=True)
    with atomic_path(listed) as temporary:
        temporary.write_text("\n".join(sorted(owned | ours)))
    for rest in partial.iterdir():
        if rest.is_dir():
            shutil.rmtree(rest)
    for name in (METADATA, BOXES, RECIPE):
        (folder / name).unlink(missing_ok=True)
    for name in sorted(owned - ours):
        remove_video(folder, name)
    yield
    shutil.rmtree(partial)


def fingerprint(path: str, **how: Any) -> str:
    """Tell a source file, by size and time of change, and the way that it is worked on.

    Raises:
        FileNotFoundError: there is no such file.
    """
    status = os.stat(path)
    told = json.dumps([status.st_size, status.st_mtime_ns, how], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def read_record(folder: Path, name: str, key: str) -> dict[str, Any] | None:
    """What was found in a video, if it was finished with this fingerprint and is still whole."""
    path = folder / RECORDS / f"{name}.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("key") != key:
        return None
    crops = folder / name
    present = set(os.listdir(crops)) if crops.is_dir() else set()
    return record if present == {crop_name(*row[:2]) for row in record["faces"]} else None


def write_record(folder: Path, made: Path, record: dict[str, Any]) -> None:
    """Put the crops of a finished video in their place as a whole, and then its record."""
    name = record["video"]
    remove_video(folder, name)
    if record["faces"]:
        os.replace(made, folder / name)
    with atomic_path(folder / RECORDS / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(record), encoding="utf-8")


def crop_name(frame: int, face: int) -> str:
    """`<frame>.png`; further faces of a frame are `<frame>_2.png`, `<frame>_3.png`."""
    return f"{frame}_{face}.png" if face > 1 else f"{frame}.png"


def remove_video(folder: Path, name: str) -> None:
    """Remove the record and the crops of a video, if they are there."""
    (folder / RECORDS / f"{name}.json").unlink(missing_ok=True)
    if (folder / name).exists():
        shutil.rmtree(folder / name)


NEEDED = ("path", "dataset", "video", "filename", "label", "original", "method", "split")
#: Part of every fingerprint: a change of this module that changes crops or records raises it.
VERSION = 1


def extract_faces(
    videos: pd.DataFrame,
    folder: str | Path,
    *,
    frames_per_video: int = 0,
    recipe: CropRecipe | None = None,
    paired: bool = False,
    workers: int = 1,
    scheduler: str = "",
    progress: bool = True,
) -> pd.DataFrame:
    """Cut the faces of many videos into the layout of the main data set.

    Writes `folder/<video>/<frame>.png` (further faces of a frame: `_2`, `_3`), `boxes.csv` (a row
    a face), `recipe.json` and, last of all, `metadata.csv` (a row a video, with or without faces).
    Folders that a former run wrote for videos that are not in the table any more are removed.

    A run that was stopped goes on where it was, and a second one does nothing twice: a video is
    finished when its record in `folder/.records` tells of the same source file (size and time of
    change), the same frames and the same recipe, and the crops that it lists are all there. Any
    other is made anew, as a whole.

    Args:
        videos: a row a video, with the columns `path, dataset, video, filename, label, original,
            method, split`; `video` is unique and becomes the folder's name.
        folder: where to write.
        frames_per_video: evenly spaced frames to search; 0 means every frame.
        recipe: how to cut; default `CropRecipe()`.
        paired: cut a fake at the faces of its original, in the same frames, so that their crops
            differ in nothing but the fake.
        workers, scheduler: processes on this machine or on a Dask cluster, see `run_jobs`.
        progress: show a progress bar.
    Returns:
        A row a video: `video, n_frames` (searched), `n_faces, seconds, reason`, which is "" or
        says why there are no faces, `kept`, whether a former run had finished it, and `note`, why
        it could not be paired. A video that cannot be read does not stop the others.
    Raises:
        ValueError: a column is missing, a video's name is not unique or unfit for a folder, or
            `folder` holds something that this function did not write.
    """
    recipe, folder = recipe or CropRecipe(), Path(folder).absolute()
    missing = [column for column in NEEDED if column not in videos]
    if missing:
        raise ValueError(f"the table of videos lacks: {', '.join(missing)}")
    check_names(videos["video"].tolist())
    load_detector(recipe)  # a missing package must not fail every video by itself
    rows = videos.to_dict("records")
    names = {(r["dataset"], r["filename"]): _file_name(r) for r in rows if r["label"] == "REAL"}
    originals = {row["video"]: _original(row, names) for row in rows}
    how = _How(folder, frames_per_video, recipe, 1 if workers != 1 else 0)
    reals = [row for row in rows if row["label"] == "REAL"]
    fakes = [row for row in rows if row["label"] != "REAL"]
    records: dict[str, dict[str, Any]] = {}
    with (
        working_folder(folder, videos["video"].tolist()),
        tqdm(total=len(rows), desc="Extract faces", unit="video", disable=not progress) as bar,
    ):
        for part in (reals, fakes) if paired else (rows,):
            jobs = [
                _Job(row["video"], os.path.abspath(row["path"]), row["label"], how) for row in part
            ]
            if part is fakes:
                found = {_file_name(row): records[row["video"]] for row in reals}
                jobs = [replace(j, paired=True, pair=found.get(originals[j.video])) for j in jobs]
            for record in _run(jobs, workers, scheduler):
                if not paired:
                    record = record | {"places": []}  # nobody asks, and they take memory
                records[record["video"]] = record
                bar.update()
        boxes = [(row["video"], *face) for row in rows for face in records[row["video"]]["faces"]]
        _write(boxes, folder, BOXES)
        with atomic_path(folder / RECIPE) as temporary:
            temporary.write_text(json.dumps(recipe.to_dict(), indent=2) + "\n")
        told = [_metadata_row(r, originals[r["video"]], records[r["video"]]) for r in rows]
        _write(told, folder, METADATA)
    columns = ["video", "n_frames", "n_faces", "seconds", "reason", "kept", "note"]
    ordered = [records[row["video"]] for row in rows]
    return pd.DataFrame([r | {"n_faces": len(r["faces"])} for r in ordered], columns=columns)


@dataclass(frozen=True)
class _How:
    """What all jobs of a run share."""

    folder: Path
    frames_per_video: int
    recipe: CropRecipe
    threads: int


@dataclass(frozen=True)
class _Job:
    """One video to cut; with `pair`, at the faces in the record of its original."""

    video: str
    path: str
    label: str
    how: _How
    paired: bool = False
    pair: dict[str, Any] | None = None

    @property
    def key(self) -> str:
        """Fingerprint of what is worked on and how."""
        where = self.pair and {"size": self.pair["size"], "places": self.pair["places"]}
        recipe, frames = self.how.recipe.to_dict(), self.how.frames_per_video
        return fingerprint(
            self.path, version=VERSION, recipe=recipe, frames=frames, paired=self.paired, at=where
        )

    def finished(self) -> dict[str, Any] | None:
        """The record of a former run that still holds."""
        try:
            return read_record(self.how.folder, self.video, self.key)
        except OSError:  # no such file: the reason is found when it is opened
            return None


def _run(jobs: list[_Job], workers: int, scheduler: str) -> Iterator[dict[str, Any]]:
    """The records of all jobs, first those that were finished before."""
    left = []
    for job in jobs:
        if record := job.finished():
            yield record | {"kept": True}
        else:
            left.append(job)
    yield from run_jobs(_extract, left, workers=workers, scheduler=scheduler, lost=_lost)


def _lost(job: _Job) -> dict[str, Any]:
    remove_video(job.how.folder, job.video)  # what a former run made in another way
    reason = "the process that cut it died again and again: too little memory, or a broken file"
    return _blank(job) | {"reason": reason}


def _blank(job: _Job) -> dict[str, Any]:
    told: dict[str, Any] = {"video": job.video, "key": "", "fps": None, "size": [None, None]}
    told |= {"n_frames": 0, "faces": [], "places": [], "seconds": 0.0}
    return told | {"reason": "", "kept": False, "note": ""}


@lru_cache(maxsize=1)
def _detector(recipe: CropRecipe) -> MTCNN:
    return load_detector(recipe)


def _extract(job: _Job) -> dict[str, Any]:
    """Cut one video: its crops and its record are written, or neither."""
    start, folder = time.perf_counter(), job.how.folder
    if record := job.finished():  # by a process that died before it could tell
        return record
    record, made = _blank(job), folder / PARTIAL / job.video
    shutil.rmtree(made, ignore_errors=True)
    made.mkdir(parents=True)
    torch_threads = torch.get_num_threads()
    # The other cores decode meanwhile: two teams of threads would wait for each other.
    torch.set_num_threads(1)
    try:
        key = job.key
        info = probe(job.path)
        record |= {"fps": round(info.fps, 4), "size": [info.width, info.height]}
        frames, record["note"] = _frames(job, record["size"])
        places, record["faces"] = _cut(job, prefetch(frames), made)
        record["n_frames"] = len(places)
        if job.label == "REAL":  # where a fake may be cut too
            record["places"] = places
        if not record["faces"]:
            record["reason"] = f"no face found in {record['n_frames']} frames"
        record["key"] = key
    except (ValueError, OSError, RuntimeError) as error:  # RuntimeError: of the detector
        record |= {"reason": str(error), "note": ""}
    finally:
        torch.set_num_threads(torch_threads)
    record["seconds"] = time.perf_counter() - start
    write_record(folder, made, record)
    shutil.rmtree(made, ignore_errors=True)
    return record


#: Number, shrunk frame, size of the full one, and where its faces are, if that is known.
Frame = tuple[int, Image.Image, tuple[int, int], "list[Place] | None"]


def _frames(job: _Job, size: list[int]) -> tuple[Iterator[Frame], str]:
    """The frames to cut, and why they are not those of the original where they should be."""
    recipe, threads = job.how.recipe, job.how.threads
    note = ""
    if job.paired:
        if job.pair is None:
            note = "its original is not among the videos"
        elif not job.pair["faces"]:
            note = "no face was found in its original"
        elif job.pair["size"] != size:
            note = "its original has frames of another size"
    if job.paired and job.pair and not note:
        places = {
            number: [Place(*place) for place in found] for number, found in job.pair["places"]
        }
        frames = frames_at(job.path, list(places), threads=threads)
        return ((n, shrink(image, recipe), image.size, places[n]) for n, _, image in frames), ""
    frames = sample_frames(job.path, job.how.frames_per_video, threads=threads)
    note = note and f"cut at its own faces: {note}"
    return ((n, shrink(image, recipe), image.size, None) for n, _, image in frames), note


def _cut(job: _Job, frames: Iterable[Frame], made: Path) -> tuple[list, list]:
    """Save the crops of one video; give the places of each frame and the rows of `boxes.csv`."""
    recipe, boxes = job.how.recipe, []
    places: list[Any] = []
    for number, small, full, known in frames:
        if known is None:
            known = find_faces(_detector(recipe), small)
        faces = cut_at(small, known, recipe, full)
        for index, face in enumerate(faces, start=1):
            face.crop.save(made / crop_name(number, index))
        boxes.append([face.box for face in faces])
        places.append(
            [number, [[p.box, p.probability, p.landmarks if recipe.align else ()] for p in known]]
        )
    rows = [
        [number, index, track, *(round(side, 2) for side in box), round(place[1], 5)]
        for (number, found), linked, sides in zip(places, link_tracks(boxes), boxes)
        for index, (track, box, place) in enumerate(zip(linked, sides, found), start=1)
    ]
    return places, rows


def _original(row: dict, names: dict) -> str:
    """The original of a video by the name of its folder, which differs between methods."""
    original = row["original"] if isinstance(row["original"], str) else ""
    return names.get((row["dataset"], original), original)


def _metadata_row(row: dict, original: str, record: dict[str, Any]) -> tuple:
    """One row of `metadata.csv`, whose file names are those of the folders, `original` too."""
    told = (_file_name(row), row["label"], row["split"], original, row["dataset"], row["method"])
    return (*told, record["fps"], *record["size"])


def _file_name(row: dict) -> str:
    return row["video"] + (Path(row["path"]).suffix or ".mp4")


def _write(rows: list[tuple], folder: Path, name: str) -> None:
    table = pd.DataFrame(rows, columns=ARTIFACTS[f"faces/{name}"].columns)
    whole = table.columns.intersection(["width", "height"])
    with atomic_path(folder / name) as temporary:
        table.astype(dict.fromkeys(whole, "Int64")).to_csv(temporary, index=False)
