"""Crops decoded once, and what an epoch makes of them: which, in which order, augmented."""

from __future__ import annotations

import hashlib
import itertools
import math
import os
import shutil
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from utils.faces.media import load_crop
from utils.run.artifacts import atomic_path
from utils.run.jobs import map_threads, prefetch
from utils.run.machine import environment, fits_shared_memory
from utils.stats.metrics import y_true_of
from utils.training.augmentation import Policy, augment, self_blend
from utils.training.recipes import TrainConfig

#: Left free on the disk beside a store.
SPARE_BYTES = 256 * 2**20
LAYOUT = 1  # counts up when the content of a store changes for the same inputs
#: (images (B, H, W, 3) uint8, targets (B,) int64, rows (B,) int64)
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
#: Writes the images of an item of a plan into an array that has room; returns targets and rows.
Fill = Callable[[Any, np.ndarray], tuple[np.ndarray, np.ndarray]]
NO_PARTNER = -1
#: Batches that each loader process is ahead by.
AHEAD = 2


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
        return Path(store).expanduser()
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


@dataclass(frozen=True)
class CropTable:
    """What the sampler knows of the n crops of one split; row i is row i of their store."""

    y_true: np.ndarray  # (n,) labels, 1 = FAKE
    video: np.ndarray  # (n,) number of the video
    source: np.ndarray  # (n,) number of the source, the real video that it goes back to
    frame: np.ndarray  # (n,) number of the frame in its video

    @classmethod
    def from_index(cls, index: pd.DataFrame) -> CropTable:
        """Take the rows of index.csv as they are ordered."""
        videos = index.groupby(["dataset", "video"], sort=False).ngroup()
        return cls(
            y_true=y_true_of(index),
            video=videos.to_numpy(np.int64),
            source=pd.factorize(index["source"])[0].astype(np.int64),
            frame=index["frame"].to_numpy(np.int64),
        )

    def __len__(self) -> int:
        return len(self.y_true)


@dataclass(frozen=True)
class CropSet:
    """The crops of one split: pixels, what the sampler knows of them, and where they came from."""

    store: CropStore
    table: CropTable
    paths: Sequence[str]

    def __len__(self) -> int:
        return len(self.table)

    def facts(self, name: str) -> dict[str, Any]:
        """What a run owes to its crops; without paths, for a mount may move."""
        labels = zlib.crc32(self.table.y_true.tobytes())
        facts = {"crops": len(self), "side": self.store.side, "labels_crc32": labels}
        return {f"{name}_{key}": value for key, value in facts.items()}


def draw_epoch(table: CropTable, rng: np.random.Generator, config: TrainConfig) -> np.ndarray:
    """Draw the crops of one epoch, each at most once, as the config asks.

    `balanced`: as many crops of the larger class as the smaller one gives, spread evenly over all
    its videos: they take turns from epoch to epoch. `pairs`: each REAL crop with a FAKE of its
    source, of the same frame where there is one. A real without a fake goes with any other; fakes
    left over wait for another epoch.

    Returns:
        Rows in random order, shape (n, 1), or (n, 2) for pairs: REAL, FAKE.
    Raises:
        ValueError: balance or pairs are asked of one class.
    """
    limit = config.frames_per_video or len(table)
    classes = [_draw_class(table, label, limit, rng) for label in (0, 1)]
    if (config.balanced or config.pairs) and not all(len(rows) for rows in classes):
        raise ValueError("balanced classes and pairs need crops of both, REAL and FAKE")
    if config.pairs:
        units = _pair(table, classes[0], rng)
    elif config.balanced:
        size = min(len(rows) for rows in classes)
        units = np.concatenate([rows[:size] for rows in classes])[:, None]
    else:
        units = np.concatenate(classes)[:, None]
    return units[rng.permutation(len(units))]


def _draw_class(table: CropTable, label: int, limit: int, rng: np.random.Generator) -> np.ndarray:
    """Random crops of a class, at most `limit` a video: first one of each video, then a second."""
    rows = rng.permutation(np.flatnonzero(table.y_true == label))
    turn = pd.Series(table.video[rows]).groupby(table.video[rows]).cumcount().to_numpy()
    order = np.argsort(turn, kind="stable")
    return rows[order][turn[order] < limit]


