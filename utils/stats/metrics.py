"""Every metric by scikit-learn, and its interval from a bootstrap over whole sources.

Everywhere `y_true` (n,) is 0 (REAL) or 1 (FAKE, the positive class), `y_score` (n,) is P(FAKE) in
[0, 1], and a row is called FAKE when `y_score >= threshold`. Arrays that are empty, of unequal
length or out of range raise ValueError. What is not defined is None, never 0.

Crops of one source, and a fake and its original, are near copies: resampling rows would give far
too narrow intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.stats import rankdata
from sklearn import metrics as sk

from utils.run.artifacts import CLASSES

Array = np.ndarray
Scores = dict[str, float | None]
#: What depends on the class mix has a twin in which both classes weigh the same.
BALANCED = (
    *("balanced_accuracy", "balanced_precision", "balanced_f1", "balanced_average_precision"),
    *("balanced_log_loss", "balanced_brier", "balanced_ece"),
)
METRICS = (
    *("accuracy", "balanced_accuracy", "precision", "recall", "f1"),  # of y_pred
    *("roc_auc", "average_precision", "log_loss"),  # of y_score
    *("specificity", "eer", "tpr_at_fpr_1", "tpr_at_fpr_5", "brier", "ece"),
    *BALANCED[1:],
)
NEED_BOTH = (
    *("precision", "f1", "roc_auc", "average_precision", "eer", "tpr_at_fpr_1", "tpr_at_fpr_5"),
    *BALANCED,
)
#: False positive rates at which the true positive rate is read.
FPR_TARGETS = {"tpr_at_fpr_1": 0.01, "tpr_at_fpr_5": 0.05}
ECE_BINS = 10
#: An interval leaves out so much at each end: 95%.
TAILS = (0.025, 0.975)
EPS = float(np.finfo(np.float64).eps)


def score_table(y_true: ArrayLike, y_score: ArrayLike, *, threshold: float) -> Scores:
    """Every metric of METRICS, by scikit-learn.

    Log loss is in nats, with scores clipped at the float64 epsilon. None where not defined: with
    one class all but accuracy, log loss, Brier score, calibration error and that class's own rate
    (recall of FAKE, specificity of REAL); precision if no row is called FAKE.
    """
    y_true, y_score = check_scores(y_true, y_score)
    y_pred = (y_score >= threshold).astype(int)
    table: Scores = dict.fromkeys(METRICS)
    table["accuracy"] = sk.accuracy_score(y_true, y_pred)
    table["log_loss"] = sk.log_loss(y_true, y_score, labels=[0, 1])
    table["brier"] = float(np.mean((y_score - y_true) ** 2))
    table["ece"] = expected_calibration_error(y_true, y_score)
    if y_true.any():
        table["recall"] = sk.recall_score(y_true, y_pred)
    if not y_true.all():
        table["specificity"] = sk.recall_score(y_true, y_pred, pos_label=0)
    if y_true.any() and not y_true.all():
        table |= _of_both_classes(y_true, y_score, y_pred)
    return {name: None if value is None else float(value) for name, value in table.items()}


def _of_both_classes(y_true: Array, y_score: Array, y_pred: Array) -> Scores:
    even = 1 / np.bincount(y_true)[y_true]  # each class weighs 1
    pair = (y_true, y_score)
    fpr, tpr, _ = sk.roc_curve(*pair, drop_intermediate=False)
    table = {
        "balanced_accuracy": sk.balanced_accuracy_score(y_true, y_pred),
        "f1": sk.f1_score(y_true, y_pred),
        "balanced_f1": sk.f1_score(y_true, y_pred, sample_weight=even),
        "roc_auc": sk.roc_auc_score(*pair),
        "average_precision": sk.average_precision_score(*pair),
        "balanced_average_precision": sk.average_precision_score(*pair, sample_weight=even),
        "balanced_log_loss": sk.log_loss(*pair, labels=[0, 1], sample_weight=even),
        "balanced_brier": float(np.average((y_score - y_true) ** 2, weights=even)),
        "balanced_ece": expected_calibration_error(*pair, weights=even),
        "eer": equal_error_rate(fpr, tpr),
    }
    table |= {name: tpr[fpr <= target].max() for name, target in FPR_TARGETS.items()}
    if y_pred.any():
        table["precision"] = sk.precision_score(y_true, y_pred)
        table["balanced_precision"] = sk.precision_score(y_true, y_pred, sample_weight=even)
    return table


def equal_error_rate(fpr: ArrayLike, tpr: ArrayLike) -> float:
    """The rate at which as large a share of REAL as of FAKE rows is wrong.

    Between two points of the ROC curve from (0, 0) to (1, 1) it runs straight.
    """
    fpr, tpr = np.asarray(fpr, dtype=float), np.asarray(tpr, dtype=float)
    gap = fpr + tpr - 1  # FPR less the share of FAKE missed: rises from -1 to 1
    k = int(np.argmax(gap >= 0))
    share = -gap[k - 1] / (gap[k] - gap[k - 1])
    return float(fpr[k - 1] + share * (fpr[k] - fpr[k - 1]))


def expected_calibration_error(
    y_true: ArrayLike, y_score: ArrayLike, *, weights: ArrayLike | None = None
) -> float:
    """Mean distance of score and share of FAKE over ECE_BINS equally wide bins, weighted by rows.

    Source: Naeini et al. (2015), Obtaining Well Calibrated Probabilities Using Bayesian Binning.
    """
    y_true, y_score = check_scores(y_true, y_score)
    weights = np.ones(len(y_true)) if weights is None else np.asarray(weights, dtype=float)
    gaps = np.bincount(score_bins(y_score), weights * (y_true - y_score))
    return float(np.abs(gaps).sum() / weights.sum())


def score_bins(y_score: Array) -> Array:
    """Number of the calibration bin of each score; a score of 1 falls into the last one."""
    return np.searchsorted(np.arange(1, ECE_BINS) / ECE_BINS, y_score, side="right")


def confusion_counts(y_true: ArrayLike, y_score: ArrayLike, *, threshold: float) -> list[list[int]]:
    """Counts [[tn, fp], [fn, tp]]: a row a true class (REAL, FAKE), a column a predicted one."""
    y_true, y_score = check_scores(y_true, y_score)
    return sk.confusion_matrix(y_true, y_score >= threshold, labels=[0, 1]).tolist()


def majority_baseline(y_train: ArrayLike, y_true: ArrayLike) -> Scores:
    """Scores of always giving the training share of FAKE: its majority class, and AUC 0.5."""
    share = np.mean(np.asarray(y_train))
    return score_table(y_true, np.full(np.shape(y_true), share), threshold=0.5)


def check_scores(
    y_true: ArrayLike, y_score: ArrayLike, *, both_for: str = ""
) -> tuple[Array, Array]:
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


class WeightedScores:
    """METRICS of many resamples at once: scikit-learn's with `sample_weight` = draws of the group.

    Counts, losses and calibration gaps add up over groups; the others follow from cumulative
    counts over sorted scores, in which a point of the ROC curve is found by bisection.
    """

    def __init__(self, y_true: Array, y_score: Array, codes: Array, threshold: float) -> None:
        # The lesser keys make rounding, too, independent of the order of the rows.
        order = np.lexsort((codes, y_true, -y_score))
        y_score, codes, fake = y_score[order], codes[order], y_true[order] == 1
        called = y_score >= threshold
        right = np.where(fake, y_score, 1 - y_score)
        loss, error = -np.log(np.clip(right, EPS, 1 - EPS)), (1 - right) ** 2
        parts = [~fake & ~called, ~fake & called, fake & ~called, fake & called]
        parts += [part * kind for part in (loss, error) for kind in (~fake, fake)]
        bins, gap = score_bins(y_score), fake - y_score
        parts += [gap * kind * (bins == k) for kind in (~fake, fake) for k in range(ECE_BINS)]
        n_groups = codes.max() + 1
        self.sums = np.stack([np.bincount(codes, part, n_groups) for part in parts], axis=1)
        self.fake, self.real = codes[fake], codes[~fake]
        ends = np.append(np.flatnonzero(np.diff(y_score)), len(y_score) - 1)  # of equal scores
        # Rows of each class scored at or above each distinct score, from the highest: (m,)
        self.n_fake, self.n_real = np.cumsum(fake)[ends], np.cumsum(~fake)[ends]
        # The same at the distinct scores of FAKE rows alone, with the REAL rows strictly above.
        gains = np.flatnonzero(np.diff(self.n_fake, prepend=0))
        self.fake_here, self.real_here = self.n_fake[gains], self.n_real[gains]
        self.real_above = np.insert(self.n_real, 0, 0)[gains]

    def scores(self, counts: Array) -> Array:
        """(b, groups) draws to (b, len(METRICS)) values, NaN where not defined."""
        tn, fp, fn, tp, *rest = (counts @ self.sums).T
        real_loss, fake_loss, real_error, fake_error = rest[:4]
        real_gap, fake_gap = np.stack(rest[4:]).reshape(2, ECE_BINS, -1)
        n_real, n_fake, n = tn + fp, fn + tp, tn + fp + fn + tp
        fake, real = (_cumulate(counts, codes) for codes in (self.fake, self.real))
        with np.errstate(divide="ignore", invalid="ignore"):
            recall, specificity, fpr = tp / n_fake, tn / n_real, fp / n_real
            table = {
                "accuracy": (tn + tp) / n,
                "balanced_accuracy": (recall + specificity) / 2,
                "precision": tp / (tp + fp),
                "recall": recall,
                "f1": 2 * tp / (2 * tp + fp + fn),
                "log_loss": (real_loss + fake_loss) / n,
                "specificity": specificity,
                "brier": (real_error + fake_error) / n,
                "ece": np.abs(real_gap + fake_gap).sum(axis=0) / n,
                "balanced_precision": recall / (recall + fpr),
                "balanced_f1": 2 * recall / (recall + fpr + 1),
                "balanced_log_loss": (real_loss / n_real + fake_loss / n_fake) / 2,
                "balanced_brier": (real_error / n_real + fake_error / n_fake) / 2,
                "balanced_ece": np.abs(real_gap / n_real + fake_gap / n_fake).sum(axis=0) / 2,
                **self._areas(fake, real),
                **self._points(fake, real),
            }
        values = np.stack([table[name] for name in METRICS], axis=1)
        values[np.ix_(n_real * n_fake == 0, [METRICS.index(name) for name in NEED_BOTH])] = np.nan
        return values

    def _areas(self, fake: Array, real: Array) -> dict[str, Array]:
        """ROC AUC (a tie is half a win) and average precision, from cumulative draws."""
        n_fake, n_real = fake[:, -1:], real[:, -1:]
        found, false = fake.take(self.fake_here, axis=1), real.take(self.real_here, axis=1)
        gain = np.diff(found, axis=1, prepend=0) / n_fake  # (b, distinct scores of FAKE rows)
        lost = (false + real.take(self.real_above, axis=1)) / 2
        auc = 1 - np.einsum("bt,bt->b", gain, lost) / n_real[:, 0]
        plain = found / np.maximum(found + false, 1)  # no draw so far: weight 0
        found /= n_fake
        false /= n_real
        even = found / np.maximum(found + false, EPS)
        names = ("average_precision", "balanced_average_precision")
        average = [np.einsum("bt,bt->b", gain, precision) for precision in (plain, even)]
        return {"roc_auc": auc, **dict(zip(names, average, strict=True))}

    def _points(self, fake: Array, real: Array) -> dict[str, Array]:
        """Equal error rate, and the true positive rate at FPR_TARGETS."""
        rows, n_points = np.arange(len(fake)), len(self.n_fake)
        ends_fake, ends_real = np.insert(self.n_fake, 0, 0), np.insert(self.n_real, 0, 0)

        def tpr(k: Array) -> Array:
            return fake[rows, ends_fake[k]] / fake[:, -1]

        def fpr(k: Array) -> Array:
            return real[rows, ends_real[k]] / real[:, -1]

        def gap(k: Array) -> Array:
            return fpr(k) + tpr(k) - 1

        def tpr_within(target: float) -> Array:
            beyond = _first(lambda k: fpr(k) > target, len(rows), n_points)
            return tpr(np.maximum(beyond - 1, 0))

        after = _first(lambda k: gap(k) >= 0, len(rows), n_points)
        before = np.maximum(after - 1, 0)
        share = -gap(before) / (gap(after) - gap(before))
        eer = fpr(before) + share * (fpr(after) - fpr(before))
        return {"eer": eer, **{name: tpr_within(most) for name, most in FPR_TARGETS.items()}}


def _first(reached: Callable[[Array], Array], n_rows: int, last: int) -> Array:
    """First point of each row, from 0 to `last`, at which what stays true is true: bisection."""
    low, high = np.zeros(n_rows, int), np.full(n_rows, last)
    while (low < high).any():
        middle = (low + high) // 2
        done = reached(middle)
        low, high = np.where(done, low, np.minimum(middle + 1, high)), np.where(done, middle, high)
    return high


def _cumulate(counts: Array, codes: Array) -> Array:
    """Draws of the first 0, 1, … rows, in the order of falling scores: (b, rows + 1)."""
    total = np.zeros((len(counts), len(codes) + 1))
    np.cumsum(counts.take(codes, axis=1), axis=1, out=total[:, 1:])
    return total


#: Array elements of one chunk of resamples: 8 MB an array; larger ones leave the cache.
CHUNK_ELEMENTS = 1_000_000


def bootstrap(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    groups: ArrayLike,
    threshold: float,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Scores]:
    """Every metric with its 95% percentile interval, resampling whole groups with replacement.

    All metrics share the resamples. The result does not depend on the order of the rows.

    Args:
        groups: source video of each row, shape (n,); a missing one raises ValueError.
        n_resamples: number of resamples, each of as many groups as there are.

    Returns:
        Metric to `{"value", "low", "high"}`, `value` as in `score_table`. Resamples that do not
        define a metric are left out of it; `low` and `high` are None if under half are left, and
        with a single group.

    Source: Efron & Tibshirani (1993), An Introduction to the Bootstrap, ch. 13.
    """
    y_true, y_score = check_scores(y_true, y_score)
    points = score_table(y_true, y_score, threshold=threshold)
    return _resample(points, y_true, [(y_score, threshold)], groups, n_resamples, seed)


def paired_bootstrap(
    y_true: ArrayLike,
    y_score: ArrayLike,
    other_score: ArrayLike,
    *,
    groups: ArrayLike,
    threshold: float,
    other_threshold: float | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Scores]:
    """`y_score` less `other_score` in every metric, both on the same resamples of sources.

    The interval of a difference is narrower than the two intervals suggest, for the same videos
    are hard for both. `other_threshold` is `threshold` if None; the rest is as in `bootstrap`.
    """
    y_true, y_score = check_scores(y_true, y_score)
    _, other_score = check_scores(y_true, other_score)
    limits = (threshold, threshold if other_threshold is None else other_threshold)
    pair = list(zip((y_score, other_score), limits, strict=True))
    ours, theirs = (score_table(y_true, score, threshold=limit) for score, limit in pair)
    points = {
        name: None if a is None or (b := theirs[name]) is None else a - b
        for name, a in ours.items()
    }
    return _resample(points, y_true, pair, groups, n_resamples, seed)


def _resample(
    points: Scores,
    y_true: Array,
    models: Sequence[tuple[Array, float]],
    groups: ArrayLike,
    n_resamples: int,
    seed: int,
) -> dict[str, Scores]:
    """The points with their intervals; of two models (y_score, threshold), of the difference."""
    codes, n_groups = _codes(groups, len(y_true))
    if n_groups < 2:
        return {name: _row(value, []) for name, value in points.items()}
    draws = _draws(n_groups, n_resamples, seed, len(y_true))
    weighted = [WeightedScores(y_true, score, codes, limit) for score, limit in models]
    chunks = [[scores.scores(counts) for scores in weighted] for counts in draws]
    columns = np.concatenate([chunk[0] - sum(chunk[1:]) for chunk in chunks]).T
    return {name: _row(points[name], column) for name, column in zip(METRICS, columns, strict=True)}


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
    low, high = np.quantile(aucs, TAILS).tolist()
    return {"value": float(aucs.mean()), "low": low, "high": high}


def group_mean(
    values: ArrayLike,
    *,
    groups: ArrayLike,
    where: ArrayLike | None = None,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Scores:
    """Mean of `values` over the rows of `where` (default all), with its interval over groups."""
    values = np.asarray(values, dtype=np.float64)
    codes, n_groups = _codes(groups, len(values))
    kept = np.ones(len(values), bool) if where is None else np.asarray(where, dtype=bool)
    if not kept.any():
        return _row(None, [])
    sums, sizes = (np.bincount(codes, part * kept, n_groups) for part in (values, 1.0))
    point = float(sums.sum() / sizes.sum())
    if n_groups < 2:
        return _row(point, [])
    draws = np.concatenate(list(_draws(n_groups, n_resamples, seed, len(values))))
    with np.errstate(divide="ignore", invalid="ignore"):
        means = (draws @ sums) / (draws @ sizes)
    return _row(point, means)


def _codes(groups: ArrayLike, n_rows: int) -> tuple[Array, int]:
    """A number from 0 for the group of each row, in the order of the names, and how many."""
    codes, names = pd.factorize(np.asarray(groups), sort=True)
    if codes.shape != (n_rows,) or (codes < 0).any():
        raise ValueError(f"groups must name a source in each of the {n_rows} rows")
    return codes, len(names)


def _draws(n_groups: int, n_resamples: int, seed: int, n_rows: int) -> Iterator[Array]:
    """How often each group is drawn, float64 (b, groups), in chunks of resamples."""
    if n_resamples < 1:
        raise ValueError(f"n_resamples {n_resamples} must be over 0")
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK_ELEMENTS // n_rows)
    for start in range(0, n_resamples, step):
        size = min(step, n_resamples - start)
        picks = rng.integers(0, n_groups, (size, n_groups)) + n_groups * np.arange(size)[:, None]
        counts = np.bincount(picks.ravel(), minlength=size * n_groups)
        yield counts.reshape(size, n_groups).astype(np.float64)


def _row(value: float | None, column: ArrayLike) -> Scores:
    """The value with the range of 95% of its resamples, where half of them define it."""
    column = np.asarray(column, dtype=np.float64)
    defined = column[~np.isnan(column)]
    row: Scores = {"value": value, "low": None, "high": None}
    if value is not None and len(defined) and 2 * len(defined) >= len(column):
        row["low"], row["high"] = np.quantile(defined, TAILS).tolist()
    return row


def y_true_of(table: pd.DataFrame) -> np.ndarray:
    """Labels as numbers: 1 = FAKE."""
    return (table["label"] == CLASSES[1]).to_numpy(np.int64)
