"""Figures (data in, Axes out), words, report.html."""

from utils.report.figures import COLORS, plot_detections, plot_image_grid, show_figures, use_theme
from utils.report.page import write_report
from utils.report.words import interval, number

__all__ = [
    "COLORS",
    "interval",
    "number",
    "plot_detections",
    "plot_image_grid",
    "show_figures",
    "use_theme",
    "write_report",
]
