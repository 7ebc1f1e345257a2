"""The face detector on 16 frames of 1080p on one core, frame by frame as crops are cut, or at once.

A batch moves boxes: crops cut from them would not be those of the data set any more.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from PIL import Image

from benchmarks.videos import bench_videos
from utils.faces.detection import CropRecipe, find_faces, load_detector, shrink
from utils.faces.media import sample_frames

NAME, BASELINE, UNIT = "detecting frame by frame", "in one batch", "ms/frame"
FRAMES, RUNS, SIZE = 16, 5, (1920, 1080)


def measure() -> list[tuple[float, float]]:
    """(milliseconds a frame alone, in a batch) of each paired run."""
    recipe = CropRecipe()
    detector = load_detector(recipe)
    with tempfile.TemporaryDirectory() as folder:
        path = bench_videos(Path(folder), 1)["path"].iloc[0]
        images = [image for _, _, image in sample_frames(path, FRAMES)]
    small = [shrink(image.resize(SIZE, Image.Resampling.BICUBIC), recipe) for image in images]
    torch.set_num_threads(1)  # as in extraction, where the other cores decode
    pairs = []
    for _ in range(RUNS + 1):
        start = time.perf_counter()
        for image in small:
            find_faces(detector, image)
        middle = time.perf_counter()
        detector.detect(small)
        end = time.perf_counter()
        pairs.append((1e3 * (middle - start) / len(small), 1e3 * (end - middle) / len(small)))
    return pairs[1:]  # the first run warms up
