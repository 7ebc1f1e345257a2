"""How often the 95% interval of the AUC holds the true AUC, on simulated clustered data.

Rows of a source share an offset, so crops of one video are alike, as in the real tables. The true
AUC is that of two normal distributions. The goal is 92 to 98 in 100.
"""

from __future__ import annotations

import numpy as np
from scipy.special import expit
from scipy.stats import norm

from utils.stats.metrics import bootstrap

NAME, BASELINE, UNIT = "coverage of the 95% interval of the AUC", "promised", "share"
SOURCES, ROWS_A_SOURCE, TRIALS, RESAMPLES = 100, 8, 400, 500
SHIFT, SHARED, OWN = 1.2, 0.7, 1.0  # FAKE over REAL; deviation by source, and by row


def true_auc() -> float:
    """P(a FAKE row outscores a REAL one of another source)."""
    return float(norm.cdf(SHIFT / np.sqrt(2 * (SHARED**2 + OWN**2))))


def covered(seed: int) -> bool:
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(SOURCES), ROWS_A_SOURCE)
    y_true = (rng.random(len(groups)) < 0.6).astype(int)
    shared = SHARED * rng.normal(size=SOURCES)[groups]
    y_score = expit(SHIFT * y_true + shared + OWN * rng.normal(size=len(groups)))
    auc = bootstrap(
        y_true, y_score, groups=groups, threshold=0.5, n_resamples=RESAMPLES, seed=seed
    )["roc_auc"]
    return bool(auc["low"] <= true_auc() <= auc["high"])


def measure() -> list[tuple[float, float]]:
    """(share covered, 0.95), once: it is a count over TRIALS data sets and no time."""
    return [(float(np.mean([covered(seed) for seed in range(TRIALS)])), 0.95)]
