"""Figures (data in, Axes out), words, report.html."""

from utils.report.figures import (
    COLORS,
    plot_before_after,
    plot_image_grid,
    plot_learning_rate,
    use_theme,
)
from utils.report.score_figures import live_history

__all__ = [
    "COLORS",
    "live_history",
    "plot_before_after",
    "plot_image_grid",
    "plot_learning_rate",
    "use_theme",
]
