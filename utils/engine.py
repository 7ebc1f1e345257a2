"""One training loop and one prediction loop."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from accelerate import Accelerator
from sklearn.metrics import roc_auc_score
from torch.utils.data import DataLoader
from tqdm.auto import tqdm

from utils.artifacts import ARTIFACTS
from utils.checkpoints import load_checkpoint, save_checkpoint
from utils.loading import run_settings
from utils.runtime import seed_everything

#: "constant" is the reference recipe; "cosine" rises over the first WARM_UP of all steps and then
#: falls to zero, which settles a network that starts from random weights.
SCHEDULES = ("constant", "cosine")
WARM_UP = 0.05
ADVICE = "lower the learning rate; the checkpoint holds the last good state"


@dataclass(frozen=True)
class TrainConfig:
    """How to train. A checkpoint goes on only under the settings that it was started with.

    Attributes:
        epochs: passes over the training crops.
        learning_rate: of Adam, at its highest.
        schedule: one of SCHEDULES.
        class_weights: weight of REAL and of FAKE in the loss, None for equal ones.
        seed: of the order of crops, augmentation and dropout.
    """

    epochs: int = 60
    learning_rate: float = 1e-3
    schedule: str = "constant"
    class_weights: tuple[float, float] | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule {self.schedule!r}; accepted: {', '.join(SCHEDULES)}")

    def learning_rate_at(self, progress: float) -> float:
        """The learning rate after a share `progress` in [0, 1) of all steps."""
        if self.schedule == "constant":
            return self.learning_rate
        if progress < WARM_UP:
            return self.learning_rate * max(progress, 0.01 * WARM_UP) / WARM_UP
        falling = (progress - WARM_UP) / (1 - WARM_UP)
        return self.learning_rate * (1 + math.cos(math.pi * falling)) / 2


def balanced_weights(y_true: Sequence[int]) -> tuple[float, float]:
    """Class weights n / (2 · n_class), so that both classes weigh the same in the loss."""
    counts = np.bincount(np.asarray(y_true), minlength=2)
    if counts.min() == 0:
        raise ValueError("class weights need both classes in the training split")
    real, fake = counts.sum() / (2 * counts)
    return float(real), float(fake)


def mixed_precision(device: torch.device) -> str:
    """The precision that the hardware computes fast: "bf16", "fp16" (with a scaler) or "no"."""
    if device.type != "cuda":
        return "no"
    # is_bf16_supported() also says yes to emulation, as on a T4; the capability does not.
    return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"


def fit(
    model: torch.nn.Module,
    train_loader: DataLoader,
    val_loader: DataLoader,
    config: TrainConfig,
    *,
    folder: str | Path,
    device: torch.device,
    resume: bool = False,
    on_epoch: Callable[[dict[str, float]], Any] | None = None,
    progress: bool = True,
) -> pd.DataFrame:
    """Train with cross-entropy and Adam; leave the model with the weights of its best epoch.

    The best epoch is the one of lowest val loss. After every epoch the full state is written to
    `folder/last.pt`; the one before it stays as `folder/previous.pt`.

    Args:
        model: two logits, REAL and FAKE.
        train_loader: of `make_loader(shuffle=True)`.
        val_loader: of `make_loader`, with the eval transform.
        config: see `TrainConfig`.
        folder: of the checkpoint.
        device: of `get_device`.
        resume: go on from the checkpoint in `folder` if there is one.
        on_epoch: called with the row of history.csv after every epoch.
        progress: show a bar over the batches.
    Returns:
        history.csv: one row an epoch.
    Raises:
        ValueError: no crops, no epochs, or the checkpoint belongs to other settings.
        FloatingPointError: the loss is not finite; names epoch, step and files.
    """
    if not len(train_loader) or not len(val_loader):
        raise ValueError("the train and the val split need at least one batch of crops each")
    if config.epochs < 1:
        raise ValueError(f"epochs {config.epochs} is not at least 1")
    settings = asdict(config) | run_settings(train_loader, val_loader)
    settings["model"] = f"{type(model).__name__}, {sum(p.numel() for p in model.parameters()):,}"
    accelerator = Accelerator(mixed_precision=mixed_precision(device), cpu=device.type == "cpu")
    # Convolutions are about twice as fast with the channels last, on CPU and on tensor cores.
    model = model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate)
    sampler = train_loader.sampler
    model, optimizer, train, val = accelerator.prepare(model, optimizer, train_loader, val_loader)
    weights = config.class_weights and torch.tensor(config.class_weights, device=device)
    criterion = torch.nn.CrossEntropyLoss(weight=weights)

    state = load_checkpoint(Path(folder), settings) if resume else None
    history: list[dict[str, float]] = []
    best: dict[str, torch.Tensor] = {}
    if state:
        accelerator.unwrap_model(model).load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])
        history, best = state["history"], state["best"]
    before = history[-1]["elapsed_s"] if history else 0.0
    start = time.perf_counter()

    for epoch in range(len(history) + 1, config.epochs + 1):
        # Everything random in an epoch follows from here, so a resumed epoch repeats exactly.
        seed_everything(config.seed + epoch)
        sampler.epoch = epoch  # type: ignore[attr-defined]
        row = _train_epoch(
            accelerator, model, optimizer, criterion, train, epoch, config, progress=progress
        )
        row |= _validate(accelerator, model, criterion, val)
        if not np.isfinite(row["val_loss"]):
            raise FloatingPointError(f"val loss is {row['val_loss']} at epoch {epoch}: {ADVICE}")
        row |= {"lr": optimizer.param_groups[0]["lr"]}
        row |= {"elapsed_s": before + time.perf_counter() - start}
        row = {name: row[name] for name in ARTIFACTS["history.csv"].columns}
        if not history or row["val_loss"] < min(past["val_loss"] for past in history):
            # A copy: the live state_dict goes on changing with every step.
            weights_now = accelerator.unwrap_model(model).state_dict()
            best = {name: tensor.detach().cpu().clone() for name, tensor in weights_now.items()}
        history.append(row)
        save_checkpoint(
            Path(folder),
            {
                "config": settings,
                "model": accelerator.unwrap_model(model).state_dict(),
                "optimizer": optimizer.state_dict(),
                "scaler": accelerator.scaler.state_dict() if accelerator.scaler else {},
                "history": history,
                "best": best,
            },
        )
        if on_epoch:
            on_epoch(row)
    accelerator.unwrap_model(model).load_state_dict(best)
    return pd.DataFrame(history, columns=ARTIFACTS["history.csv"].columns)


def best_epoch(history: pd.DataFrame) -> int:
    """The epoch (from 1) of lowest val loss, the first one of equals."""
    return int(history.loc[history["val_loss"].idxmin(), "epoch"])


def epoch_line(row: dict[str, float]) -> str:
    """One epoch as one line of text."""
    return (
        f"epoch {row['epoch']:3.0f} · train loss {row['train_loss']:.3f} · "
        f"val loss {row['val_loss']:.3f} · val AUC {row['val_auc']:.3f} · "
        f"{row['images_per_s']:.0f} images/s · {row['elapsed_s']:.0f} s"
    )


def _train_epoch(
    accelerator: Accelerator,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    criterion: torch.nn.Module,
    loader: DataLoader,
    epoch: int,
    config: TrainConfig,
    *,
    progress: bool,
) -> dict[str, float]:
    model.train()
    if accelerator.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(accelerator.device)
    total, seen, waited = 0.0, 0, 0.0
    start = ready = time.perf_counter()
    bar = tqdm(loader, desc=f"epoch {epoch}", unit="batch", leave=False, disable=not progress)
    for step, (images, targets, rows) in enumerate(bar):
        waited += time.perf_counter() - ready
        with accelerator.autocast():
            logits = model(images.contiguous(memory_format=torch.channels_last))  # (B, 2)
            loss = criterion(logits, targets)
        value = loss.item()
        if not np.isfinite(value):
            paths = [loader.dataset.paths[row] for row in rows.tolist()]  # type: ignore[attr-defined]
            raise FloatingPointError(
                f"train loss is {value} at epoch {epoch}, step {step}: {ADVICE}. "
                f"Crops of the batch: {', '.join(paths[:3])} …"
            )
        done = (epoch - 1 + step / len(loader)) / config.epochs
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate_at(done)
        optimizer.zero_grad(set_to_none=True)
        accelerator.backward(loss)
        optimizer.step()
        total += value * len(targets)
        seen += len(targets)
        bar.set_postfix(loss=f"{total / seen:.3f}")
        ready = time.perf_counter()
    seconds = time.perf_counter() - start
    return {
        "epoch": epoch,
        "train_loss": total / seen,
        "images_per_s": seen / seconds,
        "data_wait_s": waited,
        "compute_s": seconds - waited,
        "peak_memory_mb": _peak_memory_mb(accelerator.device),
    }


@torch.inference_mode()
def _validate(
    accelerator: Accelerator,
    model: torch.nn.Module,
    criterion: torch.nn.Module,
    loader: DataLoader,
) -> dict[str, float]:
    model.eval()
    logits, targets = [], []
    for images, labels, _ in loader:
        with accelerator.autocast():
            logits.append(model(images.contiguous(memory_format=torch.channels_last)).float())
        targets.append(labels)
    all_logits, all_targets = torch.cat(logits), torch.cat(targets)
    y_true = all_targets.cpu().numpy()
    y_score = (all_logits[:, 1] - all_logits[:, 0]).cpu().numpy()
    both = len(np.unique(y_true)) == 2 and np.isfinite(y_score).all()
    return {
        "val_loss": criterion(all_logits, all_targets).item(),
        "val_auc": float(roc_auc_score(y_true, y_score)) if both else float("nan"),
    }


@torch.inference_mode()
def predict(
    model: torch.nn.Module, loader: DataLoader, *, device: torch.device, progress: bool = True
) -> np.ndarray:
    """The logit of FAKE for every crop: log P(FAKE) - log P(REAL), before calibration.

    Args:
        model: two logits, REAL and FAKE.
        loader: of `make_loader` without shuffling.
        device: of `get_device`.
    Returns:
        shape (n,), in the order of the loader's rows.
    """
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    precision = mixed_precision(device)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    logits = [torch.empty(0, 2)]
    for images, _, _ in tqdm(loader, desc="score", unit="batch", disable=not progress):
        with torch.autocast(device.type, dtype=dtype, enabled=precision != "no"):
            images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
            logits.append(model(images).float().cpu())
    pairs = torch.cat(logits).numpy().astype(np.float64)  # (n, 2)
    return pairs[:, 1] - pairs[:, 0]


def _peak_memory_mb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
