"""Every figure of metrics.json again, from the prediction tables by scikit-learn alone.

Intervals too: scikit-learn's functions on the rows of each resample, one after the other.
"""

import json

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import brentq
from scipy.special import expit
from scipy.stats import binomtest
from sklearn import metrics as sk

from tools.run import DEMO
from utils.run.artifacts import TEXT_COLUMNS, read_json

TEXT = dict.fromkeys(TEXT_COLUMNS, str)
#: How many resamples the demo asks for.
RESAMPLES = json.loads(DEMO.read_text())["04_evaluate"]["RESAMPLES"]
#: Factors on either side of what is best, and it.
SLIGHTLY = np.array([0.99, 1, 1.01])


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


def resamples(groups, n=RESAMPLES, seed=0):
    """The rows of each resample: all those of a source as often as it is drawn."""
    names = sorted(set(groups))
    rows = [np.flatnonzero(np.asarray(groups) == name) for name in names]
    for draw in np.random.default_rng(seed).integers(0, len(names), (n, len(names))):
        yield np.concatenate([rows[k] for k in draw])


def ends(values):
    """The interval of what the resamples gave; nan where one did not define it."""
    values = np.array(values, float)
    values = values[~np.isnan(values)]
    return np.quantile(values, [0.025, 0.975]) if 2 * len(values) >= RESAMPLES else (None, None)


def auc(y_true, y_score):
    return sk.roc_auc_score(y_true, y_score) if 0 < np.mean(y_true) < 1 else np.nan


def balanced(y_true, y_pred):
    return sk.balanced_accuracy_score(y_true, y_pred) if 0 < np.mean(y_true) < 1 else np.nan


def recall(y_true, y_pred):
    return sk.recall_score(y_true, y_pred) if np.any(y_true) else np.nan


def mean_of_the_sure(x):
    fake, real = x[x > np.log(4)], x[x < -np.log(4)]
    if len(fake) > 0.4 * len(x):
        return fake.mean()
    return real.mean() if len(real) > 0.9 * len(x) else x.mean()


