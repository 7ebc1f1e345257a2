"""Intervals and comparisons that resample whole sources.

Crops of one source, and a fake and its original, are near copies: resampling rows would give far
too narrow intervals.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import rankdata

from utils.scores import METRICS, Array, Scores, check_scores, score_table
from utils.weighted_scores import WeightedScores

#: Array elements of one chunk of resamples: 8 MB an array; larger ones leave the cache.
CHUNK_ELEMENTS = 1_000_000


def bootstrap(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    groups: ArrayLike,
    threshold: float,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Scores]:
    """Every metric with its percentile interval, resampling whole groups with replacement.

    All metrics share the resamples. The result does not depend on the order of the rows.

    Args:
        groups: source video of each row, shape (n,); a missing one raises ValueError.
        n_resamples: number of resamples, each of as many groups as there are.
        level: coverage of the interval, in (0, 1).
        seed: of the draws.

    Returns:
        Metric to `{"value", "low", "high"}`, `value` as in `score_table`. Resamples that do not
        define a metric are left out of it; `low` and `high` are None if under half are left, and
        with a single group.

    Source: Efron & Tibshirani (1993), An Introduction to the Bootstrap, ch. 13.
    """
    y_true, y_score = check_scores(y_true, y_score)
    codes, n_groups = _codes(groups, len(y_true))
    _check_settings(n_resamples, level)
    points = score_table(y_true, y_score, threshold=threshold)
    result: dict[str, Scores] = {name: _row(value, [], 0, level) for name, value in points.items()}
    if n_groups < 2:
        return result
    resampler = WeightedScores(y_true, y_score, codes, threshold)
    draws = _draws(n_groups, n_resamples, seed, len(y_true))
    columns = np.concatenate([resampler.scores(counts) for counts in draws]).T
    return {
        name: _row(points[name], column, n_resamples, level)
        for name, column in zip(METRICS, columns, strict=True)
    }


def paired_bootstrap(
    y_true: ArrayLike,
    y_score: ArrayLike,
    other_score: ArrayLike,
    *,
    groups: ArrayLike,
    threshold: float,
    other_threshold: float | None = None,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, Scores]:
    """`y_score` less `other_score` in every metric, both on the same resamples of sources.

    The interval of a difference is narrower than the two intervals suggest, for the same videos
    are hard for both. Arguments and result as in `bootstrap`.

    Args:
        other_score: P(FAKE) of the other model, or of the same after a change, shape (n,).
        other_threshold: of the other model; `threshold` where it has none of its own.
    """
    y_true, y_score = check_scores(y_true, y_score)
    _, other_score = check_scores(y_true, other_score)
    codes, n_groups = _codes(groups, len(y_true))
    _check_settings(n_resamples, level)
    limits = (threshold, threshold if other_threshold is None else other_threshold)
    pair = list(zip((y_score, other_score), limits, strict=True))
    ours, theirs = (score_table(y_true, score, threshold=limit) for score, limit in pair)
    points = {
        name: None if a is None or (b := theirs[name]) is None else a - b
        for name, a in ours.items()
    }
    if n_groups < 2:
        return {name: _row(value, [], 0, level) for name, value in points.items()}
    first, second = (WeightedScores(y_true, score, codes, limit) for score, limit in pair)
    draws = _draws(n_groups, n_resamples, seed, len(y_true))
    columns = np.concatenate([first.scores(c) - second.scores(c) for c in draws]).T
    return {
        name: _row(points[name], column, n_resamples, level)
        for name, column in zip(METRICS, columns, strict=True)
    }


def exchange_test(
    y_true: ArrayLike,
    y_score: ArrayLike,
    other_score: ArrayLike,
    *,
    groups: ArrayLike,
    n_resamples: int = 1000,
    seed: int = 0,
) -> float | None:
    """p-value of "neither model has the higher ROC AUC": a permutation test by source.

    Were the models alike, then exchanging their ranks in any source would change nothing. The test
    does so for a random half of the sources, again and again, and counts how often the AUCs differ
    at least as much as they do. Two-sided; None with one class or one source.

    Source: Good (2005), Permutation, Parametric and Bootstrap Tests of Hypotheses, ch. 3.
    """
    y_true, y_score = check_scores(y_true, y_score)
    _, other_score = check_scores(y_true, other_score)
    codes, n_groups = _codes(groups, len(y_true))
    if n_groups < 2 or y_true.all() or not y_true.any():
        return None
    # Ranks, so that exchanging does not depend on how each model scales its scores.
    ranks = np.stack([rankdata(y_score), rankdata(other_score)])  # (2, n)

    def difference(exchanged: Array) -> float:
        both = np.where(exchanged[codes], ranks[::-1], ranks)
        means = rankdata(both, axis=1)[:, y_true == 1].mean(axis=1)
        return abs(float(means[0] - means[1])) / (y_true == 0).sum()

    observed = difference(np.zeros(n_groups, dtype=bool))
    rng = np.random.default_rng(seed)
    flips = rng.random((n_resamples, n_groups)) < 0.5
    as_large = sum(difference(flip) >= observed - 1e-12 for flip in flips)
    return (1 + as_large) / (1 + n_resamples)


def shuffled_labels(
    y_true: ArrayLike, y_score: ArrayLike, *, n_resamples: int = 1000, seed: int = 0
) -> Scores:
    """ROC AUC that the same scores reach on shuffled labels: mean, and the range of 95%.

    A figure inside the range is one that luck reaches too. None with one class only.
    """
    y_true, y_score = check_scores(y_true, y_score)
    if y_true.all() or not y_true.any():
        return {"value": None, "low": None, "high": None}
    ranks, n_fake = rankdata(y_score), int(y_true.sum())
    rng = np.random.default_rng(seed)
    sums = np.array([rng.permutation(ranks)[:n_fake].sum() for _ in range(n_resamples)])
    aucs = (sums / n_fake - (n_fake + 1) / 2) / (len(y_true) - n_fake)
    low, high = np.quantile(aucs, [0.025, 0.975]).tolist()
    return {"value": float(aucs.mean()), "low": low, "high": high}


def group_mean(
    values: ArrayLike,
    *,
    groups: ArrayLike,
    where: ArrayLike | None = None,
    n_resamples: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> Scores:
    """Mean of `values` over the rows of `where` (default all), with its interval over groups."""
    values = np.asarray(values, dtype=np.float64)
    codes, n_groups = _codes(groups, len(values))
    _check_settings(n_resamples, level)
    kept = np.ones(len(values), bool) if where is None else np.asarray(where, dtype=bool)
    if not kept.any():
        return _row(None, [], 0, level)
    sums, sizes = (np.bincount(codes, part * kept, n_groups) for part in (values, 1.0))
    point = float(sums.sum() / sizes.sum())
    if n_groups < 2:
        return _row(point, [], 0, level)
    draws = np.concatenate(list(_draws(n_groups, n_resamples, seed, len(values))))
    with np.errstate(divide="ignore", invalid="ignore"):
        means = (draws @ sums) / (draws @ sizes)
    return _row(point, means, n_resamples, level)


def _check_settings(n_resamples: int, level: float) -> None:
    if not 0 < level < 1 or n_resamples < 1:
        raise ValueError(f"level {level} must lie in (0, 1), n_resamples {n_resamples} be over 0")


def _codes(groups: ArrayLike, n_rows: int) -> tuple[Array, int]:
    """A number from 0 for the group of each row, in the order of the names, and how many."""
    codes, names = pd.factorize(np.asarray(groups), sort=True)
    if codes.shape != (n_rows,) or (codes < 0).any():
        raise ValueError(f"groups must name a source in each of the {n_rows} rows")
    return codes, len(names)


def _draws(n_groups: int, n_resamples: int, seed: int, n_rows: int) -> Iterator[Array]:
    """How often each group is drawn, float64 (b, groups), in chunks of resamples."""
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK_ELEMENTS // n_rows)
    for start in range(0, n_resamples, step):
        size = min(step, n_resamples - start)
        picks = rng.integers(0, n_groups, (size, n_groups)) + n_groups * np.arange(size)[:, None]
        counts = np.bincount(picks.ravel(), minlength=size * n_groups)
        yield counts.reshape(size, n_groups).astype(np.float64)


def _row(value: float | None, column: ArrayLike, n_resamples: int, level: float) -> Scores:
    """The value with the quantiles of its resamples, where half of them define it."""
    column = np.asarray(column, dtype=np.float64)
    defined = column[~np.isnan(column)]
    row: Scores = {"value": value, "low": None, "high": None}
    if value is not None and len(defined) and 2 * len(defined) >= n_resamples:
        row["low"], row["high"] = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]).tolist()
    return row
