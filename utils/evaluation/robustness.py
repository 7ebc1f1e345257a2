"""What happens to a score when the picture was compressed, blurred, shrunk or spoilt on its way."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from utils.data.crops import spread_frames
from utils.faces.media import load_crop, sample_frames, write_video
from utils.model.scoring import Transform
from utils.run.machine import stable_hash
from utils.stats.decisions import judge_videos
from utils.stats.metrics import bootstrap, paired_bootstrap, y_true_of

#: Corruption to its severities, the mildest first.
CORRUPTIONS: dict[str, tuple[float, ...]] = {
    "jpeg": (90, 70, 50, 30),  # quality
    "blur": (1, 2, 3),  # deviation, pixels of a crop of REFERENCE_SIDE
    "downscale": (0.5, 0.25, 0.125),  # factor, and back
    "noise": (5, 10, 20),  # deviation, grey levels
    "darker": (0.75, 0.5, 0.25),  # factor
    "brighter": (1.25, 1.5, 2.0),
    "contrast": (0.75, 0.5, 0.25),  # factor, around the mean of each channel
    "h264": (23, 32, 41),  # constant rate factor
}
REFERENCE_SIDE = 160
Pixels = np.ndarray


def conditions() -> list[tuple[str, float]]:
    """Every (corruption, severity)."""
    return [(name, severity) for name, values in CORRUPTIONS.items() for severity in values]


def column(name: str, severity: float) -> str:
    """Column of predictions.csv that holds the logits: "logit_jpeg_90"."""
    return f"logit_{name}_{severity:g}"


def _jpeg(pixels: Pixels, quality: float, _: int) -> Pixels:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=int(quality))
    return np.asarray(Image.open(buffer))


def _blur(pixels: Pixels, deviation: float, _: int) -> Pixels:
    return cv2.GaussianBlur(pixels, (0, 0), deviation * max(pixels.shape[:2]) / REFERENCE_SIDE)


def _downscale(pixels: Pixels, factor: float, _: int) -> Pixels:
    height, width = pixels.shape[:2]
    small = (max(1, round(width * factor)), max(1, round(height * factor)))
    shrunk = cv2.resize(pixels, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(shrunk, (width, height), interpolation=cv2.INTER_LINEAR)


def _noise(pixels: Pixels, deviation: float, seed: int) -> Pixels:
    noise = np.random.default_rng(seed).normal(0, deviation, pixels.shape)
    return _to_bytes(pixels + noise)


def _brightness(pixels: Pixels, factor: float, _: int) -> Pixels:
    return _to_bytes(pixels * float(factor))


def _contrast(pixels: Pixels, factor: float, _: int) -> Pixels:
    mean = pixels.mean(axis=(0, 1))
    return _to_bytes(mean + (pixels - mean) * factor)


def _to_bytes(values: np.ndarray) -> Pixels:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


_OF_IMAGES: dict[str, Callable[[Pixels, float, int], Pixels]] = {
    "jpeg": _jpeg,
    "blur": _blur,
    "downscale": _downscale,
    "noise": _noise,
    "darker": _brightness,
    "brighter": _brightness,
    "contrast": _contrast,
}


def corrupt(crops: Sequence[Pixels], name: str, severity: float, *, seed: int = 0) -> list[Pixels]:
    """Corrupt the crops of one face, in the order of their frames.

    Args:
        crops: RGB, uint8, each (H, W, 3).
        name, severity: of CORRUPTIONS. H.264 sees the crops as a video of its own; crops of
            another size than the first are resized for it, and back.
        seed: of the noise.

    Returns:
        Crops of the same sizes.

    Raises:
        ValueError: unknown name.
    """
    if name == "h264":
        return _h264(crops, int(severity))
    if name not in _OF_IMAGES:
        raise ValueError(f"no corruption is called {name!r}; known: {', '.join(CORRUPTIONS)}")
    change = _OF_IMAGES[name]
    return [change(crop, severity, stable_hash(str(i), seed)) for i, crop in enumerate(crops)]


def _h264(crops: Sequence[Pixels], crf: int) -> list[Pixels]:
    sizes = [(crop.shape[1], crop.shape[0]) for crop in crops]
    frames = [_resized(crop, sizes[0]) for crop in crops]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "crops.mp4"
        write_video(path, frames, fps=25, crf=crf, preset="veryfast")
        decoded = [np.asarray(image) for _, _, image in sample_frames(path)]
    width, height = sizes[0]  # an odd side was made even
    return [
        _resized(np.ascontiguousarray(image[:height, :width]), size)
        for image, size in zip(decoded, sizes, strict=True)
    ]


def _resized(image: Pixels, size: tuple[int, int]) -> Pixels:
    same = (image.shape[1], image.shape[0]) == size
    return image if same else cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


class CorruptedFaces(Dataset):
    """Faces, each under every condition: an item is (images (k * crops, 3, H, W), 0, number).

    The crops of a face are decoded once for all k conditions, which come one after the other.
    """

    def __init__(self, faces: Sequence[Sequence[str]], transform: Transform) -> None:
        self.faces, self.transform = list(faces), transform

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, int, int]:
        crops = [np.asarray(load_crop(path)) for path in self.faces[item]]
        images = [
            self.transform(Image.fromarray(image))
            for name, severity in conditions()
            for image in corrupt(crops, name, severity, seed=item)
        ]
        return torch.stack(images), 0, item


def choose_crops(test: pd.DataFrame, *, max_crops: int, frames: int, seed: int) -> pd.DataFrame:
    """Crops to corrupt: some frames a video, and whole sources as long as they fit.

    Args:
        test: a row a crop of test: `dataset, video, frame, face, source`.
        max_crops: at most so many; 0 takes none. The first source is taken in any case.
        frames: evenly spaced ones of each video; 0 keeps all.
        seed: of the order of the sources.
    """
    if not max_crops:
        return test.iloc[:0]
    rows = spread_frames(test, frames)
    sizes = rows["source"].value_counts().sort_index().sample(frac=1, random_state=seed)
    kept = sizes.index[(sizes.cumsum() <= max_crops) | (np.arange(len(sizes)) == 0)]
    return rows[rows["source"].isin(kept)]


def corrupted_loader(
    rows: pd.DataFrame, paths: Sequence[str], transform: Transform, *, num_workers: int = 0
) -> tuple[DataLoader, pd.Index]:
    """A loader for `engine.predict`, and the row of each of its crops, without the conditions.

    Args:
        rows: `dataset, video, face, frame`; of one face all crops together, by frame.
        paths: of the crops, in the order of the rows.
        transform: the model's own.
        num_workers: loader processes.
    """
    ordered = rows.assign(path_=list(paths)).sort_values(["dataset", "video", "face", "frame"])
    groups = ordered.groupby(["dataset", "video", "face"], sort=False)["path_"]
    faces = [group.tolist() for _, group in groups]
    data = CorruptedFaces(faces, transform)
    return DataLoader(data, batch_size=None, num_workers=num_workers), ordered.index


def logits_by_condition(logits: np.ndarray, rows: pd.DataFrame, order: pd.Index) -> pd.DataFrame:
    """Logits in the loader's order to one column a condition, in the order of `order`."""
    keys = ["dataset", "video", "face"]
    sizes = rows.loc[order].groupby(keys, sort=False).size()
    k, start, parts = len(conditions()), 0, []
    for size in sizes:
        parts.append(logits[start : start + k * size].reshape(k, size).T)
        start += k * size
    names = [column(name, severity) for name, severity in conditions()]
    return pd.DataFrame(np.concatenate(parts), columns=names, index=order)


