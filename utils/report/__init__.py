"""Figures (data in, Axes out), words, report.html."""

from utils.report.figures import (
    COLORS,
    plot_before_after,
    plot_detections,
    plot_image_grid,
    show_figures,
    use_theme,
)
from utils.report.score_figures import live_history
from utils.report.words import interval, number, write_report

__all__ = [
    "COLORS", "interval", "live_history", "number", "plot_before_after", "plot_detections",
    "plot_image_grid", "show_figures", "use_theme", "write_report",
]  # fmt: skip
