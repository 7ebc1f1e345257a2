"""Raw videos in, face crops out, in the layout of the main data set."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import torch
from PIL import Image
from tqdm.auto import tqdm

from utils.artifacts import ARTIFACTS, atomic_path
from utils.face_folders import (
    BOXES,
    METADATA,
    PARTIAL,
    RECIPE,
    check_names,
    crop_name,
    fingerprint,
    read_record,
    remove_video,
    working_folder,
    write_record,
)
from utils.faces import CropRecipe, Place, cut_at, find_faces, load_detector, shrink
from utils.jobs import prefetch, run_jobs
from utils.tracks import link_tracks
from utils.video import frames_at, probe, sample_frames

if TYPE_CHECKING:
    from facenet_pytorch import MTCNN

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