def summarise(
    predictions: pd.DataFrame, decision: Mapping[str, Any], **settings: Any
) -> dict[str, Any]:
    """Scores by video under each condition, with the decision that stands.

    Args:
        predictions: the corrupted crops: `video, source, label, split, logit` and the columns of
            the conditions.
        decision: of `choose_decision`.
        settings: `n_resamples, seed` of the bootstrap.

    Returns:
        `clean` to its scores on the same videos, and corruption to severity to its scores:
        `roc_auc`, `balanced_accuracy` at the fixed threshold, and `drop`: how much the latter
        loses against clean, with its paired interval.
    """
    clean = judge_videos(predictions, decision)
    y_true, threshold = y_true_of(clean), decision["threshold"]
    kept = {"groups": clean["source"], "threshold": threshold, **settings}
    names = ("roc_auc", "balanced_accuracy")
    before = bootstrap(y_true, clean["score"], **kept)
    result: dict[str, Any] = {"clean": {name: before[name] for name in names}}
    result["clean"] |= {"n": len(clean), "sources": int(clean["source"].nunique())}
    for name, severity in conditions():
        logits = predictions[column(name, severity)]
        score = judge_videos(predictions.assign(logit=logits), decision)["score"]
        table = bootstrap(y_true, score, **kept)
        pair = paired_bootstrap(y_true, clean["score"], score, **kept)
        row = {key: table[key] for key in names} | {"drop": pair["balanced_accuracy"]}
        result.setdefault(name, {})[f"{severity:g}"] = row
    return result
