"""Scores, intervals, calibration, thresholds and aggregation under one name.

`scores` holds the point values, `weighted_scores` and `resampling` the intervals and comparisons,
`decisions` what is chosen on val.
"""

from utils.decisions import (
    AGGREGATIONS,
    TEMPERATURE_RANGE,
    THRESHOLD_RULES,
    aggregate_videos,
    choose_abstention,
    choose_aggregation,
    choose_threshold,
    decide,
    fit_temperature,
    pool_logits,
)
from utils.resampling import (
    bootstrap,
    exchange_test,
    group_mean,
    paired_bootstrap,
    shuffled_labels,
)
from utils.scores import (
    BALANCED,
    METRICS,
    confusion,
    equal_error_rate,
    expected_calibration_error,
    majority_baseline,
    score_table,
)

__all__ = [
    "AGGREGATIONS",
    "BALANCED",
    "METRICS",
    "TEMPERATURE_RANGE",
    "THRESHOLD_RULES",
    "aggregate_videos",
    "bootstrap",
    "choose_abstention",
    "choose_aggregation",
    "choose_threshold",
    "confusion",
    "decide",
    "equal_error_rate",
    "exchange_test",
    "expected_calibration_error",
    "fit_temperature",
    "group_mean",
    "majority_baseline",
    "paired_bootstrap",
    "pool_logits",
    "score_table",
    "shuffled_labels",
]
