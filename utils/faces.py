"""Faces out of frames and videos, cut exactly as the crops of the main data set were cut."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from tqdm.auto import tqdm

from utils.artifacts import ARTIFACTS, atomic_path
from utils.face_folders import BOXES, METADATA, check_names, remove_folder, working_folder
from utils.video import VideoInfo, probe, sample_frames

if TYPE_CHECKING:
    from facenet_pytorch import MTCNN

Box = tuple[float, float, float, float]

NEEDED = ("path", "dataset", "video", "filename", "label", "original", "method", "split")


@dataclass(frozen=True)
class CropRecipe:
    """How a face is cut; the defaults are those of the main data set.

    The frame is shrunk by `scale`, but its short side never below `min_side` pixels, and it is
    never enlarged. So 720p and more is shrunk to a quarter, and smaller videos are shrunk less,
    because the detector finds no face under 20 pixels.

    Attributes:
        image_size: side of the square crop, in pixels.
        margin: border round the face, in pixels of the crop, both sides together.
        factor: step of the detector's pyramid of sizes.
        scale: how far a large frame is shrunk before anything else.
        min_side: short side, in pixels, below which no frame is shrunk.
    """

    image_size: int = 160
    margin: int = 14
    factor: float = 0.5
    scale: float = 0.25
    min_side: int = 180

    def shrunk(self, width: int, height: int) -> tuple[int, int]:
        """Size (width, height) in pixels at which a frame of this size is searched."""
        scale = min(1.0, max(self.scale, self.min_side / min(width, height)))
        # int() cuts off, as the recipe of the data set does; the floor keeps 179.999 at 180.
        return (
            max(int(width * scale), min(width, self.min_side)),
            max(int(height * scale), min(height, self.min_side)),
        )

    def to_dict(self) -> dict[str, float]:
        """Plain values for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CropRecipe:
        """Inverse of `to_dict`. Raises ValueError for a name that is not part of a recipe."""
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            known = ", ".join(cls.__dataclass_fields__)
            raise ValueError(f"unknown in a crop recipe: {', '.join(unknown)}; known: {known}")
        return cls(**values)


@dataclass(frozen=True)
class Face:
    """One face: where it is in the full frame, how sure the detector is, and the crop.

    Attributes:
        box: (x1, y1, x2, y2) in pixels of the full frame, without the margin.
        probability: of being a face, in [0, 1].
        crop: RGB image of `image_size` by `image_size` pixels, with the margin.
    """

    box: Box
    probability: float
    crop: Image.Image


def load_detector(recipe: CropRecipe | None = None, device: str | torch.device = "cpu") -> MTCNN:
    """Load the MTCNN that cut the main data set; its weights come with the package.

    Raises:
        ImportError: facenet-pytorch is not installed; says how to install it.
    """
    try:
        from facenet_pytorch import MTCNN
    except ImportError as error:
        raise ImportError(
            "the face detector is missing; install it without touching torch: "
            "pip install --no-deps facenet-pytorch==2.5.3"
        ) from error
    recipe = recipe or CropRecipe()
    return MTCNN(
        image_size=recipe.image_size,
        margin=recipe.margin,
        factor=recipe.factor,
        keep_all=True,
        device=torch.device(device),
    ).eval()


def cut_faces(detector: MTCNN, image: Image.Image, recipe: CropRecipe) -> list[Face]:
    """Find and cut every face of a frame, the largest first.

    The crops have the very pixels that `MTCNN(...)(frame.resize(...), save_path=...)` writes. One
    frame at a time: a batch of frames moves the boxes by 1e-5 pixels, which can move a crop by one.

    Args:
        detector: from `load_detector`, with the same recipe.
        image: full frame.
        recipe: how to shrink and cut.
    Returns:
        The faces; none is an empty list.
    """
    from facenet_pytorch.models.utils.detect_face import extract_face

    image = image.convert("RGB")
    size = recipe.shrunk(*image.size)
    if min(size) < detector.min_face_size:
        return []  # no face fits, and the detector fails on an empty pyramid
    # Pillow's own default of today, named because it was NEAREST before Pillow 7.
    small = image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)
    boxes, probabilities = detector.detect(small)
    if boxes is None:
        return []
    boxes = np.asarray(boxes, dtype=float)  # (n, 4) in pixels of the shrunk frame
    inside = np.minimum(boxes[:, 2:], size) - np.maximum(boxes[:, :2], 0)
    ratio = np.tile(np.divide(image.size, size), 2)
    faces = []
    for box, probability, visible in zip(boxes, probabilities, inside, strict=True):
        if visible.min() < 1:
            continue  # nothing of it lies in the frame
        face = extract_face(small, box, recipe.image_size, recipe.margin)  # (3, S, S), 0..255
        crop = Image.fromarray(face.permute(1, 2, 0).byte().numpy())
        x1, y1, x2, y2 = (box * ratio).tolist()
        faces.append(Face((x1, y1, x2, y2), float(probability), crop))
    return faces


def link_tracks(frames: Sequence[Sequence[Box]]) -> list[list[int]]:
    """Number the people of a video: the faces of one person get the same track.

    Greedy, frame by frame: the face and the track whose last box is nearest (distance of the
    centres over the mean side) are joined first. A join needs a distance of at most 2 sides and
    sides that differ by at most a factor of 2; a face without a join starts a track. A track that
    is out of sight keeps its place. People who change places between two sampled frames change
    tracks too.

    Args:
        frames: for each sampled frame in order, its boxes (x1, y1, x2, y2) in pixels.
    Returns:
        Track numbers from 1 in order of appearance, in the shape of `frames`.
    """
    last: list[np.ndarray] = []  # centre x, centre y, side of each track's last box
    result = []
    for boxes in frames:
        now = [
            np.array([(x1 + x2) / 2, (y1 + y2) / 2, max((x2 - x1 + y2 - y1) / 2, 1e-6)])
            for x1, y1, x2, y2 in boxes
        ]
        pairs = []
        for i, face in enumerate(now):
            for j, track in enumerate(last):
                distance = np.hypot(*(face - track)[:2]) / ((face[2] + track[2]) / 2)
                if distance <= 2 and 0.5 <= face[2] / track[2] <= 2:
                    pairs.append((distance, i, j))
        tracks: dict[int, int] = {}
        for _, i, j in sorted(pairs):
            if i not in tracks and j not in tracks.values():
                tracks[i] = j
        for i, face in enumerate(now):
            if i not in tracks:
                tracks[i] = len(last)
                last.append(face)
            last[tracks[i]] = face
        result.append([tracks[i] + 1 for i in range(len(now))])
    return result


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
