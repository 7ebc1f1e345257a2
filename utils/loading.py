"""Crops from disk to batches."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.transforms import Transform
from utils.video import evenly_spaced

#: What Pillow raises for files that are missing, broken, cut short or absurdly large.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error),
    Image.DecompressionBombError,
)


def load_crop(path: str) -> Image.Image:
    """Open a crop as RGB.

    Raises:
        ValueError: the file cannot be read as an image; names it.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as an image ({error})") from error


class CropDataset(Dataset):
    """Crops with labels; an item is (image tensor, target, row).

    The item `row + epoch * len(self)` is the crop of that row as that epoch sees it: its random
    changes follow from seed, epoch and row alone, whichever process loads it and when.
    """

    def __init__(
        self, paths: Sequence[str], y_true: Sequence[int], transform: Transform, *, seed: int = 0
    ) -> None:
        self.paths = list(paths)
        self.y_true = np.asarray(y_true, dtype=np.int64)
        self.transform = transform
        self.seed = seed

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: int) -> tuple[torch.Tensor, int, int]:
        epoch, row = divmod(item, len(self))
        try:
            crop = load_crop(self.paths[row])
        except ValueError as error:
            hint = "run 01_explore_data again, it sorts such files out"
            raise ValueError(f"{error}; {hint}") from error
        draw = np.random.SeedSequence([self.seed, epoch, row]).generate_state(1)
        with torch.random.fork_rng(devices=[]):  # the dropout of this process draws on as before
            torch.default_generator.manual_seed(int(draw[0]))
            return self.transform(crop), int(self.y_true[row]), row


class EpochSampler(Sampler[int]):
    """Every row once, as items of `CropDataset`, in an order that follows from seed and epoch.

    So a resumed run sees the batches that the uninterrupted one would have seen.
    """

    def __init__(self, n_rows: int, *, seed: int) -> None:
        self.n_rows, self.seed, self.epoch = n_rows, seed, 0

    def __len__(self) -> int:
        return self.n_rows

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng([self.seed, self.epoch])
        return iter((rng.permutation(self.n_rows) + self.epoch * self.n_rows).tolist())


def default_workers() -> int:
    """Loader processes for this machine: its cores less one, four at most."""
    return max(0, min(4, (os.cpu_count() or 1) - 1))


def spread_frames(index: pd.DataFrame, n_frames: int) -> pd.DataFrame:
    """Keep `n_frames` evenly spaced frames of every video, with all their faces; 0 keeps all.

    Neighbouring frames of a video are near copies: after a few they cost time and teach nothing.
    """
    if not n_frames:
        return index
    frames = index.drop_duplicates(["dataset", "video", "frame"])[["dataset", "video", "frame"]]
    frames = frames.sort_values("frame")
    groups = frames.groupby(["dataset", "video"])["frame"]
    rank, size = groups.cumcount(), groups.transform("size")
    wanted = {n: set(evenly_spaced(n, n_frames).tolist()) for n in size.unique()}
    chosen = [r in wanted[n] for r, n in zip(rank, size)]
    kept = pd.MultiIndex.from_frame(frames[chosen])
    return index[pd.MultiIndex.from_frame(index[["dataset", "video", "frame"]]).isin(kept)]


def make_loader(
    paths: Sequence[str],
    y_true: Sequence[int],
    transform: Transform,
    *,
    batch_size: int,
    shuffle: bool = False,
    seed: int = 0,
    num_workers: int = 0,
) -> DataLoader:
    """Batches of (images (B, 3, H, W) float32, targets (B,) int64, rows (B,) int64).

    Args:
        paths: crops, in the order of the index.
        y_true: labels, 1 = FAKE.
        transform: of `utils.transforms`.
        batch_size: crops a batch; the last one may be smaller.
        shuffle: a new order each epoch, for training; otherwise the order of `paths`.
        seed: of that order, and of the random changes to the crops.
        num_workers: loader processes; 0 loads in this one.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} is not at least 1")
    dataset = CropDataset(paths, y_true, transform, seed=seed)
    sampler = EpochSampler(len(dataset), seed=seed) if shuffle else None
    options: dict[str, Any] = {"persistent_workers": True} if num_workers else {}
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=sampler,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        # Starting workers draws a number: from here, so that dropout does not depend on it.
        generator=torch.Generator(),
        # Batch normalisation cannot learn from a batch of one.
        drop_last=shuffle and len(dataset) % batch_size == 1 and len(dataset) > 1,
        **options,
    )


def run_settings(train: DataLoader, val: DataLoader) -> dict[str, Any]:
    """What a training run owes to its loaders; without paths, for a mount may move.

    Args:
        train, val: of `make_loader`.
    Returns:
        Plain values; two runs with the same ones see the same batches.
    """
    data: Any = train.dataset
    return {
        "batch_size": train.batch_size,
        "crops": [len(data), len(val.dataset)],  # type: ignore[arg-type]
        "labels_crc32": zlib.crc32(data.y_true.tobytes()),
        "data_seed": data.seed,
        "augmentation": " ".join(str(data.transform).split()),
    }
