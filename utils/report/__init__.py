"""Figures (data in, Axes out), words, report.html."""

from utils.report.figures import show_figures, use_theme
from utils.report.page import write_report
from utils.report.words import interval, number

__all__ = ["interval", "number", "show_figures", "use_theme", "write_report"]
