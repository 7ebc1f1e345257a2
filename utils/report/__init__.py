"""Figures (data in, Axes out), words, report.html."""

from utils.report.figures import (
    COLORS,
    plot_before_after,
    plot_detections,
    plot_image_grid,
    plot_learning_rate,
    show_figures,
    use_theme,
)
from utils.report.page import write_report
from utils.report.score_figures import live_history
from utils.report.words import interval, number

__all__ = [
    "COLORS",
    "interval",
    "live_history",
    "number",
    "plot_before_after",
    "plot_detections",
    "plot_image_grid",
    "plot_learning_rate",
    "show_figures",
    "use_theme",
    "write_report",
]
