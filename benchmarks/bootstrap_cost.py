"""What 1,000 resamples of 100,000 rows cost beside a loop over scikit-learn's functions.

The loop is timed over a few resamples and scaled up; it weighs rows by how often their source was
drawn, which is the quickest way that scikit-learn offers. The goal is a ratio of at most 1/20.
"""

from __future__ import annotations

import time

import numpy as np
from scipy.special import expit
from sklearn import metrics as sk

from utils.stats.metrics import bootstrap

NAME = "bootstrap, 1,000 resamples of 100,000 rows"
BASELINE, UNIT = "the same by a loop over scikit-learn", "s"
ROWS, SOURCES, RESAMPLES, LOOP, RUNS = 100_000, 2_000, 1_000, 5, 3


def simulate(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, SOURCES, ROWS)
    y_true = (rng.random(ROWS) < 0.8).astype(int)
    shared = rng.normal(size=SOURCES)[groups]
    return y_true, expit(y_true + shared + rng.normal(size=ROWS)), groups


def loop(y_true: np.ndarray, y_score: np.ndarray, groups: np.ndarray) -> None:
    """The metrics that the vectorised one gives, each by scikit-learn."""
    rng, y_pred = np.random.default_rng(0), y_score >= 0.5
    for _ in range(LOOP):
        drawn = rng.multinomial(SOURCES, np.full(SOURCES, 1 / SOURCES))[groups].astype(float)
        even = drawn / np.bincount(y_true, drawn)[y_true]
        for score in (sk.accuracy_score, sk.balanced_accuracy_score, sk.recall_score):
            score(y_true, y_pred, sample_weight=drawn)
        sk.recall_score(y_true, y_pred, pos_label=0, sample_weight=drawn)
        sk.roc_auc_score(y_true, y_score, sample_weight=drawn)
        sk.roc_curve(y_true, y_score, sample_weight=drawn)
        for weight in (drawn, even):
            for score in (sk.precision_score, sk.f1_score):
                score(y_true, y_pred, sample_weight=weight)
            for score in (sk.average_precision_score, sk.log_loss, sk.brier_score_loss):
                score(y_true, y_score, sample_weight=weight)


def measure() -> list[tuple[float, float]]:
    """(seconds of `bootstrap`, seconds of the loop) of each paired run."""
    pairs = []
    for seed in range(RUNS):
        y_true, y_score, groups = simulate(seed)
        start = time.perf_counter()
        bootstrap(y_true, y_score, groups=groups, threshold=0.5, n_resamples=RESAMPLES)
        middle = time.perf_counter()
        loop(y_true, y_score, groups)
        pairs.append((middle - start, (time.perf_counter() - middle) * RESAMPLES / LOOP))
    return pairs
