"""Train a model, in this process or in one for each GPU, and score crops with it."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from utils.artifacts import ARTIFACTS
from utils.checkpoints import load_checkpoint
from utils.feeding import CropSet
from utils.launch import is_launched, process_count, run_processes
from utils.loading import make_loader
from utils.models import fold_batch_norms
from utils.precision import mixed_precision
from utils.recipes import TrainConfig
from utils.trainer import train
from utils.training_job import Job
from utils.transforms import Policy, Transform


def fit(
    model: torch.nn.Module,
    train_set: CropSet,
    val_set: CropSet,
    config: TrainConfig,
    *,
    policy: Policy,
    folder: str | Path,
    device: torch.device,
    resume: str | Path | None = None,
    num_workers: int = 0,
    processes: int = 0,
    checkpoint_minutes: float = 10,
    time_budget_min: float = 0,
    on_epoch: Callable[[pd.DataFrame], Any] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train, and leave the model with the weights of its best epoch, that of lowest val loss.

    The full state is written to `folder/last.pt` after every epoch and every so many minutes; the
    one before it stays as `folder/previous.pt`. A run that goes on from it gives the very weights
    that the uninterrupted one would have given (to the bit on one CPU; a GPU's kernels add in an
    order of their own).

    Where several GPUs are visible, each gets a process and a share of every batch. Under
    `accelerate launch` this process is one of several already: all of them call `fit`, the first
    one writes, and only there the model and the history are what they are here.

    Args:
        model: of `build_model`; two logits, REAL and FAKE.
        train_set, val_set: decoded crops.
        config: the recipe.
        policy: the augmentation.
        folder: of the checkpoint.
        device: of `get_device`; "cuda" without a number means every visible GPU.
        resume: folder of a checkpoint to go on from, if it holds one.
        num_workers: loader processes of each training process; 0 loads in that one.
        processes: training processes on this machine; 0: as many as GPUs.
        checkpoint_minutes: longest time between two states on disk.
        time_budget_min: minutes that this call may take; it then stops cleanly, wherever it is. 0:
            no limit.
        on_epoch: called with history.csv so far after every epoch.
        progress: show a bar over the steps.
    Returns:
        history.csv: one row an epoch, those of earlier sessions included.
    Raises:
        ValueError: no crops, settings that do not fit, or a checkpoint of other settings.
        FloatingPointError: the loss is not finite; names epoch, step and files.
        MemoryError: the batch does not fit; proposes parts of it.
        OSError: the checkpoint cannot be written.
        TimeoutError: the time ended before the first epoch did; the state is kept.
    """
    if not len(train_set) or not len(val_set):
        raise ValueError("the train and the val split need at least one batch of crops each")
    job = Job(
        model=model,
        train=train_set,
        val=val_set,
        config=config,
        policy=policy,
        folder=Path(folder),
        device=device,
        resume=Path(resume) if resume else None,
        num_workers=num_workers,
        checkpoint_minutes=checkpoint_minutes,
        time_budget_min=time_budget_min,
    )
    show = _Display(on_epoch, progress=progress)
    processes = processes or process_count(device)
    if processes > 1 and not is_launched():
        run_processes(train, job, processes, show)
    else:
        train(job, show)
    show.close()
    columns = ARTIFACTS["history.csv"].columns
    if int(os.environ.get("RANK", "0")) > 0:
        return pd.DataFrame(columns=columns)
    state = load_checkpoint(folder, job.settings())
    if state is None or not state["history"]:
        raise TimeoutError(
            f"TIME_BUDGET_MIN={time_budget_min:g} ended before the first epoch did. The state is "
            f"in {folder}: run again with RESUME=True, and more time if that is possible"
        )
    model.load_state_dict(state["best"])
    return pd.DataFrame(state["history"], columns=columns)


class _Display:
    """Shows what a run reports: a bar over the steps of an epoch, and its row at the end."""

    def __init__(self, on_epoch: Callable[[pd.DataFrame], Any] | None, *, progress: bool) -> None:
        self.on_epoch, self.progress = on_epoch, progress
        self.bar: tqdm | None = None

    def __call__(self, kind: str, facts: dict[str, Any]) -> None:
        if kind == "epoch":
            self.close()
            if self.on_epoch:
                self.on_epoch(pd.DataFrame(facts["history"]))
            return
        if self.bar is None:
            first = facts["done"] - 1
            self.bar = tqdm(
                desc=facts["task"], total=facts["total"], initial=first, unit="batch",
                leave=False, disable=not self.progress,
            )  # fmt: skip
        self.bar.set_postfix_str(
            f"loss {facts['loss']:.3f}, {facts['images_per_s']:.0f} images/s, "
            f"{facts['waiting']:.0%} waiting, {duration(facts['left_s'])} left in all",
            refresh=False,
        )
        self.bar.update(facts["done"] - self.bar.n)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def best_epoch(history: pd.DataFrame) -> int:
    """The epoch (from 1) of lowest val loss, the first one of equals."""
    return int(history.loc[history["val_loss"].idxmin(), "epoch"])


def duration(seconds: float) -> str:
    """A time that a person waits, such as "48 s", "12 min" or "3 h 05 min"."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02} min"


def epoch_line(row: Mapping[str, float] | pd.Series, epochs: int) -> str:
    """One epoch of `epochs` as one line of text, with the time that the others will take."""
    left = row["elapsed_s"] / row["epoch"] * (epochs - row["epoch"])
    waiting = row["data_wait_s"] / (row["data_wait_s"] + row["compute_s"])
    return (
        f"epoch {row['epoch']:3.0f} · train loss {row['train_loss']:.3f} · "
        f"val loss {row['val_loss']:.3f} · val AUC {row['val_auc']:.3f} · "
        f"{row['images_per_s']:.0f} images/s, {waiting:.0%} waiting · "
        f"{row['peak_memory_mb']:.0f} MB · {duration(row['elapsed_s'])}, {duration(left)} left"
    )


@torch.inference_mode()
def predict(
    model: torch.nn.Module, loader: DataLoader, *, device: torch.device, progress: bool = True
) -> np.ndarray:
    """The logit of FAKE for every crop: log P(FAKE) - log P(REAL), before calibration.

    On a CPU in float32: a score should not depend on what a measurement found faster. There, a copy
    of the model computes, its batch norms folded, which is a quarter faster.

    Args:
        model: two logits, REAL and FAKE.
        loader: of `make_loader`.
        device: of `get_device`.
    Returns:
        shape (n,), in the order of the loader's rows.
    """
    if device.type == "cpu" and any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()):
        model = fold_batch_norms(copy.deepcopy(model))
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    precision = "no" if device.type == "cpu" else mixed_precision(device)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    logits = [torch.empty(0, 2)]
    for images, _, _ in tqdm(loader, desc="score", unit="batch", disable=not progress):
        with torch.autocast(device.type, dtype=dtype, enabled=precision != "no"):
            images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
            logits.append(model(images).float().cpu())
    pairs = torch.cat(logits).numpy().astype(np.float64)  # (n, 2)
    return pairs[:, 1] - pairs[:, 0]


def score_paths(
    model: torch.nn.Module,
    transform: Transform,
    paths: Sequence[str],
    *,
    device: torch.device,
    batch_size: int,
    num_workers: int,
) -> np.ndarray:
    """The logit of FAKE of each crop, shape (n,), to the six digits that predictions.csv keeps."""
    loader = make_loader(
        paths, [0] * len(paths), transform, batch_size=batch_size, num_workers=num_workers
    )
    return predict(model, loader, device=device).round(6)
