"""Augmentation, decoded crops, batches, recipes, the loop, its checkpoint."""

from utils.training.augmentation import (
    make_policy,
    measure_policy,
    preview_blends,
    preview_policy,
    read_sample,
)
from utils.training.fitting import first_batch, fit, open_crops, read_policy, save_run, sum_up
from utils.training.recipes import make_config

__all__ = [
    "first_batch", "fit", "make_config", "make_policy", "measure_policy", "open_crops",
    "preview_blends", "preview_policy", "read_policy", "read_sample", "save_run", "sum_up",
]  # fmt: skip
