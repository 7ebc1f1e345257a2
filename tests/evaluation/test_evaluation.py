"""What is chosen on val stays as it is; models and data sets are compared by it."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import expit
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score
from torchvision.transforms.functional import to_tensor

from utils.evaluation import judging
from utils.stats import decisions
from utils.stats.decisions import AGGREGATIONS, THRESHOLD_RULES, aggregate_videos, fit_temperature


def draw_predictions(sources=60, crops=4, shift=1.5, seed=0):
    """A REAL and a FAKE video a source, half of the sources val, half test."""
    rng = np.random.default_rng(seed)
    source, label, crop = np.indices((sources, 2, crops)).reshape(3, -1)
    logit = shift * (2 * label - 1) + rng.normal(0, 1, (sources, 2)).repeat(crops)
    return pd.DataFrame(
        {
            "dataset": "one",
            "video": [f"{s}_{k}" for s, k in zip(source, label, strict=True)],
            "frame": crop,
            "source": source.astype(str),
            "label": np.where(label, "FAKE", "REAL"),
            "split": np.where(source % 2, "val", "test"),
            "logit": logit + rng.normal(0, 1, len(logit)),
        }
    )


def halves(predictions):
    return (predictions[predictions["split"] == split] for split in ("val", "test"))


def test_decision_is_that_of_val_alone_and_follows_its_settings():
    val, test = halves(draw_predictions())
    decision = decisions.choose_decision(val, target_error=0.05)
    assert decision["temperature"] == fit_temperature(val["logit"], val["label"] == "FAKE")
    assert decision["aggregation"] in AGGREGATIONS
    assert decision["abstention"]["target"] == 0.05
    upside_down = pd.concat([val, test.assign(logit=-test["logit"])])
    again = decisions.choose_decision(upside_down[upside_down["split"] == "val"], target_error=0.05)
    assert again == decision
    fixed = decisions.choose_decision(val, aggregation="median", rule="eer")
    assert (fixed["aggregation"], fixed["rule"]) == ("median", "eer")


def test_auto_takes_the_lowest_log_loss_on_val():
    val, _ = halves(draw_predictions(seed=3))
    decision = decisions.choose_decision(val)
    losses = {}
    for how in AGGREGATIONS:
        videos = aggregate_videos(val, how=how, temperature=decision["temperature"])
        losses[how] = log_loss(videos["label"] == "FAKE", videos["score"])
    assert losses[decision["aggregation"]] == pytest.approx(min(losses.values()))


def test_videos_are_judged_by_the_frozen_decision():
    decision = {"temperature": 2.0, "threshold": 0.5, "aggregation": "mean_logit",
                "abstention": {"low": 0.4, "high": 0.6}}  # fmt: skip
    crops = pd.DataFrame({"video": ["a", "a", "b", "c"], "source": ["a", "a", "b", "c"],
                          "label": "REAL", "split": "test",
                          "logit": [1.0, 5.0, -4.0, 0.2]})  # fmt: skip
    videos = decisions.judge_videos(crops, decision)
    np.testing.assert_allclose(videos["score"], expit([1.5, -2.0, 0.1]))
    assert videos["decision"].tolist() == ["FAKE", "REAL", "UNSURE"]


def test_every_rule_is_chosen_on_val_and_read_on_test():
    val, test = (aggregate_videos(part) for part in halves(draw_predictions()))
    rules = judging.compare_rules(val, test, fpr_target=0.1, cost_ratio=2.0)
    assert tuple(rules) == THRESHOLD_RULES
    real = test[test["label"] == "REAL"]
    for row in rules.values():
        share = (real["score"] < row["threshold"]).mean()
        assert row["test"]["specificity"] == pytest.approx(share)
    assert rules["fpr"]["val"]["specificity"] >= 0.9


def test_effect_of_the_band_by_hand():
    videos = pd.DataFrame({"label": ["FAKE", "REAL", "REAL", "FAKE"], "source": list("abcd"),
                           "decision": ["FAKE", "FAKE", "UNSURE", "FAKE"]})  # fmt: skip
    effect = judging.abstention_effect(videos, n_resamples=50)
    assert effect["coverage"]["value"] == 0.75
    assert effect["error"]["value"] == pytest.approx(1 / 3)


def test_models_get_names_that_tell_them_apart(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name / "model").mkdir(parents=True)
        (tmp_path / name / "model" / "config.json").write_text("{}")
    folders = [str(tmp_path / "a"), str(tmp_path / "b" / "model"), str(tmp_path / "a" / "model")]
    named = judging.name_models(folders, taken=["b"])
    assert list(named) == ["a", "b_1", "a_1"]
    assert all((home / "config.json").is_file() for home in named.values())
    with pytest.raises(FileNotFoundError, match="holds no model"):
        judging.name_models([str(tmp_path)])


def test_a_model_is_compared_with_its_twin_and_with_noise():
    rows = draw_predictions()
    rows["logit_twin"] = 3 * rows["logit"]  # the same ranking
    rows["logit_noise"] = np.random.default_rng(1).normal(size=len(rows))
    columns = {"ours": "logit", "twin": "logit_twin", "noise": "logit_noise"}
    table = judging.compare_models(rows, columns, n_resamples=200)
    assert "roc_auc_difference" not in table["ours"]
    assert table["twin"]["roc_auc_difference"]["value"] == pytest.approx(0, abs=1e-12)
    assert table["twin"]["p_value"] == 1
    assert table["noise"]["roc_auc_difference"]["low"] > 0.1
    assert table["noise"]["p_value"] < 0.01


def test_generalisation_counts_and_scores():
    _, test = halves(draw_predictions())
    videos = aggregate_videos(test)
    row = judging.generalisation(videos, threshold=0.5, n_resamples=50)
    assert (row["REAL"], row["FAKE"], row["sources"]) == (30, 30, 30)
    auc = roc_auc_score(videos["label"] == "FAKE", videos["score"])
    assert row["roc_auc"]["value"] == pytest.approx(auc)


def test_calibration_before_and_after_is_that_of_scikit_learn():
    _, test = halves(draw_predictions())
    videos = aggregate_videos(test, temperature=2.0)
    table = judging.calibration_table(test, videos, temperature=2.0)
    y_true, logits = test["label"] == "FAKE", test["logit"]
    assert table["crops_before"]["brier"] == pytest.approx(brier_score_loss(y_true, expit(logits)))
    assert table["crops_after"]["log_loss"] == pytest.approx(log_loss(y_true, expit(logits / 2)))
    assert set(table["videos_after"]) == {"log_loss", "brier", "ece"}


@pytest.fixture
def faces(tmp_path):
    """A data set of crops: two real videos, a fake of each."""
    lines = ["filename,label,split,original"]
    for name, label, original in (("ra", "REAL", ""), ("rb", "REAL", ""),
                                  ("fa", "FAKE", "ra.mp4"), ("fb", "FAKE", "rb.mp4")):  # fmt: skip
        lines.append(f"{name}.mp4,{label},train,{original}")
        (tmp_path / "faces" / name).mkdir(parents=True)
        for frame in range(4):
            image = Image.new("RGB", (20, 20), (60 * frame, 20, 20))
            image.save(tmp_path / "faces" / name / f"{frame}.png")
    (tmp_path / "faces" / "metadata.csv").write_text("\n".join(lines))
    return tmp_path / "faces"


def test_extra_data_leaves_out_what_was_trained_on_and_thins_the_frames(faces):
    crops, left_out = judging.extra_crops(str(faces), frames=2, seen={"ra"}, progress=False)
    assert set(crops["video"]) == {"rb", "fb"} and left_out == 2
    assert (crops.groupby("video").size() == 2).all()
    assert (crops["split"] == "extra").all() and set(crops["source"]) == {"rb"}


def test_extra_data_that_was_all_trained_on_is_refused(faces):
    with pytest.raises(ValueError, match="EXTRA_DATA: every video of faces was trained on"):
        judging.extra_crops(str(faces), frames=0, seen={"ra", "rb"}, progress=False)


class RedSaysFake(torch.nn.Module):
    """The logit of FAKE is how red the image is."""

    def forward(self, images):
        red = images[:, 0].mean(dim=(1, 2))
        return torch.stack([torch.zeros_like(red), red], dim=1)


def test_further_data_is_judged_by_the_decision_as_it_stands(faces):
    decision = {
        "temperature": 0.5, "threshold": 0.5, "aggregation": "mean_logit",
        "abstention": {"low": 0.5, "high": 0.5},
    }  # fmt: skip
    row, crops = judging.judge_elsewhere(
        str(faces), RedSaysFake(), lambda image: to_tensor(image) * 2, decision, frames=2,
        seen={"ra"},
        batches={"device": torch.device("cpu"), "batch_size": 3, "num_workers": 0},
        n_resamples=20, seed=0,
    )  # fmt: skip
    assert (row["tested_on"], row["left_out"], row["REAL"], row["FAKE"]) == ("faces", 2, 1, 1)
    assert row["roc_auc"]["value"] == 0.5  # both videos hold the same pictures
    red = 60 * crops["frame"] / 255 * 2
    np.testing.assert_allclose(crops["logit"], red, atol=1e-5)
    np.testing.assert_allclose(crops["score"], expit(red / 0.5), atol=1e-5)
