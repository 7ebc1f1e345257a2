"""Figures of training and scores, tested by their data and labels."""

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from utils.report import figures, score_figures

Y_TRUE = np.array([0, 0, 1, 1, 1])
Y_SCORE = np.array([0.1, 0.6, 0.4, 0.8, 0.9])  # AUC: 5 of 6 pairs in order


@pytest.fixture(autouse=True)
def _theme():
    figures.use_theme()
    yield
    plt.close("all")


def texts(ax):
    return [text.get_text() for text in ax.texts]


def line(ax, label):
    return next(line for line in ax.lines if str(line.get_label()).startswith(label))


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_leakage_ladder_draws_value_interval_and_gain():
    ladder = pd.DataFrame(
        {"split": ["frame", "source"], "roc_auc": [0.9, 0.7], "low": [0.8, 0.6],
         "high": [0.95, 0.75], "flatters": [0.2, 0.0]}
    )  # fmt: skip
    ax = score_figures.plot_leakage_ladder(ladder)
    assert "0.900 (0.800 to 0.950)" in texts(ax)
    drawn = [tuple(map(float, line.get_xdata())) for line in ax.lines]
    assert (0.8, 0.95) in drawn and (0.7,) in drawn and (0.5, 0.5) in drawn
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names[0].endswith("flatters by 0.200") and "flatters" not in names[1]


def test_zero_pixel_says_not_defined_and_ends_with_all_together():
    result = {
        "roc_auc": {"value": 0.6, "low": 0.5, "high": 0.7},
        "features": [{"name": "file_size", "roc_auc": 0.55}, {"name": "side", "roc_auc": None}],
    }
    ax = score_figures.plot_zero_pixel(result)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["file size", "side", "all together"]
    assert [text for text in texts(ax) if text != "chance"] == [
        "0.550", "not defined", "0.600 (0.500 to 0.700)",
    ]  # fmt: skip


def test_metric_intervals_leave_what_is_on_another_scale_to_the_table_and_mark_the_majority():
    row = {"value": 0.8, "low": 0.7, "high": 0.9}
    metrics = {
        "frame": {"roc_auc": row, "accuracy": row, "log_loss": row, "seconds": row},
        "video": {"roc_auc": {"value": None, "low": None, "high": None}, "accuracy": row},
        "n": {"frame": {"REAL": 3, "FAKE": 4, "sources": 2}, "video": {"REAL": 1, "FAKE": 1}},
    }
    ax = score_figures.plot_metric_intervals(metrics, baselines={"video": {"accuracy": 0.83}})
    assert [label.get_text() for label in ax.get_yticklabels()] == ["ROC AUC", "Accuracy"]
    assert texts(ax).count("not defined") == 1
    crosses = line(ax, "always the majority, videos").get_xdata()
    np.testing.assert_array_equal(crosses, [np.nan, 0.83])
    assert "7 crops, 2 videos" in ax.get_title(loc="left")


def test_slices_name_their_n_and_mark_the_small_under_headings():
    row = {"value": 0.9, "low": 0.8, "high": 1.0}
    slices = {
        "method": {"Deepfakes": {"n": 1200, "roc_auc": row}},
        "head_pose": {"1": {"n": 3, "small": True, "roc_auc": {**row, "value": 0.7}}},
    }
    ax = score_figures.plot_slices(slices)
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "Deepfakes (n = 1,200)",
        "1 (n = 3, small)",
    ]
    assert "0.900 (0.800 to 1.000)" in texts(ax)
    assert "Method (its fakes against all real videos)" in texts(ax) and "Head pose" in texts(ax)
    colors = {x.get_xdata()[0]: x.get_color() for x in ax.lines if len(x.get_xdata()) == 1}
    assert colors[0.9] == figures.INK and colors[0.7] == figures.MUTED


def test_robustness_runs_from_clean_to_the_severest():
    def row(value):
        return {"roc_auc": {"value": value, "low": 0.4, "high": 0.9}}

    table = {
        "clean": row(0.8),
        "jpeg": {"90": row(0.75), "30": row(0.6)},
        "fish_eye": {"2": {"roc_auc": {"value": None, "low": None, "high": None}}},
    }
    first, second = score_figures.plot_robustness(table).axes
    assert (second.get_title(loc="left"), second.get_xlabel()) == ("Fish eye", "severity")
    assert (first.get_title(loc="left"), first.get_xlabel()) == ("JPEG", "quality")
    assert [label.get_text() for label in first.get_xticklabels()] == ["clean", "90", "30"]
    curve = next(x for x in first.lines if x.get_marker() == "o")
    assert list(curve.get_ydata()) == [0.8, 0.75, 0.6]
    assert np.isnan(next(x for x in second.lines if x.get_marker() == "o").get_ydata()[1])


@pytest.fixture
def history():
    return pd.DataFrame(
        {"epoch": [1, 2, 3], "train_loss": [0.7, 0.5, 0.3], "val_loss": [0.6, 0.5, 0.55],
         "val_auc": [0.6, 0.75, 0.8]}
    )  # fmt: skip


def test_history_marks_the_epoch_of_the_lowest_val_loss(history):
    loss, auc = score_figures.plot_history(history)
    np.testing.assert_array_equal(line(loss, "train").get_ydata(), [0.7, 0.5, 0.3])
    assert line(loss, "kept").get_label() == "kept: 0.500, epoch 2"
    assert line(auc, "kept").get_label() == "kept: 0.750, epoch 2"


