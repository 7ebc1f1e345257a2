"""What indexing costs beside the physical limit: `scan_crops` against a bare `os.walk`.

Run it with `python -m benchmarks.index_cost`. It makes 100,000 empty crops in a temporary folder.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from utils.datasets import scan_crops

VIDEOS, CROPS, RUNS = 1000, 100, 7
GOAL = 3.0


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


def main() -> None:
    pairs = measure()
    ratios = sorted(ours / bare for ours, bare in pairs)
    ours, bare = (statistics.median(times) for times in zip(*pairs))
    print(f"scan_crops {ours:.3f} s, os.walk {bare:.3f} s for {VIDEOS * CROPS:,} crops (medians)")
    print(
        f"ratio {statistics.median(ratios):.2f} (from {ratios[0]:.2f} to {ratios[-1]:.2f} "
        f"in {RUNS} paired runs; goal: at most {GOAL:g})"
    )


if __name__ == "__main__":
    main()
