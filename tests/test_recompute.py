"""Every figure of metrics.json again, from the prediction tables by scikit-learn alone."""

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq
from scipy.special import expit
from sklearn import metrics as sk

from utils.artifacts import TEXT_COLUMNS, read_json

TEXT = dict.fromkeys(TEXT_COLUMNS, str)


@pytest.fixture(scope="module")
def metrics(demo):
    return read_json(demo, "metrics.json")


@pytest.fixture(scope="module")
def crops(demo):
    return pd.read_csv(demo / "predictions.csv", dtype=TEXT)


@pytest.fixture(scope="module")
def videos(demo):
    return pd.read_csv(demo / "video_predictions.csv", dtype=TEXT)


def part_of(table, split="test"):
    rows = table[table["split"] == split]
    return (rows["label"] == "FAKE").to_numpy(int), rows["score"].to_numpy()


def calibration_error(y_true, y_score, weights=None):
    weights = np.ones(len(y_true)) if weights is None else weights
    part = np.minimum((y_score * 10).astype(int), 9)
    gaps = [abs((weights * (y_true - y_score))[part == k].sum()) for k in range(10)]
    return sum(gaps) / weights.sum()


def recompute(y_true, y_score, threshold):
    y_pred, even = y_score >= threshold, 1 / np.bincount(y_true)[y_true]
    fpr, tpr, _ = sk.roc_curve(y_true, y_score, drop_intermediate=False)
    pair, by_score = (y_true, y_pred), (y_true, y_score)
    return {
        "accuracy": sk.accuracy_score(*pair),
        "balanced_accuracy": sk.balanced_accuracy_score(*pair),
        "precision": sk.precision_score(*pair),
        "balanced_precision": sk.precision_score(*pair, sample_weight=even),
        "recall": sk.recall_score(*pair),
        "specificity": sk.recall_score(*pair, pos_label=0),
        "f1": sk.f1_score(*pair),
        "balanced_f1": sk.f1_score(*pair, sample_weight=even),
        "roc_auc": sk.roc_auc_score(*by_score),
        "average_precision": sk.average_precision_score(*by_score),
        "balanced_average_precision": sk.average_precision_score(*by_score, sample_weight=even),
        "log_loss": sk.log_loss(*by_score),
        "balanced_log_loss": sk.log_loss(*by_score, sample_weight=even),
        "brier": sk.brier_score_loss(*by_score),
        "balanced_brier": sk.brier_score_loss(*by_score, sample_weight=even),
        "ece": calibration_error(*by_score),
        "balanced_ece": calibration_error(*by_score, even),
        "eer": brentq(lambda x: x + np.interp(x, fpr, tpr) - 1, 0, 1, xtol=1e-12),
        "tpr_at_fpr_1": max(tpr[fpr <= 0.01]),
        "tpr_at_fpr_5": max(tpr[fpr <= 0.05]),
    }


@pytest.mark.parametrize("level", ["frame", "video"])
def test_every_score_and_the_confusion_matrix(level, metrics, crops, videos):
    y_true, y_score = part_of(crops if level == "frame" else videos)
    again = recompute(y_true, y_score, metrics["threshold"])
    assert again.keys() == metrics[level].keys()
    for name, value in again.items():
        # The equal error rate is where a line crosses: on a step of the curve any x is a root.
        row, tolerance = metrics[level][name], 1e-6 if name == "eer" else 1e-9
        assert row["value"] == pytest.approx(value, abs=tolerance), name
        assert row["low"] is None or row["low"] <= row["high"]
    matrix = sk.confusion_matrix(y_true, y_score >= metrics["threshold"]).tolist()
    assert metrics["confusion"][level] == matrix
    assert metrics["n"][level]["FAKE"] == y_true.sum()


def test_what_each_rule_does_on_val_and_test(metrics, videos):
    for rule in metrics["rules"].values():
        for split in ("val", "test"):
            y_true, y_score = part_of(videos, split)
            y_pred = y_score >= rule["threshold"]
            for name, value in {
                "recall": sk.recall_score(y_true, y_pred),
                "specificity": sk.recall_score(y_true, y_pred, pos_label=0),
                "balanced_accuracy": sk.balanced_accuracy_score(y_true, y_pred),
            }.items():
                assert rule[split][name] == pytest.approx(value, abs=1e-9)


