"""Figures go to files and below their cell, and leave nothing open."""

import matplotlib.pyplot as plt
import pytest
from PIL import Image

from utils.report.figures import show_figures


@pytest.fixture(autouse=True)
def closed():
    plt.close("all")
    yield
    plt.close("all")


def drawn():
    """An Axes, a Figure, and a picture that there is no reason for any more."""
    yield "axes", plt.subplots(figsize=(2, 1))[1]
    yield "figure", plt.figure(figsize=(1, 1))
    yield "gone", None


@pytest.mark.parametrize("show", [True, False])
def test_figures_are_saved_shown_and_closed_and_stale_ones_removed(tmp_path, monkeypatch, show):
    open_at_show = []
    monkeypatch.setattr(plt, "show", lambda: open_at_show.append(len(plt.get_fignums())))
    folder = tmp_path / "figures"
    folder.mkdir()
    (folder / "gone.png").write_bytes(b"of an earlier run")
    show_figures(drawn(), folder, show=show)
    assert sorted(path.name for path in folder.iterdir()) == ["axes.png", "figure.png"]
    for path in folder.iterdir():
        Image.open(path).verify()
    assert plt.get_fignums() == []
    assert open_at_show == ([1, 1] if show else [])  # each is made, shown and closed by itself


def test_part_of_a_figure_saves_the_whole(tmp_path):
    figure = plt.figure(figsize=(2, 1))
    left, right = figure.subfigures(1, 2)
    right.subplots()
    show_figures([("part", left.subplots())], tmp_path, show=False)
    assert Image.open(tmp_path / "part.png").width > 150
    assert plt.get_fignums() == []


def test_picture_that_cannot_be_drawn_leaves_the_old_one(tmp_path):
    figure = plt.figure()
    figure.text(0, 0, r"$\\frac{$")  # mathtext that does not parse
    (tmp_path / "a.png").write_bytes(b"old")
    with pytest.raises(ValueError):
        show_figures([("a", figure)], tmp_path, show=False)
    assert (tmp_path / "a.png").read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
