"""Crops to measure with: those of BENCH_DATA, or drawn ones that cost as much to decode."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np

from utils.data.crops import crop_paths, scan_crops

DRAWN, SIDE = 1000, 160


def bench_crops(folder: Path) -> list[str]:
    """Paths of crops: all of the data set in the folder BENCH_DATA, or drawn into `folder`."""
    data = os.environ.get("BENCH_DATA", "")
    if data:
        return crop_paths(scan_crops(data)[0], data)
    paths = [str(folder / f"{n}.png") for n in range(DRAWN)]
    for n, path in enumerate(paths):
        cv2.imwrite(path, drawn_crop(n))
    return paths


def drawn_crop(seed: int) -> np.ndarray:
    """A picture with detail at all scales, so that its PNG is about as large as a face's."""
    rng = np.random.default_rng(seed)
    picture = np.zeros((SIDE, SIDE, 3), np.float32)
    for side, strength in ((5, 60), (20, 25), (80, 8), (SIDE, 2)):
        detail = rng.normal(0, strength, (side, side, 3)).astype(np.float32)
        picture += cv2.resize(detail, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return np.clip(picture + 127, 0, 255).astype(np.uint8)
