"""Figures, tested by their data and labels."""

from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from utils.report import figures, score_figures

Y_TRUE = np.array([0, 0, 1, 1, 1])
Y_SCORE = np.array([0.1, 0.6, 0.4, 0.8, 0.9])  # AUC: 5 of 6 pairs in order


@pytest.fixture(autouse=True)
def _close_figures():
    figures.use_theme()
    yield
    plt.close("all")


@pytest.fixture
def index():
    """Three videos: a REAL with 2 crops, a FAKE with 3 crops of 2 frames, a FAKE with 1 crop."""
    rows = [
        ("a", "REAL", 0, "a", "train"),
        ("a", "REAL", 1, "a", "train"),
        ("b", "FAKE", 0, "a", "train"),
        ("b", "FAKE", 0, "a", "train"),
        ("b", "FAKE", 1, "a", "train"),
        ("c", "FAKE", 0, "c", "test"),
    ]
    table = pd.DataFrame(rows, columns=["video", "label", "frame", "source", "split"])
    return table.assign(dataset="d", method="m")


def texts(ax):
    return [text.get_text() for text in ax.texts]


def line(ax, label):
    return next(line for line in ax.lines if str(line.get_label()).startswith(label))


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_classes_keep_their_colour_and_differ_without_it():
    assert figures.COLORS["REAL"] != figures.COLORS["FAKE"]
    assert figures.HATCHES["REAL"] != figures.HATCHES["FAKE"]
    assert figures.LINES["REAL"] != figures.LINES["FAKE"]


def test_class_balance_shows_shares_and_counts_of_videos_and_crops(index):
    ax = figures.plot_class_balance(index)
    widths = [bar.get_width() for bar in ax.patches]
    np.testing.assert_allclose(widths, [1 / 3, 1 / 3, 2 / 3, 2 / 3])
    assert texts(ax) == ["1\n33%", "2\n33%", "2\n67%", "4\n67%"]
    assert to_hex(ax.patches[0].get_facecolor()) == figures.COLORS["REAL"].lower()
    assert "3 videos, 6 crops" in ax.get_title(loc="left")


def test_class_balance_has_a_pair_of_bars_for_each_data_set(index):
    both = pd.concat([index, index.assign(dataset="e")])
    ax = figures.plot_class_balance(both)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["d\nvideos", "d\ncrops", "e\nvideos", "e\ncrops"]


def test_counts_per_video_separate_crops_from_frames(index):
    ax = figures.plot_counts_per_video(index)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["REAL crops", "FAKE crops", "REAL frames", "FAKE frames"]
    dots = [sorted(dots.get_offsets()[:, 0]) for dots in ax.collections]
    assert dots == [[2], [1, 3], [2], [1, 2]]
    medians = [float(line.get_xdata()[0]) for line in ax.lines if line.get_marker() == "|"]
    assert medians == [2, 2, 2, 1.5]


def test_feature_is_scaled_within_each_class():
    table = pd.DataFrame({"size": [1, 1, 2, 2, 2, 2, np.nan], "label": ["REAL"] * 2 + ["FAKE"] * 5})
    ax = figures.plot_feature_by_class(table, "size", label="Size (px)")
    totals = [patch.get_data().values.sum() for patch in ax.patches]
    np.testing.assert_allclose(totals, 1)
    assert ax.get_xlabel() == "Size (px)"
    assert legend(ax) == ["REAL (n = 2, median 1)", "FAKE (n = 4, median 2)"]


def test_looks_are_drawn_by_class_each_with_its_unit():
    table = pd.DataFrame({column: [1.0, 2.0] for column in figures.FEATURES})
    drawn = figures.plot_looks(table.assign(label=["REAL", "FAKE"])).axes
    assert [ax.get_xlabel() for ax in drawn] == list(figures.FEATURES.values())
    assert all(len(legend(ax)) == 2 for ax in drawn)


def test_split_counts_videos_and_names_sources(index):
    ax = figures.plot_split(index)
    assert [bar.get_height() for bar in ax.patches] == [1, 0, 1, 1]
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert names == ["train\n1 sources", "test\n1 sources"]


def test_missing_column_is_named(index):
    with pytest.raises(ValueError, match="source"):
        figures.plot_split(index.drop(columns="source"))


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


def test_metric_intervals_leave_log_loss_to_the_table_and_mark_the_majority():
    row = {"value": 0.8, "low": 0.7, "high": 0.9}
    metrics = {
        "frame": {"roc_auc": row, "accuracy": row, "log_loss": row},
        "video": {"roc_auc": {"value": None, "low": None, "high": None}, "accuracy": row},
        "n": {"frame": {"REAL": 3, "FAKE": 4, "sources": 2}, "video": {"REAL": 1, "FAKE": 1}},
    }
    ax = score_figures.plot_metric_intervals(metrics, baselines={"video": {"accuracy": 0.83}})
    assert [label.get_text() for label in ax.get_yticklabels()] == ["ROC AUC", "Accuracy"]
    assert texts(ax).count("not defined") == 1
    assert list(line(ax, "always the majority, videos").get_xdata()) == [0.83]
    assert "7 crops, 2 videos" in ax.get_title(loc="left")


