"""Scores with intervals, calibration, thresholds, and one row a video.

Everywhere `y_true` (n,) is 0 (REAL) or 1 (FAKE, the positive class), `y_score` (n,) is P(FAKE) in
[0, 1], and a row is called FAKE when `y_score >= threshold`. Arrays that are empty, of unequal
length or out of range raise ValueError. What is not defined is None, never 0.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from sklearn import metrics as sk

from utils.artifacts import CLASSES

Array = np.ndarray
Scores = dict[str, float | None]
METRICS = (
    *("accuracy", "balanced_accuracy", "precision", "recall", "f1"),  # of y_pred
    *("roc_auc", "average_precision", "log_loss"),  # of y_score
)
NEED_BOTH = ("balanced_accuracy", "precision", "f1", "roc_auc", "average_precision")
THRESHOLD_RULES, AGGREGATIONS = ("balanced_accuracy",), ("mean_logit",)
TEMPERATURE_RANGE = (0.05, 20.0)
EPS = float(np.finfo(np.float64).eps)
#: Array elements of one chunk of resamples: 8 MB an array; larger ones leave the cache.
CHUNK_ELEMENTS = 1_000_000


def score_table(y_true: ArrayLike, y_score: ArrayLike, *, threshold: float) -> Scores:
    """Every metric of METRICS, by scikit-learn.

    Log loss is in nats, with scores clipped at the float64 epsilon. None where not defined: with
    one class all but accuracy, log loss and (of FAKE) recall; precision if no row is called FAKE.
    """
    y_true, y_score = _check(y_true, y_score)
    y_pred = (y_score >= threshold).astype(int)
    table = dict.fromkeys(METRICS)
    table["accuracy"] = sk.accuracy_score(y_true, y_pred)
    table["log_loss"] = sk.log_loss(y_true, y_score, labels=[0, 1])
    if y_true.any():
        table["recall"] = sk.recall_score(y_true, y_pred)
    if y_true.any() and not y_true.all():
        table["balanced_accuracy"] = sk.balanced_accuracy_score(y_true, y_pred)
        table["f1"] = sk.f1_score(y_true, y_pred)
        table["roc_auc"] = sk.roc_auc_score(y_true, y_score)
        table["average_precision"] = sk.average_precision_score(y_true, y_score)
        if y_pred.any():
            table["precision"] = sk.precision_score(y_true, y_pred)
    return {name: None if value is None else float(value) for name, value in table.items()}


def confusion(y_true: ArrayLike, y_score: ArrayLike, *, threshold: float) -> list[list[int]]:
    """Counts [[tn, fp], [fn, tp]]: a row a true class (REAL, FAKE), a column a predicted one."""
    y_true, y_score = _check(y_true, y_score)
    return sk.confusion_matrix(y_true, y_score >= threshold, labels=[0, 1]).tolist()


def majority_baseline(y_train: ArrayLike, y_true: ArrayLike) -> Scores:
    """Scores of always giving the training share of FAKE: its majority class, and AUC 0.5."""
    share = np.mean(np.asarray(y_train))
    return score_table(y_true, np.full(np.shape(y_true), share), threshold=0.5)


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

    Crops of one source are near copies: resampling rows would give far too narrow intervals. All
    metrics share the resamples. The result does not depend on the order of the rows.

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
    y_true, y_score = _check(y_true, y_score)
    if not 0 < level < 1 or n_resamples < 1:
        raise ValueError(f"level {level} must lie in (0, 1), n_resamples {n_resamples} be over 0")
    codes, names = pd.factorize(np.asarray(groups), sort=True)
    if codes.shape != y_true.shape or (codes < 0).any():
        raise ValueError(f"groups must name a source in each of the {len(y_true)} rows")
    points = score_table(y_true, y_score, threshold=threshold)
    result = {name: {"value": points[name], "low": None, "high": None} for name in METRICS}
    if len(names) < 2:
        return result
    resampler = _Resampler(y_true, y_score, codes, threshold)
    rng = np.random.default_rng(seed)
    n_groups, step = len(names), max(1, CHUNK_ELEMENTS // len(y_true))
    chunks = []
    for start in range(0, n_resamples, step):
        size = min(step, n_resamples - start)
        picks = rng.integers(0, n_groups, (size, n_groups)) + n_groups * np.arange(size)[:, None]
        counts = np.bincount(picks.ravel(), minlength=size * n_groups)
        chunks.append(resampler.scores(counts.reshape(size, n_groups).astype(np.float64)))
    for name, column in zip(METRICS, np.concatenate(chunks).T, strict=True):
        defined = column[~np.isnan(column)]
        if points[name] is not None and 2 * len(defined) >= n_resamples:
            low, high = np.quantile(defined, [(1 - level) / 2, (1 + level) / 2]).tolist()
            result[name].update(low=low, high=high)
    return result


class _Resampler:
    """METRICS of many resamples at once: scikit-learn's with `sample_weight` = draws of the group.

    Confusion counts and log loss add up over groups; the others are cumulative over sorted scores.
    """

    def __init__(self, y_true: Array, y_score: Array, codes: Array, threshold: float) -> None:
        # The lesser keys make rounding, too, independent of the order of the rows.
        order = np.lexsort((codes, y_true, -y_score))
        y_score, codes, fake = y_score[order], codes[order], y_true[order] == 1
        called = y_score >= threshold
        loss = -np.log(np.clip(np.where(fake, y_score, 1 - y_score), EPS, 1 - EPS))
        parts = (~fake & ~called, ~fake & called, fake & ~called, fake & called, loss)
        self.sums = np.stack([np.bincount(codes, part) for part in parts], axis=1)  # (groups, 5)
        self.fake, self.real = codes[fake], codes[~fake]
        self.ties = np.flatnonzero(np.diff(y_score[fake], prepend=np.inf))  # starts, (t,)
        distinct = -y_score[fake][self.ties]
        # Number of REAL rows scored above, and at or above, each distinct score of FAKE rows.
        self.above = np.searchsorted(-y_score[~fake], distinct, side="left")
        self.from_here = np.searchsorted(-y_score[~fake], distinct, side="right")

    def scores(self, counts: Array) -> Array:
        """(b, groups) draws to (b, len(METRICS)) values, NaN where not defined."""
        tn, fp, fn, tp, loss = (counts @ self.sums).T
        n_real, n_fake, n = tn + fp, fn + tp, tn + fp + fn + tp
        with np.errstate(divide="ignore", invalid="ignore"):
            recall, balanced = tp / n_fake, (tp / n_fake + tn / n_real) / 2
            precision, f1 = tp / (tp + fp), 2 * tp / (2 * tp + fp + fn)
            auc, average_precision = self._ranking(counts) / [n_fake * n_real, n_fake]
        columns = ((tn + tp) / n, balanced, precision, recall, f1, auc, average_precision, loss / n)
        values = np.stack(columns, axis=1)
        values[np.ix_(n_real * n_fake == 0, [METRICS.index(name) for name in NEED_BOTH])] = np.nan
        return values

    def _ranking(self, counts: Array) -> Array:
        """Sums over FAKE rows, (2, b): REAL rows beaten (a tie is half), and precision there."""
        fake = counts.take(self.fake, axis=1)
        if len(self.ties) < len(self.fake):
            fake = np.add.reduceat(fake, self.ties, axis=1)
        real = np.zeros((len(counts), len(self.real) + 1))
        np.cumsum(counts.take(self.real, axis=1), axis=1, out=real[:, 1:])
        fake_here, real_here = np.cumsum(fake, axis=1), real.take(self.from_here, axis=1)
        beaten = real[:, -1:] - (real_here + real.take(self.above, axis=1)) / 2
        precision = fake_here / np.maximum(fake_here + real_here, 1)  # 0 draws so far: weight 0
        return np.stack([np.einsum("bt,bt->b", fake, x) for x in (beaten, precision)])


def fit_temperature(logits: ArrayLike, y_true: ArrayLike) -> float:
    """The temperature T that minimises the log loss of sigmoid(logit / T).

    It mends over- and underconfidence only: no ranking and no bias of the model changes, and the
    share of FAKE stays that of val, so elsewhere a score is a probability if the share is alike.
    T stays within TEMPERATURE_RANGE (a perfect ranking asks for 0, a useless one for infinity)
    and is 1 if every logit is 0. ValueError: one class only, or a logit that is not finite.

    Source: Guo et al. (2017), On Calibration of Modern Neural Networks.
    """
    logits = np.asarray(logits, dtype=np.float64)
    y_true, _ = _check(y_true, np.where(np.isfinite(logits), 0.5, np.nan), both_for="a temperature")
    if not logits.any():
        return 1.0
    margin = np.where(y_true == 1, logits, -logits)
    bounds = np.log(TEMPERATURE_RANGE)
    best = minimize_scalar(lambda x: np.logaddexp(0, -margin / np.exp(x)).mean(), bounds=bounds)
    return float(np.clip(np.exp(best.x), *TEMPERATURE_RANGE))


def choose_threshold(
    y_true: ArrayLike, y_score: ArrayLike, *, rule: str = "balanced_accuracy"
) -> float:
    """The midpoint between two neighbouring scores that is best by `rule`; choose it on val.

    Of equals the closest to 0.5, then the lower; 0.5 if all scores are equal. ValueError: unknown
    rule, or one class only.
    """
    if rule not in THRESHOLD_RULES:
        raise ValueError(f"rule is {rule!r}; accepted: {', '.join(THRESHOLD_RULES)}")
    y_true, y_score = _check(y_true, y_score, both_for="a threshold")
    scores = np.unique(y_score)
    if len(scores) == 1:
        return 0.5
    middle = np.maximum((scores[:-1] + scores[1:]) / 2, np.nextafter(scores[:-1], 1))
    n_below = [np.searchsorted(np.sort(y_score[y_true == k]), middle) for k in (0, 1)]
    n_real, n_fake = np.bincount(y_true, minlength=2)
    # Balanced accuracy times 2 n_real n_fake: whole numbers, so that ties are exact.
    gain = n_below[0] * n_fake + (n_fake - n_below[1]) * n_real
    best = middle[gain == gain.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def choose_abstention(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    threshold: float,
    target_error: float = 0.1,
    min_coverage: float = 0.1,
) -> dict[str, float]:
    """The narrowest band around the threshold that leaves an error of at most `target_error`.

    The band reaches equally far to both sides in log odds. Choose it on val, of videos. At least
    `min_coverage` of the rows stay decided, or one lucky row would meet any target; if no such
    band meets it, the one of least error, then of most coverage.

    Returns:
        `low`, `high`: UNSURE is `low <= score < high`, empty (both the threshold) if the plain
        error meets the target; `coverage`, `error`: share decided, and wrong of it; `target`.
    """
    y_true, y_score = _check(y_true, y_score)
    log_odds, centre = (logit(np.clip(score, EPS, 1 - EPS)) for score in (y_score, threshold))
    distance = np.abs(log_odds - centre).round(9)  # so that 0.4 and 0.6 are as far from 0.5
    wrong = (y_score >= threshold) != (y_true == 1)
    steps, codes = np.unique(distance, return_inverse=True)
    # Candidate k leaves out the k nearest distances; both arrays run from none left out.
    decided = np.cumsum(np.bincount(codes)[::-1])[::-1]
    error = np.cumsum(np.bincount(codes, wrong)[::-1])[::-1] / decided
    allowed = decided >= min_coverage * len(y_true)
    reached = np.flatnonzero(allowed & (error <= target_error))
    k = int(reached[0] if len(reached) else np.argmin(np.where(allowed, error, np.inf)))
    low = high = float(threshold)
    if k:
        reach = (steps[k - 1] + steps[k]) / 2
        low, high = expit([centre - reach, centre + reach]).tolist()
    found = {"low": low, "high": high, "coverage": float(decided[k] / len(y_true))}
    return {**found, "error": float(error[k]), "target": float(target_error)}


def decide(y_score: ArrayLike, *, threshold: float, low: float, high: float) -> Array:
    """Give UNSURE where `low <= score < high`, else FAKE from the threshold on, REAL below it."""
    if not low <= threshold <= high:
        raise ValueError(f"threshold {threshold} lies outside the band from {low} to {high}")
    decided = np.where(np.greater_equal(y_score, threshold), CLASSES[1], CLASSES[0])
    return np.where(np.greater_equal(y_score, low) & np.less(y_score, high), "UNSURE", decided)


def aggregate_videos(
    predictions: pd.DataFrame, *, how: str = "mean_logit", temperature: float = 1.0
) -> pd.DataFrame:
    """One row a video: score = sigmoid(mean of the crops' logits / temperature).

    Args:
        predictions: a row a crop: `video, source, label, split, logit`, and `dataset` if videos
            of several data sets may share a name.
        how, temperature: one of AGGREGATIONS; of `fit_temperature`.

    Returns:
        `video, source, label, split, n_faces, score` (`dataset` first where given), videos in
        the order of their first crop; `n_faces` counts crops. ValueError: unknown `how`, a logit
        missing, or a video of two sources, labels or splits.
    """
    if how not in AGGREGATIONS:
        raise ValueError(f"how is {how!r}; accepted: {', '.join(AGGREGATIONS)}")
    keys = ["dataset", "video"] if "dataset" in predictions else ["video"]
    facts = ["source", "label", "split"]
    if not np.isfinite(predictions["logit"]).all():
        raise ValueError("predictions holds a logit that is not a finite number")
    grouped = predictions.groupby(keys, sort=False, dropna=False)
    for fact in facts:
        varied = grouped[fact].nunique(dropna=False) > 1
        if varied.any():
            raise ValueError(f"video {varied.idxmax()} has more than one {fact}")
    videos = grouped[facts].first().assign(n_faces=grouped.size())
    videos["score"] = expit(grouped["logit"].mean() / temperature)
    return videos.reset_index()


def _check(y_true: ArrayLike, y_score: ArrayLike, *, both_for: str = "") -> tuple[Array, Array]:
    """The pair as arrays, refused if it cannot be scored."""
    y_true, y_score = np.asarray(y_true), np.asarray(y_score, dtype=np.float64)
    if y_true.ndim != 1 or y_true.shape != y_score.shape or not len(y_true):
        raise ValueError(f"y_true {y_true.shape} and y_score {y_score.shape} must be (n,), n > 0")
    if not np.isin(y_true, (0, 1)).all():
        raise ValueError(f"y_true must be 0 (REAL) or 1 (FAKE), not {np.unique(y_true)[:5]}")
    if not ((y_score >= 0) & (y_score <= 1)).all():
        raise ValueError("y_score must be P(FAKE) in [0, 1], and no logit infinite or missing")
    if both_for and (y_true == y_true[0]).all():
        raise ValueError(f"all rows are {CLASSES[int(y_true[0])]}: {both_for} needs both classes")
    return y_true.astype(np.int64), y_score
