"""What an epoch of loading costs when there are 1, 4 and 16 times the crops: time and memory.

Memory is what the process holds for itself (RssAnon on Linux); the mapped pages of the store
belong to the system, which takes them back when it needs them.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np

from utils.training.augmentation import POLICIES
from utils.training.batches import CropSet, CropStore, CropTable, make_loaders
from utils.training.recipes import make_config

SIDE, CROPS, RUNS = 96, 2000, 5
GROWTH = (1, 4, 16)


def make_set(n: int, folder: Path) -> CropSet:
    """A store of noise, written piece by piece."""
    path = folder / f"{n}.npy"
    crops = np.lib.format.open_memmap(path, "w+", np.uint8, (n, SIDE, SIDE, 3))
    piece = np.random.default_rng(0).integers(0, 256, (CROPS, SIDE, SIDE, 3), np.uint8)
    for start in range(0, n, CROPS):
        crops[start : start + CROPS] = piece[: n - start]
    crops.flush()
    rows = np.arange(n)
    table = CropTable(y_true=rows % 2, video=rows // 16, source=rows // 32, frame=rows % 16)
    return CropSet(CropStore(path), table, [str(row) for row in rows])


def epoch(crops: CropSet) -> tuple[float, float]:
    """(microseconds a crop, most MB held) of an epoch, loaded in this process."""
    config = make_config("reference", batch_size=35)
    plan, loader, _ = make_loaders(crops, crops, POLICIES["reference"], config, image_size=SIDE)
    start, most = time.perf_counter(), 0.0
    for step, _ in enumerate(loader):
        if step % 50 == 0:
            most = max(most, own_memory())
    return (time.perf_counter() - start) / sum(plan.sizes) * 1e6, most


def own_memory() -> float:
    """MB that this process holds beside mapped files; NaN where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return float("nan")
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


def grown(what: int) -> list[tuple[float, float]]:
    """(at 16 times the crops, at once the crops), each run: 0 time a crop, 1 memory."""
    with tempfile.TemporaryDirectory() as name:
        sets = [make_set(factor * CROPS, Path(name)) for factor in GROWTH]
        for crops in sets:
            epoch(crops)  # the page cache
        runs = [[epoch(crops)[what] for crops in sets] for _ in range(RUNS)]
    return [(run[-1], run[0]) for run in runs]


BENCHMARKS = (
    ("loading 16 times the crops", "once the crops", "µs/crop", lambda: grown(0)),
    ("loading 16 times the crops", "once the crops", "MB", lambda: grown(1)),
)
