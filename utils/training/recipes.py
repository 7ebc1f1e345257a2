"""How to train: named recipes, their checks, and what each of their ingredients is made of."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np
import torch
from timm.optim import create_optimizer_v2
from timm.scheduler import CosineLRScheduler
from timm.scheduler.scheduler import Scheduler

Chosen = TypeVar("Chosen")
#: What a field may be whose default is of that type, and how it is called.
KINDS: dict[type, tuple[Any, str]] = {
    float: ((int, float), "a number"),
    int: (int, "a whole number"),
    bool: (bool, "True or False"),
    str: (str, "text"),
}
ACCEPTED = {
    "optimizer": ("adam", "adamw"),
    "schedule": ("constant", "cosine"),
    "train_only": ("", "norms", "head"),
    "class_weights": ("none", "balanced"),
    "precision": ("auto", "float32", "bfloat16", "float16"),
}
#: Fields of TrainConfig that a recipe decides; the others are parameters of 03.
INGREDIENTS = (
    *("optimizer", "learning_rate", "weight_decay", "schedule", "warm_up", "ema"),
    *("label_smoothing", "clip_norm", "balanced", "pairs", "train_only"),
)


@dataclass(frozen=True)
class TrainConfig:
    """A recipe and the settings of a run; the defaults are the field's reference recipe.

    Attributes:
        epochs: passes over the training videos.
        batch_size: crops a step, over all processes together.
        accumulate: parts that a batch is computed in; more of them take less memory.
        optimizer: "adam" or "adamw".
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
        train_only: "": all weights; "norms": those of the normalisation layers and the classifier;
            "head": those of the classifier alone.
        precision: of `mixed_precision`.
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
    train_only: str = ""
    precision: str = "auto"
    compile: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_types(self)
        for name, accepted in ACCEPTED.items():
            if getattr(self, name) not in accepted:
                raise ValueError(f"{name} {getattr(self, name)!r}; accepted: {', '.join(accepted)}")
        for name in ("epochs", "batch_size", "accumulate"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is not at least 1")
        for name in ("warm_up", "ema", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)} is not in [0, 1)")
        for name in ("learning_rate", "weight_decay", "clip_norm", "frames_per_video"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} {getattr(self, name)} is negative or not finite")


def choose(
    kind: str, choices: Mapping[str, Chosen], name: str, changes: Any, known: Iterable[str]
) -> Chosen:
    """One of the recipes or policies with other values; ValueError names what is not `known`."""
    if name not in choices:
        raise ValueError(unknown(kind, name, choices))
    changes = {} if changes is None else changes
    if not isinstance(changes, Mapping):
        raise ValueError(
            f"CHANGES is a dictionary, not {changes!r}; papermill reads one after -y, such as "
            "-y 'CHANGES: {ema: 0.99}', and makes text of it after -p"
        )
    for key in changes:
        if key not in known:
            raise ValueError(unknown("key of CHANGES", str(key), known))
    # JSON, YAML and papermill know lists only.
    given = {key: tuple(v) if isinstance(v, list) else v for key, v in changes.items()}
    return replace(choices[name], **given)  # type: ignore[type-var]


def check_types(chosen: Any) -> None:
    """Raise ValueError naming a field of a dataclass whose type is not that of its default."""
    for field in fields(chosen):
        value, kind = getattr(chosen, field.name), type(field.default)
        if kind not in KINDS:  # a range, which the policy checks
            continue
        types, words = KINDS[kind]
        if not isinstance(value, types) or isinstance(value, bool) != (kind is bool):
            if kind is float and isinstance(value, str):
                words += " (YAML reads 3e-4 as text; 0.0003 works)"
            raise ValueError(f"{field.name} {value!r} is not {words}")


def unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """Say that nothing of that kind is called `name`, and what comes nearest."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f", did you mean {near[0]}?" if near else "."
    return f"no {kind} is called {name!r}{hint} Known: {', '.join(known)}"


#: Parameters of 03 that no recipe decides.
SETTINGS = tuple(f.name for f in fields(TrainConfig) if f.name not in INGREDIENTS)
RECIPES = {
    "reference": TrainConfig(),
    "strong": TrainConfig(
        optimizer="adamw", weight_decay=0.05, schedule="cosine", warm_up=0.1, ema=0.999,
        clip_norm=1.0, balanced=True, pairs=True,
    ),
}  # fmt: skip


def make_config(
    recipe: str, changes: Mapping[str, Any] | None = None, **settings: Any
) -> TrainConfig:
    """One of RECIPES with CHANGES of 03, keys of INGREDIENTS, and `settings`, such as `epochs`.

    Raises:
        ValueError: unknown recipe or key, or a value of the wrong type or out of range.
    """
    return replace(choose("recipe", RECIPES, recipe, changes, INGREDIENTS), **settings)


def balanced_weights(y_true: np.ndarray) -> tuple[float, float]:
    """Class weights n / (2 · n_class), so that both classes weigh the same in the loss."""
    counts = np.bincount(y_true, minlength=2)
    if counts.min() == 0:
        raise ValueError("class weights need both classes in the training split")
    real, fake = counts.sum() / (2 * counts)
    return float(real), float(fake)


def freeze(model: torch.nn.Module, train_only: str) -> None:
    """Let the weights of a timm model that `train_only` names learn, and no others."""
    model.requires_grad_(not train_only)
    if train_only == "norms":
        for norm in norms(model):
            norm.requires_grad_(True)
    if train_only:
        model.get_classifier().requires_grad_(True)  # type: ignore[operator]


def norms(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Its normalisation layers, PyTorch's and timm's own; these hold no other layer's weights."""
    layers = [m for m in model.modules() if "norm" in type(m).__name__.lower()]
    return [m for m in layers if not any(p.ndim > 1 for p in m.parameters())]


def make_optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Adam or AdamW in one fused kernel; biases and norms are not decayed."""
    rate, decay = config.learning_rate, config.weight_decay
    return create_optimizer_v2(model, config.optimizer, lr=rate, weight_decay=decay, fused=True)


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
