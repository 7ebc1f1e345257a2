"""Crops to normalised batches: our loader beside timm's and a plain one, same augmentation.

All three end with float32 batches of the reference policy (rotation, random crop, flip), 160 x 160
pixels, from two loader processes; each has warmed up for an epoch. Ours decodes once, before the
first epoch; its line in the table does not hold that.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import pandas as pd
import torch
from PIL import Image
from timm.data import create_loader
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import InterpolationMode, v2

from benchmarks.crops import bench_crops
from utils.model.scoring import normalise
from utils.training.augmentation import POLICIES
from utils.training.batches import CropSet, CropTable, make_loaders, open_store
from utils.training.recipes import make_config

SIZE, BATCH, WORKERS, RUNS = 160, 35, 2, 5
#: An epoch has at least so many crops: those that there are, again and again.
EPOCH = 4000
HALF = (0.5, 0.5, 0.5)
ROTATE = v2.RandomRotation(10, interpolation=InterpolationMode.BILINEAR, fill=127)


class Files(Dataset):
    """One file, one transform, one sample."""

    def __init__(self, paths: list[str], transform: Callable | None = None) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        image = Image.open(self.paths[row]).convert("RGB")
        return self.transform(image), row % 2


def ours(paths: list[str], folder: Path) -> Iterable:
    """The loader of `fit`, and the normalisation that it leaves to the device."""
    n = range(len(paths))
    index = pd.DataFrame({"dataset": "d", "video": n, "source": n, "frame": 0, "label": "REAL"})
    crops = CropSet(
        open_store(paths, SIZE, folder, "bench", progress=False), CropTable.from_index(index), paths
    )
    config = make_config("reference", batch_size=BATCH, frames_per_video=0)
    options = {"image_size": SIZE, "num_workers": WORKERS}
    _, loader, _ = make_loaders(crops, crops, POLICIES["reference"], config, **options)

    class Normalised:
        def __iter__(self):
            for images, targets, _ in loader:
                yield normalise(images, HALF, HALF, torch.device("cpu")), targets

    return Normalised()


def of_timm(paths: list[str], _: Path) -> Iterable:
    """timm's own training loader, given the rotation that it has no argument for."""
    loader = create_loader(
        Files(paths), input_size=(3, SIZE, SIZE), batch_size=BATCH, is_training=True,
        use_prefetcher=False, scale=(0.8, 1.0), ratio=(0.9, 1.1), hflip=0.5, color_jitter=None,
        interpolation="bilinear", mean=HALF, std=HALF, num_workers=WORKERS,
        persistent_workers=True,
    )  # fmt: skip
    loader.dataset.transform.transforms.insert(0, ROTATE)
    return loader


def plain(paths: list[str], _: Path) -> Iterable:
    """What most notebooks do: PIL and torchvision, sample by sample."""
    transform = v2.Compose(
        [
            ROTATE,
            v2.RandomResizedCrop(SIZE, scale=(0.8, 1.0), ratio=(0.9, 1.1)),
            v2.RandomHorizontalFlip(),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(HALF, HALF),
        ]
    )
    return DataLoader(
        Files(paths, transform), BATCH, shuffle=True, num_workers=WORKERS, persistent_workers=True
    )


def crops_per_second(loader: Iterable) -> float:
    """Run through an epoch."""
    start, n = time.perf_counter(), 0
    for images, _ in loader:
        assert images.dtype == torch.float32 and images.shape[1:] == (3, SIZE, SIZE)
        n += len(images)
    return n / (time.perf_counter() - start)


def against(baseline: Callable[[list[str], Path], Iterable]) -> list[tuple[float, float]]:
    """(crops a second of ours, of the baseline) of each paired run."""
    torch.set_num_threads(1)  # or this process fights its loaders for the cores while it waits
    with tempfile.TemporaryDirectory() as name:
        paths = bench_crops(Path(name))
        paths *= -(-EPOCH // len(paths))
        one, two = ours(paths, Path(name)), baseline(paths, Path(name))
        for loader in (one, two):
            crops_per_second(loader)  # starts the workers, fills the page cache
        return [(crops_per_second(one), crops_per_second(two)) for _ in range(RUNS)]


BENCHMARKS = (
    ("loader, 160 px", "timm create_loader", "crops/s", lambda: against(of_timm)),
    ("loader, 160 px", "plain PIL DataLoader", "crops/s", lambda: against(plain)),
)
