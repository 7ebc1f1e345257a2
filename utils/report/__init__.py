"""Figures (data in, Axes out), words, report.html."""
