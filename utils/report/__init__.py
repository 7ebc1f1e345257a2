"""Figures (data in, Axes out), words, report.html."""

from utils.report.figures import COLORS, plot_detections, plot_image_grid, use_theme

__all__ = ["COLORS", "plot_detections", "plot_image_grid", "use_theme"]
