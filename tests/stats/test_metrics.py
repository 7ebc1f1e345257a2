"""Scores and their intervals: hand values and scikit-learn."""

import warnings

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import expit, logit
from sklearn import metrics as sk

from utils.stats import metrics
from utils.stats.metrics import (
    METRICS,
    WeightedScores,
    bootstrap,
    confusion_counts,
    equal_error_rate,
    expected_calibration_error,
    group_mean,
    majority_baseline,
    paired_bootstrap,
    score_table,
    shuffled_labels,
)

#          tn   fp   fn   tp   tp
Y_TRUE = [0, 0, 1, 1, 1]
Y_SCORE = [0.1, 0.6, 0.4, 0.6, 0.9]


def rows(n=600, sources=60, *, decimals=8, seed=0):
    """Scores of rows that are alike within a source; few decimals make ties."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(0, sources, n)
    y_true = (rng.random(n) < 0.7).astype(int)
    noise = rng.normal(size=sources)[groups] + 0.3 * rng.normal(size=n)
    return y_true, expit(1.5 * y_true + noise).round(decimals), groups


# --- point values -----------------------------------------------------------------------------


def test_score_table_equals_hand_values():
    table = score_table(Y_TRUE, Y_SCORE, threshold=0.5)
    assert list(table) == list(METRICS)
    assert table["accuracy"] == pytest.approx(3 / 5)
    assert table["balanced_accuracy"] == pytest.approx((1 / 2 + 2 / 3) / 2)
    assert table["precision"] == pytest.approx(2 / 3)
    assert table["recall"] == pytest.approx(2 / 3)
    assert table["f1"] == pytest.approx(2 / 3)
    assert table["roc_auc"] == pytest.approx((1 + 1.5 + 2) / 6)  # a tie is half a win
    # Thresholds 0.9, 0.6, 0.4 gain a third of recall each, at precisions 1, 2/3 and 3/4.
    assert table["average_precision"] == pytest.approx((1 + 2 / 3 + 3 / 4) / 3)
    assert table["log_loss"] == pytest.approx(-np.log([0.9, 0.4, 0.4, 0.6, 0.9]).mean())
    assert table["specificity"] == 1 / 2
    assert table["brier"] == pytest.approx((0.01 + 0.36 + 0.36 + 0.16 + 0.01) / 5)
    # Bins 0.1, 0.4, 0.6 (one of two is FAKE) and 0.9.
    assert table["ece"] == pytest.approx((0.1 + 0.6 + abs(1 - 1.2) + 0.1) / 5)
    assert table["tpr_at_fpr_1"] == table["tpr_at_fpr_5"] == pytest.approx(1 / 3)
    # From (0, 1/3) to (1/2, 2/3) the curve meets FPR = 1 - TPR at 2/5.
    assert table["eer"] == pytest.approx(2 / 5)
    # REAL weighs a half, FAKE a third a row.
    assert table["balanced_precision"] == pytest.approx((2 / 3) / (2 / 3 + 1 / 2))
    assert table["balanced_f1"] == pytest.approx(2 * (2 / 3) / (2 / 3 + 1 / 2 + 1))
    assert table["balanced_brier"] == pytest.approx((0.37 / 2 + 0.53 / 3) / 2)


def test_score_at_the_threshold_is_fake():
    assert confusion_counts([0, 1], [0.5, 0.5], threshold=0.5) == [[0, 1], [0, 1]]
    assert score_table([0, 1], [0.2, 0.5], threshold=0.5)["accuracy"] == 1


def test_confusion_equals_hand_counts_also_of_one_class():
    assert confusion_counts(Y_TRUE, Y_SCORE, threshold=0.5) == [[1, 1], [1, 2]]
    assert confusion_counts([1, 1], [0.9, 0.8], threshold=0.5) == [[0, 0], [0, 2]]


@pytest.mark.parametrize(
    ("label", "defined"),
    [
        (1, {"accuracy", "log_loss", "brier", "ece", "recall"}),
        (0, {"accuracy", "log_loss", "brier", "ece", "specificity"}),
    ],
)
def test_one_class_gives_none_not_zero_and_no_warning(label, defined):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        table = score_table([label] * 3, [0.2, 0.6, 0.7], threshold=0.5)
        interval = bootstrap([label] * 3, [0.2, 0.6, 0.7], groups=[1, 2, 3], threshold=0.5)
    assert {name for name, value in table.items() if value is not None} == defined
    assert {name for name in METRICS if interval[name]["low"] is not None} == defined


def test_precision_without_a_fake_call_is_none_and_recall_is_zero():
    table = score_table(Y_TRUE, Y_SCORE, threshold=0.95)
    assert table["precision"] is None and table["recall"] == 0 and table["f1"] == 0


def test_certain_and_wrong_scores_have_a_finite_log_loss():
    loss = score_table([0, 1], [1.0, 0.0], threshold=0.5)["log_loss"]
    assert loss == pytest.approx(-np.log(np.finfo(float).eps))


@pytest.mark.parametrize(
    ("y_true", "y_score", "named"),
    [
        ([], [], "n > 0"),
        ([0, 1], [0.5], r"\(2,\)"),
        ([0, 2], [0.5, 0.5], "y_true"),
        ([0, 1], [0.5, 1.2], "y_score"),
        ([0, 1], [0.5, np.nan], "y_score"),
    ],
)
def test_unusable_arrays_are_refused(y_true, y_score, named):
    with pytest.raises(ValueError, match=named):
        score_table(y_true, y_score, threshold=0.5)


def test_majority_baseline_scores_the_training_share():
    table = majority_baseline([1, 1, 1, 0], [1, 1, 0, 0, 0])
    assert table["accuracy"] == pytest.approx(2 / 5) and table["balanced_accuracy"] == 0.5
    assert table["roc_auc"] == 0.5 and table["average_precision"] == pytest.approx(2 / 5)
    assert table["log_loss"] == pytest.approx(-(2 * np.log(0.75) + 3 * np.log(0.25)) / 5)


# --- bootstrap --------------------------------------------------------------------------------


def sklearn_scores(y_true, y_score, weight, threshold):
    """METRICS by scikit-learn, rows weighted by how often their group was drawn."""
    y_pred = (y_score >= threshold).astype(int)
    even = weight / np.bincount(y_true, weight)[y_true]
    fpr, tpr, _ = sk.roc_curve(y_true, y_score, sample_weight=weight, drop_intermediate=False)
    table = {
        "balanced_accuracy": sk.balanced_accuracy_score(y_true, y_pred, sample_weight=weight),
        "recall": sk.recall_score(y_true, y_pred, sample_weight=weight),
        "specificity": sk.recall_score(y_true, y_pred, pos_label=0, sample_weight=weight),
        "roc_auc": sk.roc_auc_score(y_true, y_score, sample_weight=weight),
        "eer": brentq(lambda x: 1 - x - np.interp(x, fpr, tpr), 0, 1, xtol=1e-12),
        "tpr_at_fpr_1": tpr[fpr <= 0.01].max(),
        "tpr_at_fpr_5": tpr[fpr <= 0.05].max(),
        "accuracy": sk.accuracy_score(y_true, y_pred, sample_weight=weight),
    }
    for prefix, w in (("", weight), ("balanced_", even)):
        table |= {
            f"{prefix}precision": sk.precision_score(y_true, y_pred, sample_weight=w),
            f"{prefix}f1": sk.f1_score(y_true, y_pred, sample_weight=w),
            f"{prefix}average_precision": sk.average_precision_score(
                y_true, y_score, sample_weight=w
            ),
            f"{prefix}log_loss": sk.log_loss(y_true, y_score, labels=[0, 1], sample_weight=w),
            f"{prefix}brier": sk.brier_score_loss(y_true, y_score, sample_weight=w),
            f"{prefix}ece": plain_ece(y_true, y_score, w),
        }
    return [table[name] for name in METRICS]


def plain_ece(y_true, y_score, weight):
    """Bin by bin, as the definition reads."""
    total = 0.0
    for k in range(10):
        inside = (y_score >= k / 10) & ((y_score < (k + 1) / 10) | (k == 9))
        if weight[inside].sum():
            gap = np.average(y_true[inside], weights=weight[inside])
            gap -= np.average(y_score[inside], weights=weight[inside])
            total += abs(gap) * weight[inside].sum() / weight.sum()
    return total


@pytest.mark.parametrize("decimals", [8, 1, 0, -1], ids=["distinct", "ties", "two", "all equal"])
def test_resamples_equal_sklearn_with_weights(decimals):
    y_true, y_score, codes = rows(300, 30, decimals=decimals)
    threshold = 0.6 if decimals >= 0 else 0.0
    counts = np.random.default_rng(1).multinomial(30, np.full(30, 1 / 30), size=40)
    ours = WeightedScores(y_true, y_score, codes, threshold).scores(counts.astype(float))
    theirs = [sklearn_scores(y_true, y_score, count[codes], threshold) for count in counts]
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9)


def test_interval_equals_the_quantiles_of_a_plain_loop():
    y_true, y_score, groups = rows(200, 20)
    rng = np.random.default_rng(7)
    aucs = []
    for _ in range(50):
        drawn = rng.integers(0, 20, 20)
        picked = np.concatenate([np.flatnonzero(groups == group) for group in drawn])
        aucs.append(sk.roc_auc_score(y_true[picked], y_score[picked]))
    kept = {"groups": groups, "threshold": 0.5, "n_resamples": 50, "seed": 7}
    ours = bootstrap(y_true, y_score, **kept)["roc_auc"]
    assert ours["value"] == sk.roc_auc_score(y_true, y_score)
    assert [ours["low"], ours["high"]] == pytest.approx(np.quantile(aucs, [0.025, 0.975]), abs=1e-9)


def test_bootstrap_depends_on_the_seed_but_not_on_row_order_or_chunks(monkeypatch):
    y_true, y_score, groups = rows(decimals=2)
    names = np.array([f"video{group}" for group in groups], dtype=object)
    first = bootstrap(y_true, y_score, groups=names, threshold=0.5, n_resamples=99, seed=3)
    order = np.random.default_rng(0).permutation(len(y_true))
    y, s, g = y_true[order], y_score[order], names[order]
    shuffled = bootstrap(y, s, groups=g, threshold=0.5, n_resamples=99, seed=3)
    for name in METRICS:
        assert shuffled[name]["low"] == first[name]["low"], name
        assert shuffled[name]["high"] == first[name]["high"], name
    other = bootstrap(y_true, y_score, groups=names, threshold=0.5, n_resamples=99, seed=4)
    assert other["roc_auc"]["low"] != first["roc_auc"]["low"]
    monkeypatch.setattr(metrics, "CHUNK_ELEMENTS", 1)
    again = bootstrap(y_true, y_score, groups=names, threshold=0.5, n_resamples=99, seed=3)
    assert again == {name: pytest.approx(row, rel=1e-12) for name, row in first.items()}


def test_intervals_span_the_value():
    y_true, y_score, groups = rows()
    table = bootstrap(y_true, y_score, groups=groups, threshold=0.5)
    for name in METRICS:
        low, value, high = (table[name][key] for key in ("low", "value", "high"))
        # A calibration error is biased upwards: resamples add noise of their own to each bin.
        assert low < value < high or "ece" in name, name


def test_resampling_rows_would_be_too_narrow():
    y_true, y_score, groups = rows(3000, 30)
    width = {}
    for name, unit in (("source", groups), ("row", np.arange(len(groups)))):
        auc = bootstrap(y_true, y_score, groups=unit, threshold=0.5, n_resamples=200)["roc_auc"]
        width[name] = auc["high"] - auc["low"]
    assert width["source"] > 1.5 * width["row"]


def test_interval_covers_the_truth_about_as_often_as_it_says():
    # AUC of scores N(1, 1) against N(0, 1) is Phi(1 / sqrt 2) = 0.760.
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(100):
        y_true = np.arange(120) % 2
        y_score = expit(y_true + rng.normal(size=120))
        auc = bootstrap(
            y_true, y_score, groups=np.arange(120), threshold=0.5, n_resamples=200, seed=seed
        )["roc_auc"]
        hits += auc["low"] <= 0.7602 <= auc["high"]
    assert 87 <= hits <= 99


def test_one_group_has_no_interval():
    result = bootstrap(Y_TRUE, Y_SCORE, groups=["a"] * 5, threshold=0.5)
    assert result["roc_auc"] == {"value": pytest.approx(0.75), "low": None, "high": None}


def test_too_few_defined_resamples_give_no_interval():
    # One of two sources holds all FAKE rows: half of the resamples lack a class, on average.
    sources = [0, 0, 1, 1, 1]
    seeds = [
        bootstrap(Y_TRUE, Y_SCORE, groups=sources, threshold=0.5, n_resamples=40, seed=seed)
        for seed in range(20)
    ]
    with_interval = [result["roc_auc"]["low"] is not None for result in seeds]
    assert 0 < sum(with_interval) < 20
    assert all(result["accuracy"]["low"] is not None for result in seeds)


@pytest.mark.parametrize(
    "bad",
    [{"groups": [1, 2]}, {"groups": ["a", "b", None, "c", "d"]}, {"n_resamples": 0}],
)
def test_bootstrap_refuses_bad_arguments(bad):
    with pytest.raises(ValueError, match=r"groups|n_resamples"):
        bootstrap(Y_TRUE, Y_SCORE, **{"groups": [1, 2, 3, 4, 5], "threshold": 0.5, **bad})


@pytest.mark.parametrize("decimals", [8, 1], ids=["distinct", "ties"])
def test_equal_error_rate_is_where_the_curve_meets_the_diagonal(decimals):
    y_true, y_score, _ = rows(decimals=decimals)
    fpr, tpr, _ = sk.roc_curve(y_true, y_score)
    rate = equal_error_rate(fpr, tpr)
    # The curve is upright in places: just left of the rate it is below the line, right above.
    assert np.interp(rate - 1e-9, fpr, tpr) - 1e-6 <= 1 - rate <= np.interp(rate + 1e-9, fpr, tpr)


def test_calibration_error_of_honest_and_of_boastful_scores():
    assert expected_calibration_error([0, 1, 1, 0], [0.5] * 4) == 0
    assert expected_calibration_error([0, 1], [1.0, 1.0]) == 0.5
    assert expected_calibration_error([0, 1], [0.25, 0.75]) == 0.25


# --- comparisons ------------------------------------------------------------------------------


def test_paired_difference_equals_a_loop_and_is_zero_against_itself():
    y_true, y_score, groups = rows(200, 20)
    other = np.random.default_rng(5).permutation(y_score)
    kept = {"groups": groups, "threshold": 0.5, "n_resamples": 40, "seed": 7}
    rng, differences = np.random.default_rng(7), []
    for _ in range(40):
        drawn = rng.integers(0, 20, 20)
        picked = np.concatenate([np.flatnonzero(groups == group) for group in drawn])
        aucs = [sk.roc_auc_score(y_true[picked], s[picked]) for s in (y_score, other)]
        differences.append(aucs[0] - aucs[1])
    ours = paired_bootstrap(y_true, y_score, other, **kept)["roc_auc"]
    assert [ours["low"], ours["high"]] == pytest.approx(np.quantile(differences, [0.025, 0.975]))
    same = paired_bootstrap(y_true, y_score, y_score, **kept)
    assert all(row == {"value": 0, "low": 0, "high": 0} for row in same.values())


def test_a_pair_is_surer_than_its_two_intervals():
    y_true, y_score, groups = rows()
    other = expit(logit(y_score) + np.random.default_rng(0).normal(0, 0.2, len(y_score)))
    kept = {"groups": groups, "threshold": 0.5}
    width = [
        row["high"] - row["low"]
        for row in (
            paired_bootstrap(y_true, y_score, other, **kept)["roc_auc"],
            bootstrap(y_true, y_score, **kept)["roc_auc"],
        )
    ]
    assert width[0] < width[1] / 3


def test_shuffled_labels_score_chance():
    y_true, y_score, _ = rows(400, 40)
    row = shuffled_labels(y_true, y_score)
    assert row["value"] == pytest.approx(0.5, abs=0.01)
    assert row["low"] < 0.5 < row["high"] < sk.roc_auc_score(y_true, y_score)
    assert shuffled_labels([1, 1], [0.1, 0.2])["value"] is None


def test_group_mean_equals_hand_values():
    row = group_mean([1, 0, 1, 1], groups=["a", "a", "b", "b"], where=[True, True, True, False])
    assert row["value"] == pytest.approx(2 / 3)
    assert (row["low"], row["high"]) == (0.5, 1)  # only "a", only "b"
    assert group_mean([1, 0], groups=[0, 1], where=[False, False])["value"] is None
    assert group_mean([1, 0], groups=[0, 0])["low"] is None
