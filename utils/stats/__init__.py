"""Metrics with intervals; the decision rule."""

from utils.stats.decisions import choose_decision, compare_aggregations

__all__ = ["choose_decision", "compare_aggregations"]
