"""How to train: named recipes, and what each of their ingredients is made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.scheduler.scheduler import Scheduler

OPTIMIZERS = ("adam", "adamw")
SCHEDULES = ("constant", "cosine")
CLASS_WEIGHTS = ("none", "balanced")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
#: What a notebook writes where the recipe is to decide.
FROM_RECIPE = (-1, "recipe")


@dataclass(frozen=True)
class TrainConfig:
    """The ingredients of a recipe; the defaults are the field's reference recipe.

    Attributes:
        epochs: passes over the training videos.
        batch_size: crops a step, over all processes together.
        accumulate: parts that a batch is computed in; more of them take less memory.
        optimizer: one of OPTIMIZERS.
        learning_rate: at its highest.
        weight_decay: of all but biases and norms.
        schedule: of the learning rate: "constant", or "cosine", which ends at zero.
        warm_up: share of all steps over which the learning rate rises from a hundredth.
        ema: decay a step of the averaged weights that are validated and kept; 0: none.
        label_smoothing: share of the target that goes to both classes alike.
        clip_norm: largest norm of the gradient; 0: none.
        class_weights: "none", or "balanced": the loss of each class weighs the same in an epoch.
        frames_per_video: random crops of each video an epoch; 0: all.
        balanced: as many crops of each class an epoch.
        pairs: each real crop beside a fake one of its source.
        precision: one of PRECISIONS; "auto" is what the hardware computes fastest.
        compile: let torch.compile build the network.
        seed: of the crops drawn, their order, augmentation and dropout.
    """

    epochs: int = 60
    batch_size: int = 35
    accumulate: int = 1
    optimizer: str = "adam"
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    schedule: str = "constant"
    warm_up: float = 0.0
    ema: float = 0.0
    label_smoothing: float = 0.0
    clip_norm: float = 0.0
    class_weights: str = "none"
    frames_per_video: int = 16
    balanced: bool = False
    pairs: bool = False
    precision: str = "auto"
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, accepted in (
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("class_weights", CLASS_WEIGHTS),
            ("precision", PRECISIONS),
        ):
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} {getattr(self, name)!r}; accepted: {', '.join(accepted)}")
        for name in ("balanced", "pairs", "compile"):
            if getattr(self, name) not in (0, 1):
                raise ValueError(f"{name} {getattr(self, name)!r}; accepted: 0, 1")
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is not at least 1")
        for name in ("warm_up", "ema", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is not in [0, 1)")
        for name in ("learning_rate", "weight_decay", "clip_norm", "frames_per_video"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} {getattr(self, name)} is negative or not finite")


RECIPES = {
    "reference": TrainConfig(),
    "strong": TrainConfig(
        optimizer="adamw",
        learning_rate=1e-3,
        weight_decay=0.05,
        ema=0.999,
        clip_norm=1.0,
        balanced=True,
        pairs=True,
    ),
}


def make_config(recipe: str, **changes: Any) -> TrainConfig:
    """Take a named recipe, some of its ingredients changed; -1 and "recipe" leave one as it is.

    Raises:
        ValueError: unknown recipe or ingredient, or a value out of range.
    """
    if recipe not in RECIPES:
        raise ValueError(f"unknown recipe {recipe!r}; known: {', '.join(RECIPES)}")
    known = [field.name for field in fields(TrainConfig)]
    if unknown := sorted(set(changes) - set(known)):
        raise ValueError(f"unknown ingredient {unknown[0]!r}; known: {', '.join(known)}")
    given = {name: value for name, value in changes.items() if value not in FROM_RECIPE}
    return replace(RECIPES[recipe], **given)


def balanced_weights(y_true: Sequence[int] | np.ndarray) -> tuple[float, float]:
    """Class weights n / (2 · n_class), so that both classes weigh the same in the loss."""
    counts = np.bincount(np.asarray(y_true), minlength=2)
    if counts.min() == 0:
        raise ValueError("class weights need both classes in the training split")
    real, fake = counts.sum() / (2 * counts)
    return float(real), float(fake)


def make_optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam or AdamW in one fused kernel; biases and norms are not decayed."""
    return create_optimizer_v2(
        model,
        opt=config.optimizer,
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
        fused=True,
    )


def make_scheduler(optimizer: torch.optim.Optimizer, config: TrainConfig, steps: int) -> Scheduler:
    """The learning rate over all `steps`: `scheduler.step_update(n)` sets that of step n from 0.

    It follows from n alone, so a resumed run needs no state of it.
    """
    rise = round(config.warm_up * steps)
    return CosineLRScheduler(
        optimizer,
        t_initial=max(1, steps - rise),
        # A cosine that never falls is a constant.
        lr_min=config.learning_rate if config.schedule == "constant" else 0.0,
        warmup_t=rise,
        warmup_lr_init=config.learning_rate / 100,
        warmup_prefix=True,
        t_in_epochs=False,
    )


def learning_rates(config: TrainConfig, steps: int) -> np.ndarray:
    """The learning rate of each step, shape (steps,), for a plot."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=config.learning_rate)
    scheduler = make_scheduler(optimizer, config, steps)
    rates = []
    for step in range(steps):
        scheduler.step_update(step)
        rates.append(optimizer.param_groups[0]["lr"])
    return np.array(rates)
