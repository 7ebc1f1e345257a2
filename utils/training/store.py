"""Crops decoded once, into one memory-mapped file that every loader process shares."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from PIL import Image
from tqdm.auto import tqdm

from utils.faces.media import load_crop
from utils.run.artifacts import atomic_path
from utils.run.machine import environment

CROPS_A_CHUNK = 64
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
        self._crops: np.ndarray | None = None

    @property
    def crops(self) -> np.ndarray:
        """The memory-mapped array."""
        if self._crops is None:
            self._crops = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return self._crops

    @property
    def side(self) -> int:
        """Side of a crop in pixels."""
        return int(self.crops.shape[1])

    def __len__(self) -> int:
        return len(self.crops)

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "_crops": None}


def store_folder(output: str | Path, store: str = "") -> Path:
    """Where stores lie: STORE, else beside the results, else (Kaggle, Colab) on temporary disk.

    What lies in `/kaggle/working` is kept and counts against its 20 GB; a store is neither.
    """
    if store:
        return Path(store)
    if environment() == "local":
        return Path(output) / "store"
    return Path(tempfile.gettempdir()) / "deepfake-detection-store"


def store_side(index: pd.DataFrame, largest: int) -> int:
    """The side at which crops are kept: that of the largest crop, but no more than is of use.

    Nothing is enlarged: 160 pixels take half the disk of 224.

    Args:
        index: with `width` and `height` in pixels.
        largest: side of the network's input for val, which is resized here, once and exactly as by
            the eval transform; `OVERSAMPLE` times as much for train.
    """
    return min(int(index[["width", "height"]].to_numpy().max()), largest)


def open_store(
    paths: Sequence[str], side: int, folder: str | Path, name: str, *, progress: bool = True
) -> CropStore:
    """Open the store of these crops; decode them first unless that was done already.

    The file is called by a fingerprint of all that it depends on (paths, sizes, times, side), so a
    changed crop makes another store; the one that it replaces is removed. A store gets its name
    when it is whole.

    Args:
        paths: crops, in the order of the index.
        side: of `store_side`, in pixels.
        folder: of `store_folder`.
        name: such as "train"; one store of a name is kept.
        progress: show a bar.
    Raises:
        ValueError: a crop cannot be read, or there is no crop.
        OSError: the disk has no room for it; says how much is needed.
    """
    if not paths:
        raise ValueError(f"there is no crop to put into the store {name!r}")
    folder = Path(folder)
    path = folder / f"{name}-{_name_of(paths, side)}.npy"
    if not _is_whole(path, (len(paths), side, side, 3)):
        _decode(paths, side, path, progress=progress)
    for old in folder.glob(f"{name}-{'?' * 16}.npy"):
        if old != path:
            old.unlink(missing_ok=True)
    return CropStore(path)


def _name_of(paths: Sequence[str], side: int) -> str:
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


def _decode(paths: Sequence[str], side: int, path: Path, *, progress: bool) -> None:
    needed = len(paths) * side * side * 3
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left in path.parent.glob(f".{path.stem.split('-')[0]}-*.npy"):
            left.unlink()  # of a run that was killed while it wrote
        _check_room(path.parent, needed)
        with atomic_path(path) as temporary:
            shape = (len(paths), side, side, 3)
            crops = np.lib.format.open_memmap(temporary, "w+", np.uint8, shape)
            # Take the disk now: a memory map that finds it full later kills the process.
            if hasattr(os, "posix_fallocate"):
                with open(temporary, "r+b") as file:
                    os.posix_fallocate(file.fileno(), 0, temporary.stat().st_size)
            _fill(crops, paths, side, progress=progress)
            crops.flush()
    except OSError as error:
        raise OSError(
            f"the decoded crops ({needed / 1e9:.2f} GB) cannot be written to {path.parent}: "
            f"{error.strerror or error}. Set STORE to a folder with room, or lower FRAMES_STORED "
            "or IMAGE_SIZE"
        ) from error


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE_BYTES:
        raise OSError(f"only {free / 1e9:.2f} GB are free")


def _fill(crops: np.ndarray, paths: Sequence[str], side: int, *, progress: bool) -> None:
    def fill(start: int) -> int:
        for row in range(start, min(start + CROPS_A_CHUNK, len(paths))):
            crops[row] = resized(load_crop(paths[row]), side)
        return min(CROPS_A_CHUNK, len(paths) - start)

    # Threads: decoding lets go of the interpreter lock, and writes straight into the map.
    parallel = Parallel(n_jobs=-1, prefer="threads", return_as="generator_unordered")
    with tqdm(total=len(paths), unit="crop", desc="decode", disable=not progress) as bar:
        for done in parallel(delayed(fill)(start) for start in range(0, len(paths), CROPS_A_CHUNK)):
            bar.update(done)


def resized(crop: Image.Image, side: int) -> np.ndarray:
    """The eval transform's own resize, bilinear with antialiasing: (side, side, 3) uint8."""
    if crop.size != (side, side):
        crop = crop.resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(crop)