def test_history_marks_the_epoch_that_is_given_and_bears_undefined_auc(history):
    history["val_auc"] = np.nan
    loss, auc = score_figures.plot_history(history, best_epoch=3)
    assert line(loss, "kept").get_label() == "kept: 0.550, epoch 3"
    assert line(auc, "kept").get_label() == "kept: not defined, epoch 3"
    loss, _ = score_figures.plot_history(history.assign(val_loss=np.nan))
    assert not any("kept" in text for text in legend(loss))


def test_confusion_shows_counts_and_row_shares():
    ax = score_figures.plot_confusion([[3, 1], [2, 8]], title="Test videos")
    assert texts(ax) == [
        "3\n75.0% of REAL", "1\n25.0% of REAL", "2\n20.0% of FAKE", "8\n80.0% of FAKE",
    ]  # fmt: skip
    assert ax.get_title(loc="left") == "Test videos: n = 14"
    assert (ax.get_xlabel(), ax.get_ylabel()) == ("Decision", "Truth")
    for labels in (ax.get_xticklabels(), ax.get_yticklabels()):
        assert [label.get_text() for label in labels] == ["REAL", "FAKE"]
    assert {text.get_color() for text in ax.texts} == {figures.INK}
    assert ax.figure.axes == [ax]  # no bar of colours beside it


def test_confusion_without_a_row_does_not_divide_by_zero():
    ax = score_figures.plot_confusion([[0, 0], [1, 1]], title="Test videos")
    assert texts(ax)[0] == "0\n0.0% of REAL"


def test_roc_holds_the_curve_the_auc_and_the_operating_point():
    ax = score_figures.plot_roc(
        Y_TRUE, Y_SCORE, interval={"value": 0.833, "low": 0.5, "high": 1.0}, threshold=0.5
    )
    assert line(ax, "model").get_label() == "model: AUC 0.833 (0.500 to 1.000)"
    point = line(ax, "threshold")
    np.testing.assert_allclose([point.get_xdata()[0], point.get_ydata()[0]], [0.5, 2 / 3])
    assert "5 test videos (2 REAL, 3 FAKE)" in ax.get_title(loc="left")
    np.testing.assert_allclose(line(ax, "model").get_xdata(), [0, 0, 0, 0.5, 0.5, 1])
    np.testing.assert_allclose(line(ax, "model").get_ydata(), [0, 1 / 3, 2 / 3, 2 / 3, 1, 1])
    assert ax.get_xlabel() == "False positive rate (REAL called FAKE)"


def test_precision_recall_draws_the_prevalence():
    ax = score_figures.plot_precision_recall(Y_TRUE, Y_SCORE, threshold=0.5)
    np.testing.assert_allclose(line(ax, "all called FAKE").get_ydata(), 0.6)
    point = line(ax, "threshold")
    np.testing.assert_allclose([point.get_xdata()[0], point.get_ydata()[0]], [2 / 3, 2 / 3])
    assert "AP 0.917" in line(ax, "model").get_label()  # (1 + 1 + 3/4) / 3


@pytest.mark.parametrize("plot", ["plot_roc", "plot_precision_recall"])
def test_curves_of_one_class_are_said_to_be_undefined(plot):
    ax = getattr(score_figures, plot)(np.ones(3), np.array([0.2, 0.5, 0.9]), threshold=0.5)
    assert texts(ax) == ["not defined: only one class"]


def test_score_histogram_scales_each_class_and_shows_threshold_and_band():
    ax = score_figures.plot_score_histogram(Y_TRUE, Y_SCORE, threshold=0.5, band=(0.4, 0.7))
    assert list(line(ax, "threshold").get_xdata()) == [0.5, 0.5]
    assert "UNSURE: 0.40 to 0.70" in legend(ax)
    empty = score_figures.plot_score_histogram(Y_TRUE, Y_SCORE, threshold=0.5, band=(0.5, 0.5))
    assert not any("UNSURE" in text for text in legend(empty))


def test_calibration_shows_before_and_after_the_temperature_in_bins_of_equal_counts():
    before = [0.0, 0.2, 0.7, 0.9]
    ax = score_figures.plot_calibration(
        [0, 1, 0, 1], [0.1, 0.3, 0.6, 0.8], before=before, subset="test crops", bins=2
    )
    before = line(ax, "before calibration, 2 bins of equal count")
    np.testing.assert_allclose(before.get_xdata(), [0.1, 0.8])
    after = line(ax, "after, 2 bins of equal count")
    np.testing.assert_allclose(after.get_xdata(), [0.2, 0.7])
    np.testing.assert_allclose(after.get_ydata(), [0.5, 0.5])
    assert "4 test crops (2 REAL, 2 FAKE)" in ax.get_title(loc="left")


@pytest.mark.parametrize(
    ("plot", "given"),
    [
        ("plot_roc", {"threshold": 0.5}),
        ("plot_precision_recall", {"threshold": 0.5}),
        ("plot_calibration", {"before": Y_SCORE, "subset": "test crops"}),
        ("plot_score_histogram", {"threshold": 0.5, "band": (0.4, 0.7)}),
    ],
)
def test_plots_draw_on_the_axes_that_are_given_and_in_the_ink_of_the_theme(plot, given):
    _, ax = plt.subplots()
    assert getattr(score_figures, plot)(Y_TRUE, Y_SCORE, ax=ax, **given) is ax
    colors = {line.get_color() for line in ax.lines}
    assert colors <= {figures.INK, figures.MUTED} and len(plt.get_fignums()) == 1
