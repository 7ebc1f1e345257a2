"""Figures of training."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from utils.plots import INK, get_axes


def plot_learning_rate(
    rates: Sequence[float], *, steps_per_epoch: int, ax: Axes | None = None
) -> Axes:
    """The learning rate over the epochs of a run.

    Args:
        rates: of each step, shape (steps,).
        steps_per_epoch: steps that make an epoch.
        ax: where to draw.
    """
    heights = np.asarray(rates)
    ax = get_axes(ax, figsize=(7, 2.6))
    ax.plot(np.arange(len(heights)) / steps_per_epoch, heights, color=INK)
    ax.set(xlabel="Epoch", ylabel="Learning rate", ylim=(0, 1.08 * heights.max()))
    ax.set_title(f"Learning rate, {len(rates):,} steps")
    ax.set_xlim(0, max(1, len(rates) / steps_per_epoch))
    return ax