def _pair(table: CropTable, reals: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Give each real crop a fake one: same source and frame, else same source, else any."""
    fakes = rng.permutation(np.flatnonzero(table.y_true == 1))  # so the first of a kind is random
    partner = np.full(len(reals), NO_PARTNER)
    same_frame = np.stack([table.source, table.frame], axis=1)
    for keys in (same_frame, table.source[:, None]):
        alone = np.flatnonzero(partner == NO_PARTNER)
        partner[alone] = _match(keys[reals[alone]], keys[fakes], fakes)
    alone = np.flatnonzero(partner == NO_PARTNER)
    partner[alone] = rng.choice(fakes, len(alone), replace=len(alone) > len(fakes))
    return np.stack([reals, partner], axis=1)


def _match(wanted: np.ndarray, offered: np.ndarray, fakes: np.ndarray) -> np.ndarray:
    """For each wanted key (n, k) a fake that has it, in turns; NO_PARTNER where there is none.

    `offered` are the keys (m, k) of the fakes.
    """
    codes = pd.factorize(pd.MultiIndex.from_arrays(np.concatenate([wanted, offered]).T))[0]
    want, offer = codes[: len(wanted)], codes[len(wanted) :]
    order = np.argsort(offer, kind="stable")
    first = np.searchsorted(offer[order], want)
    count = np.searchsorted(offer[order], want, side="right") - first
    turn = pd.Series(want).groupby(want).cumcount().to_numpy()  # two reals, two different fakes
    place = first + turn % np.maximum(count, 1)
    return np.where(count > 0, fakes[order][np.minimum(place, len(fakes) - 1)], NO_PARTNER)


def split_batches(units: np.ndarray, batch_size: int, processes: int = 1) -> list[np.ndarray]:
    """Cut an epoch into batches of `batch_size` crops; nothing is left out.

    A last batch that would give a process fewer than two crops joins the one before it: batch
    normalisation cannot learn from one.
    """
    per_batch = max(1, batch_size // units.shape[1])
    batches = np.split(units, range(per_batch, len(units), per_batch))
    if len(batches) > 1 and batches[-1].size < 2 * processes:
        batches[-2:] = [np.concatenate(batches[-2:])]
    return batches


class BatchPlan:
    """The batches of an epoch, for one of several processes; starts wherever a run was stopped.

    All follows from seed and epoch, so every process draws the same epoch, and a resumed run sees
    what the uninterrupted one would have seen. Set `epoch` (from 1) and `start` (batches that were
    seen already) before each pass. An item is (epoch, units): what `fill_train` makes images of.
    """

    def __init__(
        self, table: CropTable, config: TrainConfig, *, rank: int = 0, processes: int = 1
    ) -> None:
        size = config.batch_size
        if size < 2 * processes and len(table) > 1:
            raise ValueError(
                f"batch_size {size} gives each of {processes} processes fewer than two crops"
            )
        self.table, self.config, self.rank, self.processes = table, config, rank, processes
        self.epoch, self.start = 1, 0
        # Only the choice of crops is random, never how many there are.
        self.sizes = [batch.size for batch in self._batches()]

    def __len__(self) -> int:
        return len(self.sizes) - self.start

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        for batch in self._batches()[self.start :]:
            yield self.epoch, np.array_split(batch, self.processes)[self.rank]

    def labels(self) -> np.ndarray:
        """Labels of the crops of this epoch, over all processes; how many of each never changes."""
        return self.table.y_true[np.concatenate([batch.ravel() for batch in self._batches()])]

    def _batches(self) -> list[np.ndarray]:
        rng = np.random.default_rng([self.config.seed % 2**64, self.epoch])
        units = draw_epoch(self.table, rng, self.config)
        return split_batches(units, self.config.batch_size, self.processes)


#: A sized iterable of what a `Fill` takes, a batch each.
Plan = BatchPlan | list[np.ndarray]


def fill_train(
    crops: CropSet, policy: Policy, seed: int, item: tuple[int, np.ndarray], images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Write the augmented images of an item of a `BatchPlan`; a `Fill` of its last two arguments.

    The changes to a crop follow from seed, epoch and row alone, whichever process makes them and
    when. The two crops of a pair get the same geometry, so that it cannot tell them apart.

    A REAL crop becomes a self-blended FAKE with the policy's probability `self_blend`: in pairs it
    then stands in for the fake beside it, so the classes stay as balanced as they were.
    """
    epoch, units = item
    pixels, y_true, image_size = crops.store.crops, crops.table.y_true, images.shape[1]
    targets, rows = np.empty(units.size, np.int64), np.empty(units.size, np.int64)
    look, geometry = _KeyedDraws(seed, epoch), _KeyedDraws(seed, epoch)
    for i, row in enumerate(units.flat):
        unit = units[i // units.shape[1]]
        rng = look.of(2 * row)
        crop, targets[i], rows[i] = pixels[row], y_true[row], row
        stands_in = y_true[unit[0]] == 0 and (len(unit) == 1 or row != unit[0])
        if stands_in and rng.random() < policy.self_blend:
            crop, targets[i], rows[i] = self_blend(pixels[unit[0]], rng), 1, unit[0]
        shared = geometry.of(2 * unit[0] + 1) if len(unit) == 2 else None
        images[i] = augment(crop, policy, image_size=image_size, rng=rng, geometry_rng=shared)
    return targets, rows


class _KeyedDraws:
    """Random numbers that follow from (seed, epoch, key).

    Philox needs no more than a new key to start anew, seven times faster than a new generator.
    """

    def __init__(self, seed: int, epoch: int) -> None:
        self._bits = np.random.Philox(key=[(seed % 2**32) << 32 | epoch, 0])
        self._start = self._bits.state
        self._rng = np.random.Generator(self._bits)

    def of(self, key: int) -> np.random.Generator:
        """The generator at the start of the numbers of this key."""
        self._start["state"]["key"][1] = key
        self._bits.state = self._start
        return self._rng


def _fill_val(
    crops: CropSet, rows: np.ndarray, images: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The whole crops, resized as by the eval transform."""
    for i, row in enumerate(rows):
        images[i] = resized(Image.fromarray(crops.store.crops[row]), images.shape[1])
    return crops.table.y_true[rows], rows


class BatchLoader:
    """Runs through a plan, some batches ahead of the model in `num_workers` processes (0: in this).

    Images come through memory that those processes and this one share and that is made once: to
    send each batch in memory of its own takes longer than to make it.
    """

    def __init__(
        self, fill: Fill, plan: Plan, largest: int, *, image_size: int, num_workers: int = 0
    ) -> None:
        self.plan = plan
        # All that may be under way, one that was just handed out, and one that is being used.
        shape = (num_workers * AHEAD + 2, largest, image_size, image_size, 3)
        if num_workers and not fits_shared_memory(math.prod(shape)):
            num_workers, shape = 0, (2, *shape[1:])
        self.images = torch.empty(shape, dtype=torch.uint8)
        slots = _Slots(fill, plan, self.images)
        self.loader = DataLoader(
            slots,
            batch_size=None,  # an item is a whole batch already
            sampler=slots,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            prefetch_factor=AHEAD if num_workers else None,
            # Starting workers draws a number: from here, so that dropout does not depend on it.
            generator=torch.Generator(),
        )
        if num_workers:
            self.images.share_memory_()
            # The workers are the parallelism. And a process that is forked while OpenCV has
            # threads waits for them for ever, so they must go before the workers come.
            cv2.setNumThreads(1)
            # Start them now. Later, when the model has grown, the first step after a fork would
            # have to copy every page that it writes: seconds, on a machine without a GPU.
            iter(self.loader)

    def __len__(self) -> int:
        return len(self.plan)

    def __iter__(self) -> Iterator[Batch]:
        # A GPU takes page-locked memory while it computes. In a thread, for the copy alone takes a
        # twentieth of a fast one's step.
        return prefetch(self._page_locked()) if torch.cuda.is_available() else self._batches()

    def _batches(self) -> Iterator[Batch]:
        for slot, targets, rows in self.loader:
            # Out of the slot, which is used again.
            yield self.images[slot, : len(rows)].clone(), targets, rows

    def _page_locked(self) -> Iterator[Batch]:
        # Of this thread: to copy in several would disturb the one that trains.
        torch.set_num_threads(1)
        for slot, targets, rows in self.loader:
            yield self.images[slot, : len(rows)].pin_memory(), targets.pin_memory(), rows


class _Slots(Dataset):
    """Samples the items of a plan, each with a slot, and writes the images of an item into it."""

    def __init__(self, fill: Fill, plan: Plan, images: torch.Tensor) -> None:
        self.fill, self.plan, self.images = fill, plan, images  # (slots, B, H, W, 3) uint8

    def __iter__(self) -> Iterator[tuple[int, Any]]:
        return zip(itertools.cycle(range(len(self.images))), self.plan)

    def __getitem__(self, item: tuple[int, Any]) -> tuple[int, torch.Tensor, torch.Tensor]:
        slot, planned = item
        targets, rows = self.fill(planned, self.images[slot].numpy())
        return slot, torch.from_numpy(targets), torch.from_numpy(rows)


def make_loaders(
    train: CropSet,
    val: CropSet,
    policy: Policy,
    config: TrainConfig,
    *,
    image_size: int,
    rank: int = 0,
    processes: int = 1,
    num_workers: int = 0,
) -> tuple[BatchPlan, BatchLoader, BatchLoader]:
    """What one of several training processes is fed with.

    The plan decides what the next pass over the train loader shows: this process's share of each
    batch. The val loader gives every `processes`-th batch of val; which crops are in one does not
    depend on the number of processes, so neither does a score.
    """
    plan = BatchPlan(train.table, config, rank=rank, processes=processes)
    largest, size = -(-max(plan.sizes) // processes) + 1, config.batch_size  # no pair is cut in two
    val_plan = np.split(np.arange(len(val)), range(size, len(val), size))[rank::processes]
    options = {"image_size": image_size, "num_workers": num_workers}
    train_loader = BatchLoader(
        partial(fill_train, train, policy, config.seed), plan, largest, **options
    )
    return plan, train_loader, BatchLoader(partial(_fill_val, val), val_plan, size, **options)