def test_coverage_and_error_of_the_band(metrics, videos):
    for split, found in (("val", metrics["abstention"]), ("test", metrics["abstention"]["test"])):
        rows = videos[videos["split"] == split]
        decided = rows[rows["decision"] != "UNSURE"]
        coverage, error = (row["value"] if isinstance(row, dict) else row
                           for row in (found["coverage"], found["error"]))  # fmt: skip
        assert coverage == pytest.approx(len(decided) / len(rows))
        assert error == pytest.approx(1 - sk.accuracy_score(decided["label"], decided["decision"]))


def test_calibration_before_and_after(metrics, crops):
    rows = crops[crops["split"] == "test"]
    y_true = (rows["label"] == "FAKE").to_numpy(int)
    for stage, temperature in (("crops_before", 1.0), ("crops_after", metrics["temperature"])):
        y_score = expit(rows["logit"].to_numpy() / temperature)
        found = metrics["calibration"][stage]
        assert found["log_loss"] == pytest.approx(sk.log_loss(y_true, y_score))
        assert found["brier"] == pytest.approx(sk.brier_score_loss(y_true, y_score))
        assert found["ece"] == pytest.approx(calibration_error(y_true, y_score))


def test_baselines(metrics, videos):
    y_true, _ = part_of(videos)
    blind = videos.loc[videos["split"] == "test", "zero_pixel"]
    found = metrics["baselines"]
    assert found["zero_pixel"]["roc_auc"]["value"] == pytest.approx(sk.roc_auc_score(y_true, blind))
    majority = found["majority"]["video"]
    assert majority["roc_auc"] == majority["balanced_accuracy"] == 0.5
    assert majority["accuracy"] == pytest.approx(y_true.mean())  # FAKE is more frequent in train
    luck = found["shuffled_labels"]["roc_auc"]
    assert luck["low"] < 0.5 < luck["high"]


def test_slices(metrics, videos):
    test = videos[videos["split"] == "test"]
    groups = {"method": {}, "faces": dict(list(test.groupby("faces")))}
    for method in test.loc[test["label"] == "FAKE", "method"].unique():
        chosen = (test["label"] == "REAL") | (test["method"] == method)
        groups["method"][method] = test[chosen]
    for name in ("face_size", "brightness", "sharpness"):
        edges = [-np.inf, *test[name].quantile([1 / 3, 2 / 3]), np.inf]
        thirds = test.groupby(pd.cut(test[name], edges), observed=True)
        names = list(metrics["slices"].get(name, {}))
        groups[name] = dict(zip(names, (rows for _, rows in thirds), strict=True))
    for by, found in metrics["slices"].items():
        assert found.keys() == groups[by].keys()
        for name, row in found.items():
            rows = groups[by][name]
            y_true = rows["label"] == "FAKE"
            assert (row["REAL"], row["FAKE"]) == ((~y_true).sum(), y_true.sum())
            if 0 < y_true.mean() < 1:
                auc = sk.roc_auc_score(y_true, rows["score"])
                assert row["roc_auc"]["value"] == pytest.approx(auc)


def test_robustness_from_the_logits_of_each_condition(metrics, crops):
    if metrics["aggregation"] != "mean_logit":
        pytest.skip("this recomputation pools by the mean")
    keys, conditions = ["dataset", "video"], 0
    for name, rows in metrics["robustness"].items():
        for severity, found in rows.items() if name != "clean" else ():
            logits = crops.dropna(subset=f"logit_{name}_{severity}").groupby(keys)
            y_true = logits["label"].first() == "FAKE"
            mean = logits[f"logit_{name}_{severity}"].mean()
            y_pred = expit(mean / metrics["temperature"]) >= metrics["threshold"]
            clean = expit(logits["logit"].mean() / metrics["temperature"]) >= metrics["threshold"]
            assert found["roc_auc"]["value"] == pytest.approx(sk.roc_auc_score(y_true, mean))
            after, before = (sk.balanced_accuracy_score(y_true, x) for x in (y_pred, clean))
            assert found["balanced_accuracy"]["value"] == pytest.approx(after)
            assert found["drop"]["value"] == pytest.approx(before - after)
            conditions += 1
    assert conditions == 25


def test_share_of_maps_that_point_into_the_mask(metrics, crops):
    found = metrics["explanation"]["pointing"]
    known = crops.dropna(subset="heat_in_mask")
    assert found["n"] == len(known) > 0
    assert found["hit"]["value"] == pytest.approx(known["heat_in_mask"].mean())
    assert found["chance"]["value"] == pytest.approx(known["mask_share"].mean())
