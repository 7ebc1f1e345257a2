"""Crops decoded once, into one memory-mapped file that every loader process shares."""

from __future__ import annotations

import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from utils.faces.media import load_crop
from utils.run.artifacts import atomic_path
from utils.run.jobs import map_threads
from utils.run.machine import environment

#: Left free on the disk beside a store.
SPARE_BYTES = 256 * 2**20
LAYOUT = 1  # counts up when the content of a store changes for the same inputs


class CropStore:
    """A read-only array of crops on disk, uint8 RGB, shape (n, side, side, 3).

    It travels to other processes as its path: each opens the file for itself, and the system keeps
    one copy of its pages for all of them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def crops(self) -> np.ndarray:
        """The memory-mapped array."""
        return np.load(self.path, mmap_mode="r", allow_pickle=False)

    @property
    def side(self) -> int:
        """Side of a crop in pixels."""
        return int(self.crops.shape[1])

    def __len__(self) -> int:
        return len(self.crops)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}


def store_folder(output: str | Path, store: str = "") -> Path:
    """Where stores lie: STORE, else beside the results, else (Kaggle, Colab) on temporary disk.

    What lies in `/kaggle/working` is kept and counts against its 20 GB; a store is neither.
    """
    if store:
        return Path(store)
    if environment() == "local":
        return Path(output) / "store"
    return Path(tempfile.gettempdir()) / "deepfake-detection-store"


def open_store(
    paths: Sequence[str], side: int, folder: str | Path, name: str, *, progress: bool = True
) -> CropStore:
    """Open the store of these crops; decode them first unless that was done already.

    The file is called by a fingerprint of all that it depends on (paths, sizes, times, side), so a
    changed crop makes another store; the one of that `name` that it replaces is removed. A store
    gets its name when it is whole.

    Args:
        paths: crops, in the order of the index.
        side: of what is kept, in pixels.
        folder: of `store_folder`.
        name: such as "train"; one store of a name is kept.
        progress: show a bar.
    Raises:
        ValueError: a crop cannot be read.
        OSError: the disk has no room for it; says how much is needed.
    """
    folder, shape = Path(folder), (len(paths), side, side, 3)
    path = folder / f"{name}-{_fingerprint(paths, side)}.npy"
    if not _is_whole(path, shape):
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for left in folder.glob(f".{name}-*.npy"):
                left.unlink()  # of a run that was killed while it wrote
            _decode(paths, path, shape, progress=progress)
        except OSError as error:
            raise OSError(
                f"the decoded crops ({math.prod(shape) / 1e9:.2f} GB) cannot be written to "
                f"{folder}: {error.strerror or error}. Set STORE to a folder with room, or lower "
                "FRAMES_STORED or IMAGE_SIZE"
            ) from error
    for old in folder.glob(f"{name}-{'?' * 16}.npy"):
        if old != path:
            old.unlink(missing_ok=True)
    return CropStore(path)


def _fingerprint(paths: Sequence[str], side: int) -> str:
    digest = hashlib.blake2b(f"{LAYOUT} {side}".encode(), digest_size=8)
    for path in paths:
        try:
            facts = os.stat(path)
        except OSError as error:
            raise ValueError(f"{path} cannot be read ({error.strerror})") from error
        digest.update(f"\0{os.path.abspath(path)}\0{facts.st_size}\0{facts.st_mtime_ns}".encode())
    return digest.hexdigest()


def _is_whole(path: Path, shape: tuple[int, ...]) -> bool:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False).shape == shape
    except (OSError, ValueError):  # missing, cut short, or no array
        return False


def _decode(paths: Sequence[str], path: Path, shape: tuple[int, ...], *, progress: bool) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < math.prod(shape) + SPARE_BYTES:
        raise OSError(f"only {free / 1e9:.2f} GB are free")
    with atomic_path(path) as temporary:
        crops = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
        # Take the disk now: a memory map that finds it full later kills the process.
        if hasattr(os, "posix_fallocate"):
            with open(temporary, "r+b") as file:
                os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)

        def decode(row: int) -> None:  # straight into the map
            crops[row] = resized(load_crop(paths[row]), shape[1])

        rows = range(len(paths))
        list(map_threads(decode, rows, desc="decode", unit="crop", progress=progress))
        crops.flush()


def resized(crop: Image.Image, side: int) -> np.ndarray:
    """The eval transform's own resize, bilinear with antialiasing: (side, side, 3) uint8."""
    if crop.size != (side, side):
        crop = crop.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(crop)