def test_slices_name_their_n_and_mark_the_small_under_headings():
    row = {"value": 0.9, "low": 0.8, "high": 1.0}
    slices = {
        "method": {"Deepfakes": {"n": 1200, "roc_auc": row}},
        "faces": {"1": {"n": 3, "small": True, "roc_auc": {**row, "value": 0.7}}},
    }
    ax = score_figures.plot_slices(slices)
    assert [label.get_text() for label in ax.get_yticklabels()] == [
        "Deepfakes (n = 1,200)",
        "1 (n = 3, small)",
    ]
    assert "0.900 (0.800 to 1.000)" in texts(ax)
    assert "Method (its fakes against all real videos)" in texts(ax)
    colors = {x.get_xdata()[0]: x.get_color() for x in ax.lines if len(x.get_xdata()) == 1}
    assert colors[0.9] == figures.INK and colors[0.7] == figures.MUTED


def test_robustness_runs_from_clean_to_the_severest():
    def row(value):
        return {"roc_auc": {"value": value, "low": 0.4, "high": 0.9}}

    table = {
        "clean": row(0.8),
        "jpeg": {"90": row(0.75), "30": row(0.6)},
        "h264": {"23": {"roc_auc": {"value": None, "low": None, "high": None}}},
    }
    first, second = score_figures.plot_robustness(table).axes
    assert (first.get_title(loc="left"), first.get_xlabel()) == ("JPEG", "quality")
    assert [label.get_text() for label in first.get_xticklabels()] == ["clean", "90", "30"]
    curve = next(x for x in first.lines if x.get_marker() == "o")
    assert list(curve.get_ydata()) == [0.8, 0.75, 0.6]
    assert np.isnan(next(x for x in second.lines if x.get_marker() == "o").get_ydata()[1])


def test_heat_maps_stand_beside_their_faces_in_the_colour_of_the_truth():
    face = np.zeros((4, 4, 3), np.uint8)
    groups = {"found": [(face, face + 9, "FAKE", "0.93")], "empty": []}
    figure = figures.plot_heat_maps(groups)
    shown = [ax for ax in figure.axes if ax.images]
    assert shown[0].get_title(loc="left") == "0.93"
    assert to_hex(shown[0].spines["left"].get_edgecolor()) == figures.COLORS["FAKE"].lower()
    assert int(shown[1].images[0].get_array().max()) == 9
    legend_words = [label.get_text() for label in shown[-1].get_xticklabels()]
    assert legend_words == ["speaks for REAL", "neither", "for FAKE"]
    with pytest.raises(ValueError, match="no face"):
        figures.plot_heat_maps({"empty": []})


def test_gallery_shows_frames_and_neighbours_of_each_video():
    face = np.zeros((4, 4, 3), np.uint8)
    entry = {
        "title": "REAL, judged 0.90",
        "label": "REAL",
        "frames": [(face, "P(FAKE) 0.90")],
        "neighbours": [(face, "train: FAKE", "FAKE")],
    }
    figure = figures.plot_gallery([entry, {**entry, "frames": [(face, "a"), (face, "b")]}])
    shown = [ax.get_title(loc="left") for ax in figure.axes if ax.images]
    assert shown == ["P(FAKE) 0.90", "train: FAKE", "a", "b", "train: FAKE"]
    with pytest.raises(ValueError, match="no video"):
        figures.plot_gallery([])


def test_image_grid_keeps_order_titles_and_blanks_the_rest():
    images = [np.full((4, 4, 3), i, np.uint8) for i in range(3)]
    figure = figures.plot_image_grid(images, ["p", "q", "r"], columns=2, colors=["#ff0000"] * 3)
    shown = [ax for ax in figure.axes if ax.images]
    assert [int(ax.images[0].get_array().max()) for ax in shown] == [0, 1, 2]
    assert [ax.get_title(loc="left") for ax in shown] == ["p", "q", "r"]
    assert not figure.axes[3].axison
    assert to_hex(shown[0].spines["left"].get_edgecolor()) == "#ff0000"


@pytest.mark.parametrize("titles", [["one"], []])
def test_image_grid_refuses_titles_of_another_length(titles):
    with pytest.raises(ValueError, match="2 images"):
        figures.plot_image_grid([np.zeros((2, 2, 3))] * 2, titles)


def test_image_grid_and_pairs_refuse_nothing():
    with pytest.raises(ValueError, match="no image"):
        figures.plot_image_grid([])
    with pytest.raises(ValueError, match="no pair"):
        figures.plot_pairs([])


def test_pairs_put_real_left_of_fake():
    figure = figures.plot_pairs([(np.zeros((2, 2, 3)), np.ones((2, 2, 3)), "swap")])
    titles = [ax.get_title(loc="left") for ax in figure.axes]
    assert titles == ["REAL", "FAKE"]
    assert [float(ax.images[0].get_array().max()) for ax in figure.axes] == [0, 1]


