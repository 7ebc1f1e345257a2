"""Crops from disk to batches."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

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


def load_valid_crop(path: str) -> Image.Image:
    """`load_crop` for the crops of an index, which 01 has opened before."""
    try:
        return load_crop(path)
    except ValueError as error:
        hint = "run 01_explore_data again, it sorts such files out"
        raise ValueError(f"{error}; {hint}") from error


class CropDataset(Dataset):
    """Crops with labels; an item is (image tensor, target, row)."""

    def __init__(self, paths: Sequence[str], y_true: Sequence[int], transform: Transform) -> None:
        self.paths = list(paths)
        self.y_true = np.asarray(y_true, dtype=np.int64)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int, int]:
        return self.transform(load_valid_crop(self.paths[row])), int(self.y_true[row]), row


def default_workers(device: torch.device) -> int:
    """Loader processes, four at most: all cores but one feed a GPU.

    Where the model itself computes on the cores, one in four: there a process more costs what the
    model needs, and its start makes this one copy its memory.
    """
    cores = os.cpu_count() or 1
    return min(4, cores // 4 if device.type == "cpu" else cores - 1)


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
    num_workers: int = 0,
) -> DataLoader:
    """Batches of (images (B, 3, H, W) float32, targets (B,) int64, rows (B,) int64), in order.

    For crops that are looked at once; training decodes them once for all epochs (`store`).

    Args:
        paths: crops, in the order of the index.
        y_true: labels, 1 = FAKE.
        transform: of `utils.transforms`.
        batch_size: crops a batch; the last one may be smaller.
        num_workers: loader processes; 0 loads in this one.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} is not at least 1")
    return DataLoader(
        CropDataset(paths, y_true, transform),
        batch_size=batch_size,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
    )
