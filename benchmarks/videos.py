"""Videos to measure with: those of the folder BENCH_DATA, or drawn ones."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
import pandas as pd

from tools.demo.data import draw_demo
from utils.data.datasets import index_videos
from utils.faces.media import write_video

SIZE, FPS = (640, 360), 25


def drawn_video(folder: Path, seconds: int) -> Path:
    """A picture with detail at all scales that moves: about as much to decode as a filmed one."""
    rng = np.random.default_rng(0)
    picture = np.zeros((SIZE[1], SIZE[0], 3), np.float32)
    for side, strength in ((8, 60), (40, 25), (160, 8), (SIZE[0], 2)):
        detail = rng.normal(0, strength, (side, side, 3)).astype(np.float32)
        picture += cv2.resize(detail, SIZE, interpolation=cv2.INTER_CUBIC)
    pixels = np.clip(picture + 127, 0, 255).astype(np.uint8)
    frames = (np.roll(pixels, (n, 2 * n), axis=(0, 1)) for n in range(seconds * FPS))
    return write_video(folder / f"{seconds}.mp4", frames, fps=FPS, preset="veryfast")


def bench_videos(folder: Path, n_sources: int) -> pd.DataFrame:
    """A table for `extract_faces`: the videos of BENCH_DATA, or a drawn demo of so many sources."""
    data = os.environ.get("BENCH_DATA", "")
    if not data:
        data = str(draw_demo(folder / "demo", n_sources=n_sources, n_faceless=0, progress=False))
    videos = index_videos(data)
    return videos[videos["reason"] == ""]
