"""Notebook 00 on drawn videos (or those of BENCH_DATA), in two processes beside one.

Both start from nothing; the processes are there already, as they are from the third video on.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from pathlib import Path

import pandas as pd

from benchmarks.videos import bench_videos
from utils.faces.extraction import extract_faces

NAME, BASELINE, UNIT = "faces of a video, two processes", "one process", "s/video"
SOURCES, FRAMES, RUNS = 12, 16, 3


def seconds_a_video(videos: pd.DataFrame, folder: Path, workers: int) -> float:
    shutil.rmtree(folder, ignore_errors=True)
    start = time.perf_counter()
    report = extract_faces(videos, folder, frames_per_video=FRAMES, workers=workers, progress=False)
    if not report["n_faces"].any() or report["kept"].any():
        raise RuntimeError("nothing was cut")
    return (time.perf_counter() - start) / len(videos)


def measure() -> list[tuple[float, float]]:
    """(seconds a video in two processes, in one) of each paired run."""
    with tempfile.TemporaryDirectory() as name:
        videos = bench_videos(Path(name), SOURCES)
        faces = Path(name) / "faces"
        seconds_a_video(videos, faces, 2)
        return [
            (seconds_a_video(videos, faces, 2), seconds_a_video(videos, faces, 1))
            for _ in range(RUNS)
        ]
