"""Which crops an epoch shows, in which order, and which process sees them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd
from torch.utils.data import Sampler

NO_PARTNER = -1


@dataclass(frozen=True)
class CropTable:
    """What the sampler knows of the crops of one split; row i is row i of their store.

    Attributes:
        y_true: labels, 1 = FAKE, shape (n,).
        video: number of the video, shape (n,).
        source: number of the source, the real video that it goes back to, shape (n,).
        frame: number of the frame in its video, shape (n,).
    """

    y_true: np.ndarray
    video: np.ndarray
    source: np.ndarray
    frame: np.ndarray

    @classmethod
    def from_index(cls, index: pd.DataFrame) -> CropTable:
        """Take the rows of index.csv as they are ordered."""
        videos = index.groupby(["dataset", "video"], sort=False).ngroup()
        return cls(
            y_true=(index["label"] == "FAKE").to_numpy(np.int64),
            video=videos.to_numpy(np.int64),
            source=pd.factorize(index["source"])[0].astype(np.int64),
            frame=index["frame"].to_numpy(np.int64),
        )

    def __len__(self) -> int:
        return len(self.y_true)


def draw_epoch(
    table: CropTable,
    rng: np.random.Generator,
    *,
    frames_per_video: int = 0,
    balanced: bool = False,
    pairs: bool = False,
) -> np.ndarray:
    """Draw the crops of one epoch, each at most once.

    Args:
        table: the crops that there are.
        rng: decides all that is random.
        frames_per_video: random crops of each video; 0 takes all.
        balanced: as many crops of the larger class as the smaller one gives, spread evenly over
            all its videos: they take turns from epoch to epoch, and none is shown twice.
        pairs: each REAL crop with a FAKE of its source, of the same frame where there is one. A
            real without a fake goes with any other; fakes left over wait for another epoch.
    Returns:
        Rows in random order, shape (n, 1), or (n, 2) for pairs: REAL, FAKE.
    Raises:
        ValueError: balance or pairs are asked of one class.
    """
    limit = frames_per_video or len(table)
    classes = [_draw_class(table, label, limit, rng) for label in (0, 1)]
    if (balanced or pairs) and not all(len(rows) for rows in classes):
        raise ValueError("balanced classes and pairs need crops of both, REAL and FAKE")
    if pairs:
        units = _pair(table, classes[0], rng)
    elif balanced:
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
    """For each wanted key the fakes that have it, in turns; NO_PARTNER where there is none.

    Args:
        wanted: shape (n, k).
        offered: keys of `fakes`, shape (m, k).
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


class BatchPlan(Sampler):
    """The batches of an epoch, for one of several processes; starts wherever a run was stopped.

    All follows from seed and epoch, so every process draws the same epoch, and a resumed run sees
    what the uninterrupted one would have seen. Set `epoch` (from 1) and `start` (batches that were
    seen already) before each pass.

    An item is (epoch, units): what `TrainBatches` turns into images.
    """

    def __init__(
        self,
        table: CropTable,
        *,
        batch_size: int,
        frames_per_video: int = 0,
        balanced: bool = False,
        pairs: bool = False,
        seed: int = 0,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        if batch_size < 2 * processes and len(table) > 1:
            raise ValueError(
                f"batch_size {batch_size} gives each of {processes} processes fewer than two crops"
            )
        if frames_per_video < 0:
            raise ValueError(f"frames_per_video {frames_per_video} is negative; 0 takes all")
        self.table, self.batch_size, self.seed = table, batch_size, seed
        self.options = {
            "frames_per_video": frames_per_video,
            "balanced": balanced,
            "pairs": pairs,
        }
        self.rank, self.processes = rank, processes
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
        rng = np.random.default_rng([self.seed, self.epoch])
        units = draw_epoch(self.table, rng, **self.options)  # type: ignore[arg-type]
        return split_batches(units, self.batch_size, self.processes)
