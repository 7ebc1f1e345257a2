"""What a part of the results looks like: which figures, which numbers in which table."""

from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from matplotlib.axes import Axes
from PIL import Image
from sklearn.metrics import roc_auc_score

from tests.stats.test_decisions import draw_predictions
from utils.evaluation.results import OTHER
from utils.evaluation.showing import draw, tabulate
from utils.report.words import interval, number
from utils.stats.decisions import THRESHOLD_RULES
from utils.stats.metrics import METRICS

FILES = {"roc_auc": {"value": 0.55, "low": 0.5, "high": 0.6}}


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


@pytest.fixture(scope="module")
def results(evaluate):
    crops = draw_predictions()
    crops[f"{OTHER}twin"] = 2 * crops["logit"]
    ev = evaluate(crops, index=draw_predictions(seed=1).assign(split="train"))
    return replace(ev, files=FILES)


@pytest.fixture(scope="module")
def head(results):
    return results.headline()


def test_headline_is_drawn_in_six_figures_of_the_test_videos(results, head):
    drawn = {}
    for name, ax in draw(results, head):
        assert isinstance(ax, Axes)
        drawn[name] = ax
    assert list(drawn) == [
        *("confusion", "roc", "precision_recall", "scores", "calibration", "intervals")
    ]
    told = [text.get_text() for text in drawn["confusion"].texts]
    (tn, fp), (fn, tp) = head["confusion"]["video"]
    assert [int(text.splitlines()[0]) for text in told] == [tn, fp, fn, tp]
    assert "60 videos" in drawn["intervals"].get_title(loc="left") + drawn["intervals"].get_title()
    curve = max(drawn["roc"].lines, key=lambda line: len(line.get_xdata()))
    y_true = results.test["label"] == "FAKE"
    auc = roc_auc_score(y_true, results.test["score"])
    x, y = curve.get_xdata(), curve.get_ydata()
    area = sum((b - a) * (c + d) / 2 for a, b, c, d in zip(x, x[1:], y, y[1:]))
    assert area == pytest.approx(auc)


def test_only_what_is_there_is_drawn_and_of_an_empty_part_the_picture_goes(results, head):
    assert list(draw(results, {})) == []
    assert list(draw(results, {"slices": {}, "robustness": {}, "heat_maps": {}, "errors": []})) == [
        *(("slices", None), ("robustness", None), ("heat_maps", None), ("errors", None))
    ]
    ((name, figure),) = draw(results, results.slice_videos())
    assert name == "slices" and figure is not None


def test_gallery_heat_maps_and_history_are_drawn(results):
    face = Image.new("RGB", (9, 9))
    error = {"title": "FAKE (swap), judged 0.10", "label": "FAKE", "crops": [(face, "a")],
             "neighbours": [(face, "train: REAL", "REAL")]}  # fmt: skip
    parts = {"errors": [error], "heat_maps": {"FAKE, found": [(face, face, "FAKE", "0.9")]}}
    drawn = dict(draw(results, parts))
    assert list(drawn) == ["heat_maps", "errors"]
    assert drawn["errors"].subfigs[0].get_suptitle() == error["title"]
    epochs = [1, 2, 3]
    history = pd.DataFrame({"epoch": epochs, "train_loss": 0.5, "val_loss": 0.6, "val_auc": epochs})
    ((name, ax),) = draw(results, {"history": history})
    labels = [line.get_label() for line in ax.lines]
    assert name == "history" and any("epoch 2" in label for label in labels)  # the model's own


def test_scores_stand_in_a_table_with_their_intervals_and_the_majority(head):
    table = tabulate("scores", head)
    assert len(table) == len(METRICS)
    row = table.loc["ROC AUC"]
    assert row["videos"] == number(head["video"]["roc_auc"])
    assert row["crops: 95% interval"] == interval(head["frame"]["roc_auc"])
    assert row["videos: majority"] == "0.500"


def test_model_stands_beside_the_files_luck_and_further_models(results, head):
    table = tabulate("baselines", {**head, **results.compare_models()})
    assert table.index.tolist() == ["this model", "the files alone", "labels shuffled", "twin"]
    assert table["ROC AUC"].iloc[:2].tolist() == [number(head["video"]["roc_auc"]), "0.550"]
    assert table.loc["the files alone", "95% interval"] == "0.500 to 0.600"
    assert table.loc["twin", "this model less it"] == "0.000 to 0.000"
    alone = tabulate("baselines", head)
    assert alone.index.tolist() == ["this model", "the files alone", "labels shuffled"]


def test_rules_and_other_data_have_a_row_each(results):
    chosen = results.compare_rules()
    table = tabulate("rules", chosen)
    assert table.index.tolist() == list(THRESHOLD_RULES)
    assert table.loc["eer", "test: recall"] == number(chosen["rules"]["eer"]["test"]["recall"])
    assert table.loc["eer", "threshold"] == number(chosen["rules"]["eer"]["threshold"])
    rows, _ = results.judge_elsewhere([], frames=0)
    elsewhere = tabulate("elsewhere", rows)
    assert elsewhere.index.tolist() == ["its own test split"]
    assert elsewhere["ROC AUC"].item() == number(rows[0]["roc_auc"])
    assert elsewhere["95% interval"].item() == interval(rows[0]["roc_auc"])
    with pytest.raises(KeyError):
        tabulate("weather", rows)
