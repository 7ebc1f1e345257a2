"""Figures of data, faces and files, tested by their data and labels."""

from types import SimpleNamespace

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from utils.report import figures, score_figures


@pytest.fixture(autouse=True)
def _theme():
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


def test_names_of_data_sets_are_short_and_literal(index):
    both = pd.concat([index, index.assign(dataset="a$b$ " + 40 * "c")])
    names = [label.get_text() for label in figures.plot_class_balance(both).get_yticklabels()]
    assert names[-1].startswith(r"a\$b\$ ccc") and len(names[-1].split("\n")[0]) <= 26


def test_counts_per_video_separate_crops_from_frames(index):
    ax = figures.plot_counts_per_video(index)
    names = [label.get_text() for label in ax.get_yticklabels()]
    assert names == ["REAL crops", "FAKE crops", "REAL frames", "FAKE frames"]
    dots = [sorted(dots.get_offsets()[:, 0]) for dots in ax.collections]
    assert dots == [[2], [1, 3], [2], [1, 2]]
    medians = {float(line.get_ydata()[0]): float(line.get_xdata()[0])
               for line in ax.lines if line.get_marker() == "|"}  # fmt: skip
    assert [medians[y] for y in sorted(medians)] == [2, 2, 2, 1.5]


def test_a_class_without_a_video_keeps_its_row(index):
    ax = figures.plot_counts_per_video(index[index["label"] == "FAKE"])
    low, high = sorted(ax.get_ylim())
    shown = [
        label.get_text() for label in ax.get_yticklabels() if low < label.get_position()[1] < high
    ]
    assert shown == ["REAL crops", "FAKE crops", "REAL frames", "FAKE frames"]


def test_feature_is_scaled_within_each_class():
    table = pd.DataFrame({"size": [1, 1, 2, 2, 2, 2, np.nan], "label": ["REAL"] * 2 + ["FAKE"] * 5})
    ax = figures.plot_feature_by_class(table, "size", label="Size (px)")
    totals = [patch.get_data().values.sum() for patch in ax.patches]
    np.testing.assert_allclose(totals, 1)
    assert ax.get_xlabel() == "Size (px)"
    assert legend(ax) == ["REAL (n = 2, median 1)", "FAKE (n = 4, median 2)"]


def test_crops_of_one_width_have_no_half_pixels_below():
    table = pd.DataFrame({"width": [160] * 4, "label": ["REAL", "FAKE"] * 2})
    ax = figures.plot_feature_by_class(table, "width")
    low, high = ax.get_xlim()
    assert [tick for tick in ax.get_xticks() if low <= tick <= high] == [160]


def test_split_counts_videos_and_names_sources(index):
    ax = figures.plot_split(index)
    assert [bar.get_height() for bar in ax.patches] == [1, 0, 1, 1]
    names = [label.get_text() for label in ax.get_xticklabels()]
    assert names == ["train\n1 sources", "test\n1 sources"]
    assert ax.get_title(loc="left") == "The split: 3 videos, 2 sources"  # by whatever it was made


def test_missing_column_is_named(index):
    with pytest.raises(KeyError, match="source"):
        figures.plot_split(index.drop(columns="source"))


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
    with pytest.raises(ValueError, match="nothing to draw"):
        figures.plot_heat_maps({"empty": []})


def test_gallery_shows_crops_and_neighbours_of_each_video():
    face = np.zeros((4, 4, 3), np.uint8)
    entry = {
        "title": "REAL, judged 0.90",
        "label": "REAL",
        "crops": [(face, "P(FAKE) 0.90")],
        "neighbours": [(face, "train: FAKE", "FAKE")],
    }
    figure = figures.plot_gallery([entry, {**entry, "crops": [(face, "a"), (face, "b")]}])
    shown = [ax.get_title(loc="left") for ax in figure.axes if ax.images]
    assert shown == ["P(FAKE) 0.90", "train: FAKE", "a", "b", "train: FAKE"]
    with pytest.raises(ValueError, match="nothing to draw"):
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
        figures.plot_image_grid([np.zeros((2, 2, 3))] * 2, titles, columns=2, colors=["red"] * 2)


def test_image_grid_refuses_nothing():
    with pytest.raises(ValueError, match="nothing to draw"):
        figures.plot_image_grid([], [], columns=2, colors=[])


