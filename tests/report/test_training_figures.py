"""What 02 and 03 draw of augmentation and of a run."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.patches import Rectangle

from utils.report.figures import plot_before_after
from utils.report.score_figures import live_history


def test_statistics_before_and_after_share_their_bins():
    before = pd.DataFrame({"brightness": np.linspace(0.2, 0.4, 40), "contrast": 0.1})
    after = before + 0.2
    figure = plot_before_after(before, after, ["brightness"])
    (ax,) = figure.axes
    assert ax.get_xlabel() == "Brightness"
    assert "Train, n = 40 crops" in (ax.get_title(), ax.get_title(loc="left"))
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["before", "after"]
    bars = [patch for patch in ax.patches if isinstance(patch, Rectangle)]
    heights = {round(bar.get_x(), 3): bar.get_height() for bar in bars if bar.get_height()}
    assert min(heights) == pytest.approx(0.4, abs=0.02)  # those after
    plt.close(figure)


def test_live_curves_replace_what_is_shown_and_leave_no_figure_open():
    shown = []

    class Handle:
        update = staticmethod(shown.append)

    history = pd.DataFrame(
        {"epoch": [1, 2], "train_loss": [0.7, 0.5], "val_loss": [0.6, 0.55], "val_auc": [0.6, 0.7]}
    )
    draw = live_history(Handle())
    draw(history.head(1))
    draw(history)
    assert [len(figure.axes[0].lines[0].get_xdata()) for figure in shown] == [1, 2]
    assert not set(plt.get_fignums()) & {figure.number for figure in shown}
