"""Metrics with intervals; the decision rule."""

from utils.stats.decisions import Decision, choose_decision, compare_aggregations

__all__ = [
    "Decision",
    "choose_decision",
    "compare_aggregations",
]