def test_looks_are_drawn_by_class_each_with_its_unit():
    table = pd.DataFrame({column: [1.0, 2.0] for column in figures.FEATURES})
    drawn = figures.plot_looks(table.assign(label=["REAL", "FAKE"])).axes
    assert [ax.get_xlabel() for ax in drawn] == list(figures.FEATURES.values())
    assert all(len(legend(ax)) == 2 for ax in drawn)


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


def test_people_have_a_row_of_crops_each_with_its_maps_below():
    face = np.zeros((4, 4, 3), np.uint8)
    rows = [("Person 1", "FAKE", [face] * 2, ["a", "b"]), ("Person 2", "UNSURE", [face], ["c"])]
    figure = figures.plot_people(rows, maps=[[face + 9] * 2, [face + 9]], title="clip.mp4")
    shown = [ax for ax in figure.axes if ax.images]
    assert [ax.get_title(loc="left") for ax in shown] == ["a", "b", "", "", "c", ""]
    assert [int(ax.images[0].get_array().max()) for ax in shown] == [0, 0, 9, 9, 0, 9]
    assert to_hex(shown[4].spines["left"].get_edgecolor()) == figures.MUTED.lower()
    with pytest.raises(ValueError, match="zip"):
        figures.plot_people(rows, maps=[[face], [face]])
    with pytest.raises(ValueError, match="nothing to draw"):
        figures.plot_people([])


EVIL = "$\\frac{$ \x1b[2J _^ <b> \u202e.mp4"
FACE = np.zeros((4, 4, 3), np.uint8)


def draw_timeline(index):
    faces = pd.DataFrame({"time_s": [0.0, 1.0], "score": [0.1, 0.9], "track": 1})
    people = pd.DataFrame({"track": [1], "decides": [True]})
    return figures.plot_timeline(faces, people, threshold=0.5, band=(0.4, 0.6), title=EVIL)


ROW = {"n": 9, "small": True, "roc_auc": {"value": 0.7, "low": 0.6, "high": 0.8}}
DRAWN = {
    "balance": lambda index: figures.plot_class_balance(
        pd.concat([index, index.assign(dataset=EVIL)])
    ),
    "counts": lambda index: figures.plot_counts_per_video(index.assign(dataset=EVIL, video=EVIL)),
    "split": lambda index: figures.plot_split(index.assign(source=EVIL, dataset=EVIL)),
    "grid": lambda index: figures.plot_image_grid(
        [FACE] * 2, [EVIL, f"a\n{EVIL}"], columns=2, colors=["red"] * 2
    ),
    "heat maps": lambda index: figures.plot_heat_maps({EVIL: [(FACE, FACE, "REAL", EVIL)]}),
    "gallery": lambda index: figures.plot_gallery(
        [{"title": f"FAKE ({EVIL})", "label": "FAKE", "crops": [(FACE, EVIL)],
          "neighbours": [(FACE, EVIL, "REAL")]}]
    ),
    "timeline": draw_timeline,
    "people": lambda index: figures.plot_people([(EVIL, "FAKE", [FACE], [EVIL])], title=EVIL),
    "slices": lambda index: score_figures.plot_slices({EVIL: {EVIL: ROW}}),
    "robustness": lambda index: score_figures.plot_robustness({"clean": ROW, EVIL: {EVIL: ROW}}),
}  # fmt: skip


@pytest.mark.parametrize("what", DRAWN)
def test_a_hostile_name_stops_no_figure_and_is_drawn_as_it_is_written(index, what):
    drawn = DRAWN[what](index)
    figure = drawn if isinstance(drawn, Figure) else drawn.get_figure(root=True)
    figure.canvas.draw()  # mathtext would fail here
    said = "".join(text.get_text() for text in figure.findobj(Text))
    assert "\x1b" not in said and "\u202e" not in said
    assert (r"\$" in said) == (what not in ("counts", "split"))


def test_a_name_in_a_table_is_no_formula():
    table = pd.DataFrame({"$\\href{javascript:alert(1)}{x}$": ["$x$"]})
    assert "tex2jax_ignore" in table._repr_html_()
    assert "mathjax_ignore" in table.style.to_html() or "tex2jax_ignore" in table.style.to_html()
