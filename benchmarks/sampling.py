"""16 frames of a video beside decoding all of it: what skipping, jumping and stopping save.

Ours ends with RGB pictures, full decoding with frames as the decoder gives them.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from benchmarks.videos import drawn_video
from utils.faces.decoding import decode, open_video
from utils.faces.media import sample_frames

FRAMES, RUNS = 16, 5
SECONDS = (10, 60, 300)


def seconds_of(work: Callable[[], int]) -> float:
    start = time.perf_counter()
    if not work():
        raise RuntimeError("no frame came")
    return time.perf_counter() - start


def decode_all(path: Path) -> int:
    with open_video(path) as opened:
        return sum(1 for _ in decode(*opened))


def sample(path: Path) -> int:
    return sum(1 for _ in sample_frames(path, FRAMES))


def measure(seconds: int) -> list[tuple[float, float]]:
    """(seconds of sampling, seconds of decoding all) of each paired run."""
    with tempfile.TemporaryDirectory() as folder:
        path = drawn_video(Path(folder), seconds)
        decode_all(path)
        return [
            (seconds_of(lambda: sample(path)), seconds_of(lambda: decode_all(path)))
            for _ in range(RUNS)
        ]


BENCHMARKS = tuple(
    (f"{FRAMES} frames of a video of {s} s", "decoding all of it", "s", partial(measure, s))
    for s in SECONDS
)
