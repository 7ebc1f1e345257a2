"""What indexing costs beside the physical limit: 100,000 empty crops in a temporary folder.

The goal is a ratio of at most 3.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from utils.data.crops import scan_crops

NAME, BASELINE, UNIT = "index 100,000 crops", "bare os.walk", "s"
VIDEOS, CROPS, RUNS = 1000, 100, 7


def make_tree(root: Path) -> None:
    """Draw up the main layout: one video in five is REAL, the others were made from it."""
    lines = ["filename,label,split,original"]
    for n in range(VIDEOS):
        original = f"v{n - n % 5:04}.mp4"
        lines.append(f"v{n:04}.mp4," + ("FAKE,train," + original if n % 5 else "REAL,train,"))
        folder = root / f"v{n:04}"
        folder.mkdir()
        for frame in range(CROPS):
            os.close(os.open(folder / f"{3 * frame}.png", os.O_CREAT))
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")


def seconds(work: Callable[[], int]) -> float:
    start = time.perf_counter()
    found = work()
    elapsed = time.perf_counter() - start
    if found != VIDEOS * CROPS:
        raise RuntimeError(f"{found} crops found instead of {VIDEOS * CROPS}")
    return elapsed


def walk(root: Path) -> int:
    return sum(name.endswith(".png") for _, _, files in os.walk(root) for name in files)


def measure() -> list[tuple[float, float]]:
    """(seconds of scan_crops, seconds of os.walk) of each paired run."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        make_tree(root)
        walk(root)  # both find the folders in the cache of the system
        return [
            (seconds(lambda: len(scan_crops(root)[0])), seconds(lambda: walk(root)))
            for _ in range(RUNS)
        ]