@pytest.fixture
def history():
    return pd.DataFrame(
        {"epoch": [1, 2, 3], "train_loss": [0.7, 0.5, 0.3], "val_loss": [0.6, 0.5, 0.55],
         "val_auc": [0.6, 0.8, 0.75]}
    )  # fmt: skip


def test_history_marks_the_epoch_of_the_best_val_auc(history):
    loss, auc = score_figures.plot_history(history)
    np.testing.assert_array_equal(line(loss, "train").get_ydata(), [0.7, 0.5, 0.3])
    assert line(loss, "kept").get_label() == "kept: 0.500, epoch 2"
    assert line(auc, "kept").get_label() == "kept: 0.800, epoch 2"


def test_history_marks_the_epoch_that_is_given_and_bears_undefined_auc(history):
    history["val_auc"] = np.nan
    loss, _ = score_figures.plot_history(history, best_epoch=3)
    assert line(loss, "kept").get_label() == "kept: 0.550, epoch 3"
    loss, _ = score_figures.plot_history(history)
    assert not any("kept" in text for text in legend(loss))


def test_confusion_shows_counts_and_row_shares():
    ax = score_figures.plot_confusion([[3, 1], [2, 8]], title="Test videos")
    assert texts(ax) == [
        "3\n75.0% of REAL", "1\n25.0% of REAL", "2\n20.0% of FAKE", "8\n80.0% of FAKE",
    ]  # fmt: skip
    assert ax.get_title(loc="left") == "Test videos: n = 14"


def test_confusion_without_a_row_does_not_divide_by_zero():
    ax = score_figures.plot_confusion([[0, 0], [1, 1]])
    assert texts(ax)[0] == "0\n0.0% of REAL"


def test_roc_holds_the_curve_the_auc_and_the_operating_point():
    ax = score_figures.plot_roc(
        Y_TRUE, Y_SCORE, interval={"value": 0.833, "low": 0.5, "high": 1.0}, threshold=0.5
    )
    assert line(ax, "model").get_label() == "model (AUC 0.833, 0.500 to 1.000)"
    point = line(ax, "threshold")
    np.testing.assert_allclose([point.get_xdata()[0], point.get_ydata()[0]], [0.5, 2 / 3])
    assert "5 test videos (2 REAL, 3 FAKE)" in ax.get_title(loc="left")


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


def test_calibration_bins_hold_equal_counts():
    ax = score_figures.plot_calibration([0, 1, 0, 1], [0.1, 0.3, 0.6, 0.8], bins=2)
    np.testing.assert_allclose(line(ax, "2 bins").get_xdata(), [0.2, 0.7])
    np.testing.assert_allclose(line(ax, "2 bins").get_ydata(), [0.5, 0.5])


def test_calibration_shows_before_and_after_the_temperature():
    ax = score_figures.plot_calibration(
        [0, 1, 0, 1], [0.1, 0.3, 0.6, 0.8], before=[0.0, 0.2, 0.7, 0.9], bins=2
    )
    before = line(ax, "before the temperature, 2 bins of equal count")
    np.testing.assert_allclose(before.get_xdata(), [0.1, 0.8])
    np.testing.assert_allclose(line(ax, "after, 2 bins of equal count").get_xdata(), [0.2, 0.7])


def test_plots_draw_on_the_axes_that_are_given(index):
    _, ax = plt.subplots()
    assert figures.plot_split(index, ax=ax) is ax
    assert score_figures.plot_roc(Y_TRUE, Y_SCORE, ax=ax) is ax


def test_learning_rate_is_drawn_over_epochs():
    ax = figures.plot_learning_rate([0.1, 0.2, 0.1, 0.0], steps_per_epoch=2)
    (line,) = ax.lines
    assert line.get_xdata().tolist() == [0, 0.5, 1, 1.5]
    assert line.get_ydata().tolist() == [0.1, 0.2, 0.1, 0.0]
    assert ax.get_title(loc="left") == "Learning rate, 4 steps"


@pytest.mark.parametrize("n", [0, 2])
def test_detections_show_a_box_and_a_crop_a_face(n):
    crop = Image.new("RGB", (16, 16))
    faces = [SimpleNamespace(box=(10 * i, 5, 10 * i + 8, 20), probability=0.9, crop=crop)
             for i in range(n)]  # fmt: skip
    axes = figures.plot_detections(Image.new("RGB", (64, 36)), faces).axes
    assert axes[0].get_title(loc="left") == "64 × 36 pixels"
    assert [box.get_bbox().extents.tolist() for box in axes[0].patches] == [
        [10 * i, 5, 10 * i + 8, 20] for i in range(n)
    ]
    assert [ax.get_title(loc="left") for ax in axes[1:] if ax.axison] == ["P(face) 0.90"] * n
