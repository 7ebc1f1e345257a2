"""Every metric of many weighted samples at once: what makes the bootstrap fast."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from utils.scores import ECE_BINS, EPS, FPR_TARGETS, METRICS, NEED_BOTH, Array, score_bins


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
        average = [np.einsum("bt,bt->b", gain, precision) for precision in (plain, even)]
        return {
            "roc_auc": auc,
            "average_precision": average[0],
            "balanced_average_precision": average[1],
        }

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

        def beyond_target(target: float, k: Array) -> Array:
            return fpr(k) > target

        after = _first(lambda k: gap(k) >= 0, len(rows), n_points)
        before = np.maximum(after - 1, 0)
        share = -gap(before) / (gap(after) - gap(before))
        points = {"eer": fpr(before) + share * (fpr(after) - fpr(before))}
        for name, target in FPR_TARGETS.items():
            beyond = _first(partial(beyond_target, target), len(rows), n_points)
            points[name] = tpr(np.maximum(beyond - 1, 0))
        return points


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
