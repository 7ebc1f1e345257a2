"""Images and videos in, scores and decisions out."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image, ImageOps
from scipy.special import expit
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from utils.artifacts import ARTIFACTS, check_fields, data_folder
from utils.datasets import IMAGE_SUFFIXES, crop_paths
from utils.engine import predict
from utils.faces import CropRecipe, cut_faces, load_detector
from utils.layouts import VIDEO_SUFFIXES, index_videos
from utils.loading import load_crop
from utils.metrics import decide
from utils.models import load_model, model_transform
from utils.tracks import link_tracks
from utils.transforms import Transform
from utils.video import sample_frames

BATCH = 32
#: The rule before 04 has chosen one: uncalibrated, half, nothing withheld.
UNDECIDED = {"temperature": 1.0, "threshold": 0.5, "rule": "none: 04_evaluate has not run"}


@dataclass(frozen=True)
class Judge:
    """A model with all that it takes to judge a file as it was evaluated.

    Attributes:
        model: two logits, REAL and FAKE.
        transform: the model's own eval transform.
        detector: the face detector that cut the training crops.
        recipe: how it cut them.
        decision: temperature, threshold, rule and abstention band, chosen on val.
        prior: share of FAKE videos in training, the answer where nothing can be seen.
        device: where the model runs.
    """

    model: torch.nn.Module
    transform: Transform
    detector: Any
    recipe: CropRecipe
    decision: dict[str, Any]
    prior: float
    device: torch.device


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
    return Judge(
        model=model.to(device),
        transform=model_transform(model),
        detector=load_detector(recipe, device),
        recipe=recipe,
        decision=decision,
        prior=float(extra.get("prior", 0.5)),
        device=device,
    )


def collect_inputs(patterns: Sequence[str]) -> list[str]:
    """Resolve files, folders and globs to image and video files, each once, in order.

    Raises:
        FileNotFoundError: a pattern matches no image and no video.
    """
    files: dict[Path, str] = {}
    for pattern in patterns:
        path = Path(pattern)
        # A file that is named by itself is judged, or listed with the reason, whatever it is.
        found = [str(path)] if path.is_file() else []
        if not found:
            search = f"{glob.escape(pattern)}/**" if path.is_dir() else pattern
            found = [name for name in sorted(glob.glob(search, recursive=True)) if _is_media(name)]
        if not found:
            raise FileNotFoundError(f"INPUTS: {pattern!r} names no image and no video")
        for name in found:  # a file that is named in two ways is one file
            files.setdefault(Path(name).resolve(), name)
    return list(files.values())


def _is_media(name: str | Path) -> bool:
    path = Path(name)
    return path.suffix.lower() in IMAGE_SUFFIXES + VIDEO_SUFFIXES and path.is_file()


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


def score_crops(judge: Judge, crops: Iterable[Image.Image]) -> np.ndarray:
    """The logit of FAKE of each crop, shape (n,), before calibration."""
    tensors = [(judge.transform(crop), 0, row) for row, crop in enumerate(crops)]
    loader: DataLoader = DataLoader(tensors, batch_size=BATCH)  # type: ignore[arg-type]
    return predict(judge.model, loader, device=judge.device, progress=False)


def judge_file(
    judge: Judge, path: str, *, frames_per_video: int = 16, cropped: bool = False
) -> pd.DataFrame:
    """Score every face of one image or video.

    Args:
        judge: of `load_judge`.
        path: an image or a video.
        frames_per_video: evenly spaced frames that are searched for faces; 0 means all.
        cropped: the image is a face crop already, so it is scored as it is.
    Returns:
        One row a face: the columns of inference.csv and `logit`; `score` is the calibrated
        P(FAKE). No row means that no face was found.
    Raises:
        ValueError: the file cannot be read; says why.
    """
    frames = _frames(path, frames_per_video)
    rows: list[tuple[Any, ...]] = []
    boxes: list[list[Any]] = []
    logits: list[np.ndarray] = []
    # A few frames at a time: memory does not grow with the length of the video.
    while chunk := list(islice(frames, BATCH)):
        crops: list[Image.Image] = []
        for number, seconds, image in chunk:
            if cropped:
                found = [((0.0, 0.0, float(image.width), float(image.height)), image)]
            else:
                faces = cut_faces(judge.detector, image, judge.recipe)
                found = [(face.box, face.crop) for face in faces]
            boxes.append([box for box, _ in found])
            crops += [crop for _, crop in found]
            rows += [(path, number, seconds, *box) for box, _ in found]
        if crops:
            logits.append(score_crops(judge, crops))
    table = pd.DataFrame(rows, columns=["input", "frame", "time_s", "x1", "y1", "x2", "y2"])
    table["track"] = [track for frame in link_tracks(boxes) for track in frame]
    table["logit"] = np.concatenate(logits) if logits else np.empty(0)
    table["score"] = expit(table["logit"] / judge.decision["temperature"])
    return table[[*ARTIFACTS["inference.csv"].columns, "logit"]]


def _frames(path: str, frames_per_video: int) -> Iterator[tuple[int, float, Image.Image]]:
    if Path(path).suffix.lower() in IMAGE_SUFFIXES:
        yield 0, 0.0, ImageOps.exif_transpose(load_crop(path))
    else:
        yield from sample_frames(path, frames_per_video)


def judge_files(
    judge: Judge,
    inputs: Sequence[str],
    *,
    crops: Sequence[str] = (),
    frames_per_video: int = 16,
    progress: bool = True,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Judge many files; one that cannot be judged is listed with its reason, the others go on.

    Args:
        judge: of `load_judge`.
        inputs: images and videos in which faces are looked for.
        crops: images that are face crops already.
        frames_per_video: see `judge_file`.
        progress: show a bar over the files.
    Returns:
        faces: inference.csv, one row a face.
        verdicts: one row a file: `input, n_faces, score, decision, reason`. Its score is the
            calibrated P(FAKE) of the mean logit over its faces, as in video_predictions.csv; a
            file that could not be judged has the training prior, UNSURE and a reason.
    Raises:
        ValueError: a file is named as an input and as a crop.
    """
    if twice := sorted(set(inputs) & set(crops)):
        raise ValueError(f"{twice[0]} is in INPUTS and in CROPS: name it in one of them")
    tables: list[pd.DataFrame] = []
    verdicts: list[tuple[Any, ...]] = []
    work = [(path, False) for path in inputs] + [(path, True) for path in crops]
    for path, cropped in tqdm(work, desc="judge", unit="file", disable=not progress):
        reason, faces = "", pd.DataFrame()
        try:
            faces = judge_file(judge, path, frames_per_video=frames_per_video, cropped=cropped)
            reason = "" if len(faces) else "no face found"
        except (ValueError, FileNotFoundError) as error:
            reason = str(error)
        if reason:
            verdicts.append((path, 0, judge.prior, "UNSURE", reason))
            continue
        tables.append(faces)
        score = float(expit(faces["logit"].mean() / judge.decision["temperature"]))
        verdicts.append((path, len(faces), score, _decide(judge, score), ""))
    columns = ARTIFACTS["inference.csv"].columns
    empty = pd.DataFrame(columns=columns)
    return (
        pd.concat(tables, ignore_index=True)[columns] if tables else empty,
        pd.DataFrame(verdicts, columns=["input", "n_faces", "score", "decision", "reason"]),
    )


def _decide(judge: Judge, score: float) -> str:
    threshold = judge.decision["threshold"]
    band = judge.decision.get("abstention") or {"low": threshold, "high": threshold}
    return str(decide([score], threshold=threshold, low=band["low"], high=band["high"])[0])


def submission(verdicts: pd.DataFrame) -> pd.DataFrame:
    """`filename,label` for every input once; label is P(FAKE).

    The file name is the bare one where that is unique, and as much of the path as it takes to
    tell two inputs apart where it is not.
    """
    parts = [Path(path).parts for path in verdicts["input"]]
    depth = [1] * len(parts)
    for _ in range(max(map(len, parts), default=0)):
        names = ["/".join(part[-d:]) for part, d in zip(parts, depth)]
        twice = pd.Series(names).duplicated(keep=False)
        if not twice.any():
            break
        depth = [d + bool(t) for d, t in zip(depth, twice)]
    return pd.DataFrame({"filename": names if len(parts) else [], "label": verdicts["score"]})
