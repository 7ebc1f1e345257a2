"""Figures (data in, Axes out), words, and the report of an evaluation.

Here is what several notebooks need, and the report. A figure of one notebook comes from its
module: of data, faces and files from `figures`, of training and scores from `score_figures`.
"""

from utils.report.figures import COLORS, MUTED, plot_image_grid, show_figure, use_theme
from utils.report.page import build_markdown, build_report
from utils.report.score_figures import plot_history
from utils.report.words import estimate, interval, number, percent

__all__ = [
    "COLORS",
    "MUTED",
    "build_markdown",
    "build_report",
    "estimate",
    "interval",
    "number",
    "percent",
    "plot_history",
    "plot_image_grid",
    "show_figure",
    "use_theme",
]
