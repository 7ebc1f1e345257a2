"""What a training run is made of, where it stands, and what it may run out of."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.metrics import roc_auc_score
from timm.data import resolve_model_data_config
from torch.nn.functional import cross_entropy

from utils.feeding import CropSet
from utils.recipes import TrainConfig
from utils.transforms import Policy, policy_to_dict


@dataclass(frozen=True)
class Job:
    """All that a training process needs; it travels to other processes as it is."""

    model: torch.nn.Module
    train: CropSet
    val: CropSet
    config: TrainConfig
    policy: Policy
    folder: Path
    device: torch.device
    resume: Path | None
    num_workers: int
    checkpoint_minutes: float
    time_budget_min: float

    def settings(self) -> dict[str, Any]:
        """What makes a run this run; a checkpoint goes on only under the same."""
        n_parameters = sum(parameter.numel() for parameter in self.model.parameters())
        return {
            **asdict(self.config),
            **{f"train_{name}": value for name, value in self.train.facts().items()},
            **{f"val_{name}": value for name, value in self.val.facts().items()},
            "augmentation": str(policy_to_dict(self.policy)["parameters"]),
            "model": f"{type(self.model).__name__}, {n_parameters:,}",
            "input": list(resolve_model_data_config(self.model)["input_size"]),
        }


@dataclass
class Position:
    """Where a run stands, and what it has measured of the epoch that it is in."""

    epoch: int = 1
    step: int = 0  # steps of this epoch that are done
    loss_sum: float = 0.0
    counted: int = 0  # crops that loss_sum is of: those of this process
    seen: int = 0  # crops of all processes
    waited: float = 0.0  # seconds
    seconds: float = 0.0
    elapsed: float = 0.0  # seconds of the whole run, earlier sessions included
    history: list[dict[str, float]] = field(default_factory=list)

    def progress(self, steps: int, epochs: int, val_seconds: float) -> dict[str, Any]:
        """What the user wants to know while it runs.

        Args:
            steps: of an epoch.
            epochs: of the run.
            val_seconds: of one validation.
        """
        left = (epochs - self.epoch + 1) * steps - self.step
        return {
            "task": f"epoch {self.epoch} of {epochs}",
            "done": self.step,
            "total": steps,
            "loss": self.loss_sum / max(1, self.counted),
            "images_per_s": self.seen / self.seconds,
            "waiting": self.waited / self.seconds,
            "left_s": left * self.seconds / self.step + (epochs - self.epoch + 1) * val_seconds,
        }


class OnItsWay:
    """A number that a GPU will have computed; `float` waits for it, and for nothing behind it.

    `tensor.item()` would wait for all that the GPU was given since.
    """

    def __init__(self, value: torch.Tensor) -> None:
        self.value = value.to("cpu", non_blocking=value.is_cuda)
        self.copied = torch.cuda.Event() if value.is_cuda else None
        if self.copied:
            self.copied.record()

    def __float__(self) -> float:
        if self.copied:
            self.copied.synchronize()
        return float(self.value)


def summed_loss(
    logits: torch.Tensor, targets: torch.Tensor, weight: torch.Tensor | None, smoothing: float
) -> torch.Tensor:
    """Cross-entropy, added over the crops: a share of a batch does not know the mean over all.

    Args:
        logits: REAL and FAKE, shape (n, 2).
        targets: shape (n,).
        weight: of the classes, shape (2,).
        smoothing: share of the target that goes to both classes alike.
    """
    return cross_entropy(
        logits.float(), targets, weight=weight, label_smoothing=smoothing, reduction="sum"
    )


def val_figures(
    logits: torch.Tensor, y_true: np.ndarray, weight: torch.Tensor | None
) -> dict[str, float]:
    """Loss and ROC AUC on val; the AUC is NaN where there is one class.

    Args:
        logits: REAL and FAKE, shape (n, 2).
        y_true: shape (n,).
        weight: of the classes in the loss, shape (2,).
    """
    y_score = (logits[:, 1] - logits[:, 0]).numpy()
    both = len(np.unique(y_true)) == 2 and np.isfinite(y_score).all()
    return {
        "val_loss": cross_entropy(logits, torch.from_numpy(y_true), weight=weight).item(),
        "val_auc": float(roc_auc_score(y_true, y_score)) if both else float("nan"),
    }


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error says that the GPU's or the machine's memory is full."""
    # The CPU's allocator raises a RuntimeError of no class of its own.
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error)
    )


def out_of_memory(error: Exception, job: Job) -> MemoryError:
    """Say what to do about it."""
    config = job.config
    parts = 2 * config.accumulate
    return MemoryError(
        f"out of memory with BATCH_SIZE={config.batch_size} in {config.accumulate} part(s): set "
        f"ACCUMULATE={parts}, which computes {math.ceil(config.batch_size / parts)} crops at a "
        "time and keeps the batch (batch norms see the parts), or lower IMAGE_SIZE. "
        f"{str(error).splitlines()[0][:200]}"
    )


def peak_memory_mb(device: torch.device) -> float:
    """The most memory in use so far: on the GPU in this epoch, else in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
