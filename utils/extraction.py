"""Raw videos in, face crops out, in the layout of the main data set."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd
import torch
from PIL import Image
from tqdm.auto import tqdm

from utils.artifacts import ARTIFACTS, atomic_path
from utils.face_folders import BOXES, METADATA, check_names, remove_folder, working_folder
from utils.faces import Box, CropRecipe, cut_faces, load_detector
from utils.tracks import link_tracks
from utils.video import VideoInfo, probe, sample_frames

if TYPE_CHECKING:
    from facenet_pytorch import MTCNN

NEEDED = ("path", "dataset", "video", "filename", "label", "original", "method", "split")


def extract_faces(
    videos: pd.DataFrame,
    folder: str | Path,
    *,
    frames_per_video: int = 0,
    recipe: CropRecipe | None = None,
    device: str | torch.device = "cpu",
    progress: bool = True,
) -> pd.DataFrame:
    """Cut the faces of many videos into the layout of the main data set.

    Writes `folder/<video>/<frame>.png` (further faces of a frame: `_2`, `_3`), `boxes.csv` (a row
    a face) and, last of all, `metadata.csv` (a row a video, with or without faces). Everything is
    made anew: a video's folder is replaced as a whole, and folders that a former run wrote for
    videos that are not in the table any more are removed.

    Args:
        videos: a row a video, with the columns `path, dataset, video, filename, label, original,
            method, split`; `video` is unique and becomes the folder's name.
        folder: where to write.
        frames_per_video: evenly spaced frames to search; 0 means every frame.
        recipe: how to cut; default `CropRecipe()`.
        device: where the detector runs.
        progress: show a progress bar.
    Returns:
        A row a video: `video, n_frames` (searched), `n_faces, seconds` and `reason`, which is ""
        or says why there are no faces. A video that cannot be read does not stop the others.
    Raises:
        ValueError: a column is missing, a video's name is not unique or unfit for a folder, or
            `folder` holds something that this function did not write.
    """
    recipe = recipe or CropRecipe()
    folder = Path(folder)
    missing = [column for column in NEEDED if column not in videos]
    if missing:
        raise ValueError(f"the table of videos lacks: {', '.join(missing)}")
    check_names(videos["video"].tolist())
    detector = load_detector(recipe, device)
    rows = videos.to_dict("records")
    originals = {(r["dataset"], r["filename"]): _file_name(r) for r in rows if r["label"] == "REAL"}
    reports, metadata, boxes = [], [], []
    with working_folder(folder, videos["video"].tolist()) as partial:
        for row in tqdm(rows, desc="Extract faces", unit="video", disable=not progress):
            start = time.perf_counter()
            info, n_frames, found, reason = None, 0, list[tuple](), ""
            made = partial / row["video"]
            made.mkdir()
            try:
                info = probe(row["path"])
                frames = sample_frames(row["path"], frames_per_video)
                n_frames, found = _cut_video(detector, frames, recipe, made)
                reason = "" if found else f"no face found in {n_frames} frames"
            except (ValueError, FileNotFoundError) as error:
                found, reason = [], str(error)
            remove_folder(folder / row["video"])
            if found:
                os.replace(made, folder / row["video"])
            metadata.append(_metadata_row(row, originals, info))
            boxes += [(row["video"], *face) for face in found]
            seconds = time.perf_counter() - start
            reports.append((row["video"], n_frames, len(found), seconds, reason))
        _write(boxes, folder, BOXES)
        _write(metadata, folder, METADATA)
    return pd.DataFrame(reports, columns=["video", "n_frames", "n_faces", "seconds", "reason"])


def _cut_video(
    detector: MTCNN,
    frames: Iterator[tuple[int, float, Image.Image]],
    recipe: CropRecipe,
    folder: Path,
) -> tuple[int, list[tuple]]:
    """Save the crops of one video; give the number of frames and the rows of `boxes.csv`."""
    seen: list[tuple[int, list[Box], list[float]]] = []
    for number, _, image in frames:
        faces = cut_faces(detector, image, recipe)
        for index, face in enumerate(faces, start=1):
            suffix = f"_{index}" if index > 1 else ""
            face.crop.save(folder / f"{number}{suffix}.png")
        seen.append((number, [face.box for face in faces], [face.probability for face in faces]))
    tracks = link_tracks([boxes for _, boxes, _ in seen])
    rows = [
        (number, index, track, *(round(corner, 2) for corner in box), round(probability, 5))
        for (number, boxes, sure), linked in zip(seen, tracks, strict=True)
        for index, (track, box, probability) in enumerate(zip(linked, boxes, sure, strict=True), 1)
    ]
    return len(seen), rows


def _metadata_row(row: dict, originals: dict, info: VideoInfo | None) -> tuple:
    """One row of `metadata.csv`, whose file names are those of the folders, `original` too.

    Videos of different methods can share a file name, so `video` is what names them here.
    """
    original = row["original"] if isinstance(row["original"], str) else ""
    original = originals.get((row["dataset"], original), original)
    size = (round(info.fps, 4), info.width, info.height) if info else (None, None, None)
    told = (_file_name(row), row["label"], row["split"], original, row["dataset"], row["method"])
    return (*told, *size)


def _file_name(row: dict) -> str:
    return row["video"] + (Path(row["path"]).suffix or ".mp4")


def _write(rows: list[tuple], folder: Path, name: str) -> None:
    table = pd.DataFrame(rows, columns=ARTIFACTS[f"faces/{name}"].columns)
    whole = table.columns.intersection(["width", "height"])
    with atomic_path(folder / name) as temporary:
        table.astype(dict.fromkeys(whole, "Int64")).to_csv(temporary, index=False)
