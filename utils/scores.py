"""Point values of every metric, by scikit-learn.

Everywhere `y_true` (n,) is 0 (REAL) or 1 (FAKE, the positive class), `y_score` (n,) is P(FAKE) in
[0, 1], and a row is called FAKE when `y_score >= threshold`. Arrays that are empty, of unequal
length or out of range raise ValueError. What is not defined is None, never 0.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from sklearn import metrics as sk

from utils.artifacts import CLASSES

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
    fpr, tpr, _ = sk.roc_curve(y_true, y_score, drop_intermediate=False)
    table = {
        "balanced_accuracy": sk.balanced_accuracy_score(y_true, y_pred),
        "f1": sk.f1_score(y_true, y_pred),
        "balanced_f1": sk.f1_score(y_true, y_pred, sample_weight=even),
        "roc_auc": sk.roc_auc_score(y_true, y_score),
        "average_precision": sk.average_precision_score(y_true, y_score),
        "balanced_average_precision": sk.average_precision_score(
            y_true, y_score, sample_weight=even
        ),
        "balanced_log_loss": sk.log_loss(y_true, y_score, labels=[0, 1], sample_weight=even),
        "balanced_brier": float(np.average((y_score - y_true) ** 2, weights=even)),
        "balanced_ece": expected_calibration_error(y_true, y_score, weights=even),
        "eer": equal_error_rate(fpr, tpr),
    }
    table |= {name: tpr[fpr <= target].max() for name, target in FPR_TARGETS.items()}
    if y_pred.any():
        table["precision"] = sk.precision_score(y_true, y_pred)
        table["balanced_precision"] = sk.precision_score(y_true, y_pred, sample_weight=even)
    return table


def equal_error_rate(fpr: ArrayLike, tpr: ArrayLike) -> float:
    """The rate at which as large a share of REAL as of FAKE rows is wrong.

    Args:
        fpr, tpr: the ROC curve from (0, 0) to (1, 1), as `roc_curve` gives it; between two points
            it runs straight.
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


def confusion(y_true: ArrayLike, y_score: ArrayLike, *, threshold: float) -> list[list[int]]:
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