#: From the calibrated logits of a video, in rising order, to its own.
POOLS = {
    "mean_logit": np.mean,
    "median": np.median,
    "trimmed_mean": lambda x: x[int(0.2 * len(x)) : len(x) - int(0.2 * len(x))].mean(),
    "top_third": lambda x: x[-max(1, len(x) // 3) :].mean(),
    "confident": mean_of_the_sure,
}


def judged(crops, logits, how):
    """One row a video with `logit`, `y_true` and `source`, in the order of its first crop.

    Its logit is the highest of the people who decide; where none of them is left, of all.
    """
    video = ["dataset", "video"]
    crops = crops.assign(logit=logits)
    deciding = crops[crops["decides"] == crops.groupby(video)["decides"].transform("max")]
    people = deciding.groupby([*video, "track"], sort=False, dropna=False)
    pooled = people["logit"].agg(lambda x: POOLS[how](np.sort(x)))
    groups = crops.groupby(video, sort=False)
    return pd.DataFrame(
        {
            "logit": pooled.groupby(video, sort=False).max(),
            "y_true": (groups["label"].first() == "FAKE").astype(int),
            "source": groups["source"].first(),
        }
    ).reindex(groups.size().index)


def again(score, y_true, given, drawn):
    """A score on all rows, and on those of each resample."""
    y_true, given = np.asarray(y_true), np.asarray(given)
    return score(y_true, given), np.array([score(y_true[k], given[k]) for k in drawn])


def assert_row(found, value, resampled):
    """A value and its interval, where it was resampled, are those that were computed again."""
    low, high = ends(resampled) if len(resampled) else (found["low"], found["high"])
    for name, expected in {"value": value, "low": low, "high": high}.items():
        assert found[name] == (None if expected is None else pytest.approx(expected)), name


def assert_scores(found, videos, threshold, drawn):
    """AUC, and what follows from the threshold, of a table of `judged`; both are returned."""
    y_true, y_pred = videos["y_true"], expit(videos["logit"]) >= threshold
    pair = again(auc, y_true, videos["logit"], drawn), again(balanced, y_true, y_pred, drawn)
    assert_row(found["roc_auc"], *pair[0])
    assert_row(found["balanced_accuracy"], *pair[1])
    if "recall" in found:
        assert_row(found["recall"], *again(recall, y_true, y_pred, drawn))
        assert_row(found["specificity"], *again(recall, 1 - y_true, ~y_pred, drawn))
    return pair


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
    table = crops if level == "frame" else videos
    y_true, y_score = part_of(table)
    scores = recompute(y_true, y_score, metrics["threshold"])
    assert scores.keys() == metrics[level].keys()
    for name, value in scores.items():
        # The equal error rate is where a line crosses: on a step of the curve any x is a root.
        row, tolerance = metrics[level][name], 1e-6 if name == "eer" else 1e-9
        assert row["value"] == pytest.approx(value, abs=tolerance), name
    matrix = sk.confusion_matrix(y_true, y_score >= metrics["threshold"]).tolist()
    assert metrics["confusion"][level] == matrix
    sources = table.loc[table["split"] == "test", "source"].nunique()
    counts = {"FAKE": y_true.sum(), "REAL": (1 - y_true).sum(), "sources": sources}
    assert metrics["n"][level] == counts | {"drawn": sources}


def test_every_interval(metrics, crops, videos):
    for level, table in (("frame", crops), ("video", videos)):
        y_true, y_score = part_of(table)
        groups, threshold = table.loc[table["split"] == "test", "source"], metrics["threshold"]
        drawn = pd.DataFrame(
            recompute(y_true[rows], y_score[rows], threshold) for rows in resamples(groups)
        )
        for name, column in drawn.items():
            row, tolerance = metrics[level][name], 1e-6 if name == "eer" else 1e-9
            assert (row["low"], row["high"]) == pytest.approx(ends(column), abs=tolerance), name


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
    groups = rows["source"]
    sure, right = rows["decision"] != "UNSURE", rows["decision"] == rows["label"]
    sure, right = sure.to_numpy(), right.to_numpy()
    drawn = list(resamples(groups))
    assert_row(found["coverage"], sure.mean(), [sure[k].mean() for k in drawn])
    wrong = [1 - right[k][sure[k]].mean() if sure[k].any() else np.nan for k in drawn]
    assert_row(found["error"], error, wrong)


def calibrated(logits, row):
    """Log odds of FAKE."""
    return logits / row["temperature"] + row["offset"]


def test_what_was_chosen_on_val(metrics, crops, videos):
    val = crops[crops["split"] == "val"]
    logits, y_true = val["logit"].to_numpy(), (val["label"] == "FAKE").to_numpy(int)
    temperature, offset = metrics["temperature"], metrics["offset"]
    loss = [sk.log_loss(y_true, expit(logits / t + offset)) for t in temperature * SLIGHTLY]
    assert loss[1] == min(loss)
    for other in (offset - 0.05, offset + 0.05):
        assert sk.log_loss(y_true, expit(logits / temperature + other)) > loss[1]
    assert metrics["prior"] == pytest.approx(y_true.mean())
    y_true, y_score = part_of(videos, "val")
    cuts = [*(np.unique(y_score) + 1e-12)]
    rates = {t: sk.recall_score(y_true, y_score >= t) for t in cuts}
    alarms = {t: 1 - sk.recall_score(y_true, y_score >= t, pos_label=0) for t in cuts}
    best = {
        "balanced_accuracy": max(rates[t] - alarms[t] for t in cuts),
        "eer": max(-abs(1 - rates[t] - alarms[t]) for t in cuts),
        "fpr": max(rates[t] for t in cuts if alarms[t] <= metrics["rule_targets"]["fpr_target"]),
        "cost": max(np.mean((y_score >= t) == y_true) for t in cuts),
    }
    for rule, row in metrics["rules"].items():
        y_pred = y_score >= row["threshold"]
        found = sk.recall_score(y_true, y_pred)
        false = 1 - sk.recall_score(y_true, y_pred, pos_label=0)
        reached = {
            "balanced_accuracy": found - false,
            "eer": -abs(1 - found - false),
            "fpr": found if false <= metrics["rule_targets"]["fpr_target"] else np.nan,
            "cost": np.mean(y_pred == y_true),
        }
        assert reached[rule] == pytest.approx(best[rule])
    decided = videos[(videos["split"] == "val") & (videos["decision"] != "UNSURE")]
    wrong = int((decided["decision"] != decided["label"]).sum())
    bound = binomtest(wrong, len(decided)).proportion_ci(0.9, "exact").high  # 95% on one side
    assert metrics["abstention"]["upper"] == pytest.approx(bound)


def test_which_aggregation_val_chose(metrics, crops):
    val = crops[crops["split"] == "val"]
    found = {row["how"]: row for row in metrics["aggregations"]}
    assert found.keys() == POOLS.keys()
    for how, row in found.items():
        pooled = judged(val, calibrated(val["logit"], metrics), how)
        y_true, logit = pooled["y_true"], pooled["logit"]
        assert row["roc_auc"] == pytest.approx(sk.roc_auc_score(y_true, logit))
        assert row["log_loss"] == pytest.approx(sk.log_loss(y_true, expit(logit)))
    assert metrics["aggregation"] == min(found.values(), key=lambda row: row["log_loss"])["how"]


def test_calibration_before_and_after(metrics, crops, videos):
    stages = {"videos_after": part_of(videos)}
    rows = crops[crops["split"] == "test"]
    y_true = (rows["label"] == "FAKE").to_numpy(int)
    stages["crops_before"] = y_true, expit(rows["logit"].to_numpy())
    stages["crops_after"] = y_true, expit(calibrated(rows["logit"], metrics).to_numpy())
    assert metrics["calibration"].keys() == stages.keys()
    for stage, (y_true, y_score) in stages.items():
        found = metrics["calibration"][stage]
        assert found["log_loss"] == pytest.approx(sk.log_loss(y_true, y_score))
        assert found["brier"] == pytest.approx(sk.brier_score_loss(y_true, y_score))
        assert found["ece"] == pytest.approx(calibration_error(y_true, y_score))


def test_baselines(demo, metrics, crops, videos):
    index = pd.read_csv(demo / "index.csv", dtype=TEXT)
    trained_on = {"frame": index, "video": index.drop_duplicates(["dataset", "video"])}
    for level, table in (("frame", crops), ("video", videos)):
        y_true, _ = part_of(table)
        train = trained_on[level][trained_on[level]["split"] == "train"]
        constant = np.full(len(y_true), (train["label"] == "FAKE").mean())
        expected = recompute(y_true, constant, 0.5)
        assert metrics["baselines"]["majority"][level] == pytest.approx(expected)
    test, found = videos[videos["split"] == "test"], metrics["baselines"]
    drawn = list(resamples(test["source"]))
    blind = again(auc, y_true, test["zero_pixel"], drawn)
    assert_row(found["zero_pixel"]["roc_auc"], *blind)
    ours = again(auc, y_true, test["score"], drawn)
    difference = found["zero_pixel"]["roc_auc_difference"]
    assert_row(difference, ours[0] - blind[0], ours[1] - blind[1])
    luck, rng = found["shuffled_labels"]["roc_auc"], np.random.default_rng(1)
    by_luck = [sk.roc_auc_score(rng.permutation(y_true), test["score"]) for _ in range(4000)]
    assert luck["value"] == pytest.approx(np.mean(by_luck), abs=0.02)
    assert (luck["low"], luck["high"]) == pytest.approx(ends(by_luck), abs=0.03)


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
            if not 0 < y_true.mean() < 1:
                assert row["roc_auc"]["value"] is None
                continue
            if rows["source"].nunique() < 2:  # nothing to resample
                assert row["roc_auc"]["value"] == pytest.approx(auc(y_true, rows["score"]))
                assert row["roc_auc"]["low"] is row["roc_auc"]["high"] is None
                continue
            drawn = list(resamples(rows["source"]))
            y_pred = rows["score"] >= metrics["threshold"]
            assert_row(row["roc_auc"], *again(auc, y_true, rows["score"], drawn))
            assert_row(row["balanced_accuracy"], *again(balanced, y_true, y_pred, drawn))


def test_robustness_from_the_logits_of_each_condition(metrics, crops):
    how, threshold = metrics["aggregation"], metrics["threshold"]
    corrupted = crops[crops.filter(regex="^logit_jpeg").notna().all(axis=1)]
    scores = calibrated(corrupted.filter(regex="^logit"), metrics)
    videos = judged(corrupted, scores["logit"], how)
    drawn = list(resamples(videos["source"]))
    found = metrics["robustness"]["clean"]
    assert (found["n"], found["sources"]) == (len(videos), videos["source"].nunique())
    _, before = assert_scores(found, videos, threshold, drawn)
    conditions = 0
    for name, rows in metrics["robustness"].items():
        for severity, found in rows.items() if name != "clean" else ():
            videos = judged(corrupted, scores[f"logit_{name}_{severity}"], how)
            hardest = severity == list(rows)[-1]  # of the others no interval: they take a minute
            _, after = assert_scores(found, videos, threshold, drawn if hardest else [])
            drops = before[1] - after[1] if hardest else []
            assert_row(found["drop"], before[0] - after[0], drops)
            conditions += 1
    assert conditions == 25


def test_further_models_and_data_sets(control):
    """The control's report: the demo's model beside it, and the demo's faces as a further set."""
    metrics = read_json(control, "metrics.json")
    crops = pd.read_csv(control / "predictions.csv", dtype=TEXT)
    test = crops[crops["split"] == "test"]
    own, demo = metrics["models"]["this model"], metrics["models"]["demo"]
    pair = []
    for row, column in ((own, "logit"), (demo, "logit_model_demo")):
        videos = judged(test, calibrated(test[column], row), row["aggregation"])
        drawn = list(resamples(videos["source"]))
        of_auc, _ = assert_scores(row, videos, row["threshold"], drawn)
        pair.append(of_auc)
    (a, drawn_a), (b, drawn_b) = pair
    assert_row(demo["roc_auc_difference"], a - b, drawn_a - drawn_b)

    extra = pd.read_csv(control / "extra_predictions.csv", dtype=TEXT)
    index = pd.read_csv(control / "index.csv", dtype=TEXT)
    assert not {*index.loc[index["split"] == "train", "source"]} & {*extra["source"]}
    for row, crops in zip(metrics["generalisation"], (test, extra), strict=True):
        videos = judged(crops, calibrated(crops["logit"], metrics), metrics["aggregation"])
        n_fake, sources = videos["y_true"].sum(), videos["source"].nunique()
        assert (row["REAL"], row["FAKE"]) == (len(videos) - n_fake, n_fake)
        assert row["sources"] == sources
        assert_scores(row, videos, metrics["threshold"], list(resamples(videos["source"])))
