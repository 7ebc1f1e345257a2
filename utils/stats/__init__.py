"""Metrics with intervals; the decision rule."""
