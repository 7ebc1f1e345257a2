"""Decoded crops to batches for training: uint8, augmented one by one, ahead of the model."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Sampler

from utils.augment import augment, self_blend
from utils.recipes import TrainConfig
from utils.sampling import BatchPlan, CropTable
from utils.store import CropStore, resized
from utils.transforms import Policy

#: (images (B, H, W, 3) uint8, targets (B,) int64, rows (B,) int64)
Batch = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


@dataclass(frozen=True)
class CropSet:
    """The crops of one split: pixels, what the sampler knows of them, and where they came from."""

    store: CropStore
    table: CropTable
    paths: Sequence[str]

    def __post_init__(self) -> None:
        if not len(self.store) == len(self.table) == len(self.paths):
            raise ValueError(
                f"store, table and paths differ in length: {len(self.store)}, "
                f"{len(self.table)}, {len(self.paths)}"
            )

    def __len__(self) -> int:
        return len(self.table)

    def facts(self) -> dict[str, Any]:
        """What a run owes to its crops; without paths, for a mount may move."""
        return {
            "crops": len(self),
            "side": self.store.side,
            "labels_crc32": zlib.crc32(self.table.y_true.tobytes()),
        }


class TrainBatches(Dataset):
    """Augmented batches; an item is what `BatchPlan` yields, (epoch, units).

    The changes to a crop follow from seed, epoch and row alone, whichever process makes them and
    when. The two crops of a pair get the same geometry, so that it cannot tell them apart.

    A REAL crop becomes a self-blended FAKE with the policy's probability `self_blend`: in pairs it
    then stands in for the fake beside it, so the classes stay as balanced as they were.
    """

    def __init__(self, crops: CropSet, policy: Policy, *, image_size: int, seed: int = 0) -> None:
        self.crops, self.policy, self.image_size, self.seed = crops, policy, image_size, seed

    def __getitem__(self, item: tuple[int, np.ndarray]) -> Batch:
        epoch, units = item
        images = np.empty((units.size, self.image_size, self.image_size, 3), np.uint8)
        targets, rows = np.empty(units.size, np.int64), np.empty(units.size, np.int64)
        look, geometry = _KeyedDraws(self.seed, epoch), _KeyedDraws(self.seed, epoch)
        for i, row in enumerate(units.flat):
            unit = units[i // units.shape[1]]
            rng = look.of(2 * row)
            crop, targets[i], rows[i] = self._pick(unit, row, rng)
            images[i] = augment(
                crop,
                self.policy,
                image_size=self.image_size,
                rng=rng,
                geometry_rng=geometry.of(2 * unit[0] + 1) if len(unit) == 2 else None,
            )
        return torch.from_numpy(images), torch.from_numpy(targets), torch.from_numpy(rows)

    def _pick(
        self, unit: np.ndarray, row: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, int, int]:
        """The crop of a row, its target and its row; or a real crop blended with itself."""
        crops, y_true = self.crops.store.crops, self.crops.table.y_true
        stands_in = len(unit) == 1 or row != unit[0]
        if stands_in and y_true[unit[0]] == 0 and rng.random() < self.policy.self_blend:
            return self_blend(crops[unit[0]], rng), 1, unit[0]
        return crops[row], y_true[row], row


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


class EvalBatches(Dataset):
    """The whole crops, resized as by the eval transform; an item is an array of rows."""

    def __init__(self, crops: CropSet, *, image_size: int) -> None:
        self.crops, self.image_size = crops, image_size

    def __getitem__(self, rows: np.ndarray) -> Batch:
        size = self.image_size
        images = np.empty((len(rows), size, size, 3), np.uint8)
        for i, row in enumerate(rows):
            images[i] = resized(Image.fromarray(self.crops.store.crops[row]), size)
        targets = self.crops.table.y_true[rows]
        return torch.from_numpy(images), torch.from_numpy(targets), torch.from_numpy(rows)


class EvalPlan(Sampler):
    """Rows in their order, in batches; one of several processes gets every `processes`-th batch.

    The batches do not depend on the number of processes, so neither does a score.
    """

    def __init__(self, n_rows: int, batch_size: int, *, rank: int = 0, processes: int = 1) -> None:
        self.batches = np.split(np.arange(n_rows), range(batch_size, n_rows, batch_size))
        self.batches = self.batches[rank::processes]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[np.ndarray]:
        return iter(self.batches)


def batch_loader(batches: Dataset, plan: Sampler, *, num_workers: int = 0) -> DataLoader:
    """Run through a plan, some batches ahead of the model in `num_workers` processes.

    Args:
        batches: `TrainBatches` or `EvalBatches`.
        plan: `BatchPlan` or `EvalPlan`.
        num_workers: loader processes; 0 loads in this one.
    """
    options: dict[str, Any] = {}
    if num_workers:
        options = {"persistent_workers": True, "prefetch_factor": 4, "worker_init_fn": _one_thread}
    return DataLoader(
        batches,
        batch_size=None,  # an item is a whole batch already
        sampler=plan,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        # Starting workers draws a number: from here, so that dropout does not depend on it.
        generator=torch.Generator(),
        **options,
    )


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
) -> tuple[BatchPlan, DataLoader, DataLoader]:
    """What one of several training processes is fed with.

    Returns:
        plan: its `epoch` and `start` decide what the next pass over the train loader shows.
        train_loader: this process's share of each batch of the plan.
        val_loader: this process's share of the batches of val.
    """
    share = {"rank": rank, "processes": processes}
    plan = BatchPlan(
        train.table,
        batch_size=config.batch_size,
        frames_per_video=config.frames_per_video,
        balanced=config.balanced,
        pairs=config.pairs,
        seed=config.seed,
        **share,
    )
    batches = TrainBatches(train, policy, image_size=image_size, seed=config.seed)
    val_plan = EvalPlan(len(val), config.batch_size, **share)
    val_batches = EvalBatches(val, image_size=image_size)
    return (
        plan,
        batch_loader(batches, plan, num_workers=num_workers),
        batch_loader(val_batches, val_plan, num_workers=num_workers),
    )


def _one_thread(_: int) -> None:
    cv2.setNumThreads(1)  # a worker is the parallelism; threads of its own would fight over cores


def normalise(
    images: torch.Tensor, mean: Sequence[float], std: Sequence[float], device: torch.device
) -> torch.Tensor:
    """The second half of the eval transform, on the device: it takes a quarter of the transfer.

    Args:
        images: (B, H, W, 3) uint8.
        mean, std: of the model, for values in [0, 1].
    Returns:
        (B, 3, H, W) float32, channels last in memory.
    """
    size, height, width, _ = images.shape
    # Rows of whole pixels: repeating three numbers over the last axis would take four times as long.
    values = images.to(device, non_blocking=True).reshape(size * height, width * 3)
    offset, scale = (torch.tensor(v, device=device).repeat(width) for v in (mean, std))
    values = values.float().mul_(1 / 255).sub_(offset).div_(scale)
    return values.view(size, height, width, 3).permute(0, 3, 1, 2)
