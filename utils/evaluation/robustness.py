"""What happens to a score when the picture was compressed, blurred, shrunk or spoilt on its way."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import Dataset

from utils.data.crops import spread_frames
from utils.evaluation.results import Evaluation
from utils.faces.media import load_crop, sample_frames, write_video
from utils.model.scoring import Transform
from utils.run.machine import stable_hash
from utils.stats.metrics import bootstrap, paired_bootstrap, y_true_of

REFERENCE_SIDE = 160
Pixels = np.ndarray  # RGB, uint8, (H, W, 3)


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


def _h264(crops: Sequence[Pixels], crf: float) -> list[Pixels]:
    """The crops as a video of their own, all at the size of the first."""
    sizes = [(crop.shape[1], crop.shape[0]) for crop in crops]
    frames = [_resized(crop, sizes[0]) for crop in crops]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "crops.mp4"
        write_video(path, frames, fps=25, crf=int(crf), preset="veryfast")
        decoded = [np.asarray(image) for _, _, image in sample_frames(path)]
    width, height = sizes[0]  # an odd side was made even
    return [
        _resized(np.ascontiguousarray(image[:height, :width]), size)
        for image, size in zip(decoded, sizes, strict=True)
    ]


def _resized(image: Pixels, size: tuple[int, int]) -> Pixels:
    same = (image.shape[1], image.shape[0]) == size
    return image if same else cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)


#: Corruption to what it does to one crop (but to H.264 a face is a video), with a seed, and to its
#: severities, the mildest first.
CORRUPTIONS: dict[str, tuple[Callable[..., Any], tuple[float, ...]]] = {
    "jpeg": (_jpeg, (90, 70, 50, 30)),  # quality
    "blur": (_blur, (1, 2, 3)),  # deviation, pixels of a crop of REFERENCE_SIDE
    "downscale": (_downscale, (0.5, 0.25, 0.125)),  # factor, and back
    "noise": (_noise, (5, 10, 20)),  # deviation, grey levels
    "darker": (_brightness, (0.75, 0.5, 0.25)),  # factor
    "brighter": (_brightness, (1.25, 1.5, 2.0)),
    "contrast": (_contrast, (0.75, 0.5, 0.25)),  # factor, around the mean of each channel
    "h264": (_h264, (23, 32, 41)),  # constant rate factor
}


def conditions() -> list[tuple[str, float]]:
    """Every (corruption, severity)."""
    return [(name, severity) for name, (_, values) in CORRUPTIONS.items() for severity in values]


def column(name: str, severity: float) -> str:
    """Column of predictions.csv that holds the logits: "logit_jpeg_90"."""
    return f"logit_{name}_{severity:g}"


def corrupt(crops: Sequence[Pixels], name: str, severity: float, *, seed: int = 0) -> list[Pixels]:
    """Corrupt the crops of one face, in the order of their frames; all keep their sizes.

    `name` and `severity` are of CORRUPTIONS; `seed` is of the noise.
    """
    change, _ = CORRUPTIONS[name]
    if change is _h264:
        return _h264(crops, severity)
    return [change(crop, severity, stable_hash(str(i), seed)) for i, crop in enumerate(crops)]


class CorruptedFaces(Dataset):
    """Faces, each under every condition: an item is images (k * crops, 3, S, S).

    The crops of a face are decoded once for all k conditions, which come one after the other.
    """

    def __init__(self, faces: Sequence[Sequence[str]], transform: Transform) -> None:
        self.faces, self.transform = list(faces), transform

    def __len__(self) -> int:
        return len(self.faces)

    def __getitem__(self, item: int) -> torch.Tensor:
        crops = [np.asarray(load_crop(path)) for path in self.faces[item]]
        images = [
            self.transform(Image.fromarray(image))
            for name, severity in conditions()
            for image in corrupt(crops, name, severity, seed=item)
        ]
        return torch.stack(images)


def choose_crops(test: pd.DataFrame, *, max_crops: int, frames: int, seed: int) -> pd.DataFrame:
    """Crops to corrupt: some frames a video, and whole sources as long as they fit.

    Args:
        test: a row a crop of test: `dataset, video, frame, face, source`.
        max_crops: at most so many; 0 takes none. The first source is taken in any case.
        frames, seed: of `spread_frames`, and of the order of the sources.
    """
    if not max_crops:
        return test.iloc[:0]
    rows = spread_frames(test, frames)
    sizes = rows["source"].value_counts().sort_index().sample(frac=1, random_state=seed)
    kept = sizes.index[(sizes.cumsum() <= max_crops) | (np.arange(len(sizes)) == 0)]
    return rows[rows["source"].isin(kept)]


def stress(
    ev: Evaluation, *, max_crops: int, frames: int, num_workers: int = -1
) -> tuple[dict[str, Any], pd.DataFrame]:
    """How the model does on test when the picture suffered, by the decision that stands.

    Who counts was decided on the clean crops. `max_crops` and `frames` are of `choose_crops`.

    Returns:
        `robustness` for metrics.json: `clean` to its scores on the same videos, and corruption to
        severity to its scores: `roc_auc`, `balanced_accuracy` at the fixed threshold, and `drop`:
        how much the latter loses against clean, with its paired interval. {} without crops.
        And logits: the index of `ev.crops`, a column a condition, by `column`.
    """
    seed = ev.settings["seed"]
    chosen = choose_crops(ev.test_crops, max_crops=max_crops, frames=frames, seed=seed)
    logits = _score_corrupted(ev, chosen, num_workers)
    if chosen.empty:
        return {"robustness": {}}, logits
    clean = ev.decision.judge_videos(chosen)
    y_true, threshold = y_true_of(clean), ev.decision.threshold
    kept = {"groups": ev.groups(clean), "threshold": threshold, **ev.settings}
    names = ("roc_auc", "balanced_accuracy")
    before = bootstrap(y_true, clean["score"], **kept)
    counts = {"n": len(clean), "sources": int(clean["source"].nunique())}
    result: dict[str, Any] = {"clean": {name: before[name] for name in names} | counts}
    for name, severity in conditions():
        spoilt = chosen.assign(logit=logits[column(name, severity)])
        score = ev.decision.judge_videos(spoilt)["score"]
        table = bootstrap(y_true, score, **kept)
        pair = paired_bootstrap(y_true, clean["score"], score, **kept)
        row = {key: table[key] for key in names} | {"drop": pair["balanced_accuracy"]}
        result.setdefault(name, {})[f"{severity:g}"] = row
    return {"robustness": result}, logits


def _score_corrupted(ev: Evaluation, chosen: pd.DataFrame, num_workers: int) -> pd.DataFrame:
    names = [column(name, severity) for name, severity in conditions()]
    if chosen.empty:
        return pd.DataFrame(columns=names, dtype=np.float64)
    # H.264 sees the crops of one face as a video: a face is all that has one number in its frames.
    keys = ["dataset", "video", "face"]
    ordered = chosen.sort_values([*keys, "frame"])
    faces = [group.tolist() for _, group in ordered.groupby(keys, sort=False)["file"]]
    data = CorruptedFaces(faces, ev.scorer.transform)
    logits = ev.scorer.score_data(data, batch_size=None, num_workers=num_workers)
    ends = len(names) * np.cumsum([len(face) for face in faces])
    parts = [part.reshape(len(names), -1).T for part in np.split(logits, ends[:-1])]
    return pd.DataFrame(np.concatenate(parts), columns=names, index=ordered.index)
