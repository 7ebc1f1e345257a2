"""What is chosen on val, and what it says of people and videos: hand values and properties."""

import json
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit, logit
from scipy.stats import binom
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from tests.stats.test_metrics import Y_SCORE, Y_TRUE, rows
from utils.run.artifacts import write_json
from utils.stats.decisions import (
    AGGREGATIONS,
    TEMPERATURE_RANGE,
    UNDECIDED,
    Decision,
    choose_abstention,
    choose_decision,
    choose_threshold,
    compare_aggregations,
    fit_calibration,
)

BAND = {"low": 0.4, "high": 0.6}
DECISION = Decision(2.0, 0.5, "balanced_accuracy", "mean_logit", abstention=BAND)
REAL, FAKE = -4.0, 4.0  # logits: scores 0.12 and 0.88 at temperature 2


# --- calibration ------------------------------------------------------------------------------


@pytest.mark.parametrize(("true_t", "true_b"), [(0.5, 0.0), (1.0, -1.5), (3.0, 0.7)])
def test_calibration_recovers_a_known_one(true_t, true_b):
    rng = np.random.default_rng(0)
    honest = rng.normal(0, 2, 40_000)
    y_true = (rng.random(40_000) < expit(honest)).astype(int)
    temperature, offset = fit_calibration((honest - true_b) * true_t, y_true)
    assert temperature == pytest.approx(true_t, rel=0.03)
    assert offset == pytest.approx(true_b, abs=0.04)


def test_calibration_is_scikit_learns_logistic_regression():
    y_true, y_score, _ = rows()
    logits = 5 * logit(y_score) - 2
    temperature, offset = fit_calibration(logits, y_true)
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logits[:, None], y_true)
    assert 1 / temperature == pytest.approx(model.coef_.item(), rel=1e-4)
    assert offset == pytest.approx(model.intercept_.item(), abs=1e-4)
    after = expit(logits / temperature + offset)
    assert after.mean() == pytest.approx(y_true.mean(), abs=1e-6)  # what an offset is for


def test_calibration_of_degenerate_logits():
    low, high = TEMPERATURE_RANGE
    assert fit_calibration([-1, 1], [0, 1])[0] == pytest.approx(low, rel=0.01)
    temperature, offset = fit_calibration([1, -1], [0, 1])
    assert temperature == pytest.approx(high, rel=0.01) and offset == pytest.approx(0, abs=1e-6)
    temperature, offset = fit_calibration([0, 0, 0, 0], [0, 1, 1, 1])
    assert temperature == 1 and offset == pytest.approx(logit(0.75), abs=1e-5)
    with pytest.raises(ValueError, match="FAKE"):
        fit_calibration([1, 2], [1, 1])
    with pytest.raises(ValueError, match="infinite"):
        fit_calibration([1, np.inf], [0, 1])


@pytest.mark.parametrize("prior", [0.001, 0.1, 0.9])
def test_a_prior_moves_the_offset_by_the_log_odds_of_both(prior):
    own = Decision(2.0, offset=0.4, prior=0.75, threshold=0.6)
    moved = own.at_prior(prior)
    assert moved.offset == pytest.approx(0.4 + logit(prior) - logit(0.75))
    assert replace(moved, offset=0.4, prior=0.75) == own
    # By Bayes: the same evidence, other shares of the classes before it was seen.
    before = own.score([-3.0, 0.5, 4.0])
    odds = before / (1 - before) / (0.75 / 0.25) * prior / (1 - prior)
    assert moved.score([-3.0, 0.5, 4.0]) == pytest.approx(odds / (1 + odds))
    assert own.at_prior(0.75) == own and Decision().at_prior(0.5).offset == 0


@pytest.mark.parametrize("prior", [-0.1, 0, 1, 74, float("nan"), "half"])
def test_a_prior_that_is_no_share_is_refused(prior):
    with pytest.raises(ValueError, match="PRIOR is"):
        Decision(prior=0.5).at_prior(prior)


# --- thresholds -------------------------------------------------------------------------------


def test_threshold_is_the_best_midpoint():
    # Cutting at 0.35 loses one REAL of three and no FAKE; at 0.75 one FAKE of two and no REAL.
    assert choose_threshold([0, 0, 1, 0, 1], [0.1, 0.3, 0.4, 0.7, 0.8]) == pytest.approx(0.35)


def test_threshold_weighs_classes_not_rows():
    # 0.15 gets 4 of 6 rows right and the one REAL row wrong; 0.55 gets 3 right, among them REAL.
    y_true, y_score = [1, 1, 1, 0, 1, 1], [0.1, 0.2, 0.25, 0.3, 0.8, 0.9]
    assert choose_threshold(y_true, y_score) == pytest.approx(0.55)


def test_equally_good_thresholds_take_the_one_closest_to_a_half():
    # 0.2 and 0.7 both reach 0.75; 0.45, the closest of all, only 0.5.
    assert choose_threshold([0, 1, 0, 1], [0.1, 0.3, 0.6, 0.8]) == pytest.approx(0.7)
    assert choose_threshold([0, 1, 0, 1], [0.2, 0.4, 0.7, 0.9]) == pytest.approx(0.3)


def test_threshold_matches_brute_force_on_ties():
    y_true, y_score, _ = rows(decimals=2)
    values = np.unique(y_score)
    middles = (values[1:] + values[:-1]) / 2
    best = max(sk.balanced_accuracy_score(y_true, y_score >= cut) for cut in middles)
    chosen = choose_threshold(y_true, y_score)
    assert sk.balanced_accuracy_score(y_true, y_score >= chosen) == pytest.approx(best)


def test_threshold_between_neighbouring_floats_still_parts_them():
    for low in (0.3, np.nextafter(0.3, 1)):  # their plain midpoints round up and down
        high = np.nextafter(low, 1)
        assert low < choose_threshold([0, 1], [low, high]) <= high


def test_threshold_refuses_one_class_and_unknown_rules():
    assert choose_threshold([0, 1], [0.9, 0.9]) == 0.5
    with pytest.raises(ValueError, match="balanced_accuracy"):
        choose_threshold(Y_TRUE, Y_SCORE, rule="youden")
    with pytest.raises(ValueError, match="both classes"):
        choose_threshold([0, 0], [0.1, 0.2])


# Cuts 0.2, 0.4, 0.6: alarms 2 of 3, 1, 0; missed 0 of 2, 0, 1.
RULE_TRUE, RULE_SCORE = [0, 0, 0, 1, 1], [0.1, 0.3, 0.5, 0.5, 0.7]


def test_threshold_rules_equal_hand_values():
    cut = {rule: choose_threshold(RULE_TRUE, RULE_SCORE, rule=rule) for rule in ("eer", "fpr")}
    assert cut["eer"] == pytest.approx(0.4)  # 1/3 against 0
    assert cut["fpr"] == pytest.approx(0.6)
    lax = choose_threshold(RULE_TRUE, RULE_SCORE, rule="fpr", fpr_target=0.4)
    assert lax == pytest.approx(0.4)
    for ratio, expected in ((0.5, 0.6), (2.0, 0.4)):
        cut = choose_threshold(RULE_TRUE, RULE_SCORE, rule="cost", cost_ratio=ratio)
        assert cut == pytest.approx(expected)


def test_false_positive_target_out_of_reach_calls_nothing_fake():
    cut = choose_threshold([0, 1], [0.9, 0.1], rule="fpr", fpr_target=0.0)
    assert cut > 0.9
    assert choose_threshold([0, 1], [1.0, 1.0], rule="fpr", fpr_target=0.0) > 1


@pytest.mark.parametrize("bad", [{"fpr_target": 1.0}, {"cost_ratio": 0.0}, {"rule": "mean"}])
def test_threshold_refuses_bad_targets(bad):
    with pytest.raises(ValueError, match=r"fpr_target|rule"):
        choose_threshold([0, 1], [0.1, 0.9], **bad)


# --- abstention -------------------------------------------------------------------------------

BAND_TRUE = [0, 0, 0, 1, 0, 1, 1, 1]
BAND_SCORE = [0.05, 0.1, 0.2, 0.4, 0.6, 0.7, 0.9, 0.95]


def test_abstention_takes_the_narrowest_band_that_meets_the_target():
    # The two errors sit at 0.4 and 0.6, equally far from 0.5; next come 0.7, then 0.2.
    band = choose_abstention(BAND_TRUE, BAND_SCORE, threshold=0.5, target_error=0.1)
    assert band["coverage"] == 6 / 8 and band["error"] == 0 and band["target"] == 0.1
    assert band["high"] == pytest.approx(expit((logit(0.6) + logit(0.7)) / 2))
    assert band["low"] == pytest.approx(1 - band["high"])
    decided = Decision(threshold=0.5, abstention=band).decide(BAND_SCORE)
    assert decided.tolist() == ["REAL"] * 3 + ["UNSURE"] * 2 + ["FAKE"] * 3


def test_abstention_drops_equally_far_rows_together():
    for p in np.arange(0.01, 0.5, 0.01):  # the log odds of p and 1 - p differ in the last digit
        band = choose_abstention([1, 0, 0, 1], [p, 1 - p, p / 2, 1 - p / 2], threshold=0.5)
        assert (band["coverage"], band["error"]) == (0.5, 0), p
        one_wrong = [[0, 0, 0, 1], [1, 1, 0, 1]]
        for y_true in one_wrong:
            band = choose_abstention(y_true, [p, 1 - p, p / 2, 1 - p / 2], threshold=0.5)
            assert (band["coverage"], band["error"]) == (0.5, 0), p


def test_abstention_is_empty_where_the_error_is_low_enough():
    band = choose_abstention(BAND_TRUE, BAND_SCORE, threshold=0.5, target_error=0.25)
    upper = band.pop("upper")
    assert band == {"low": 0.5, "high": 0.5, "coverage": 1, "error": 0.25, "target": 0.25}
    # At this error rate, 2 or fewer errors of 8 have a chance of 5%.
    assert binom.cdf(2, 8, upper) == pytest.approx(0.05)


def test_abstention_out_of_reach_gives_the_band_of_least_error():
    # Wrong at both ends: without the nearest pair half of the rest is wrong, and so on.
    y_true, y_score = [1, 0, 0, 1, 1, 0], [0.1, 0.3, 0.45, 0.55, 0.7, 0.9]
    band = choose_abstention(y_true, y_score, threshold=0.5, target_error=0.1)
    assert band["coverage"] == 1 and band["error"] == pytest.approx(2 / 6)
    assert band["low"] == band["high"] == 0.5


def test_abstention_keeps_a_share_of_rows_decided():
    rng = np.random.default_rng(0)
    y_true, y_score = rng.integers(0, 2, 200), rng.random(200)  # a coin
    band = choose_abstention(y_true, y_score, threshold=0.5, target_error=0.0)
    assert band["coverage"] >= 0.1 and band["error"] > 0


def test_abstention_numbers_are_those_of_decide():
    y_true, y_score, _ = rows(decimals=3)
    band = choose_abstention(y_true, y_score, threshold=0.62, target_error=0.15)
    decision = Decision(threshold=0.62, abstention=band).decide(y_score)
    sure = decision != "UNSURE"
    assert 0.1 < band["coverage"] < 1 and band["error"] <= 0.15
    assert sure.mean() == pytest.approx(band["coverage"])
    assert ((decision == "FAKE") != (y_true == 1))[sure].mean() == pytest.approx(band["error"])


def test_decide_is_closed_below_and_open_above():
    wide = Decision(threshold=0.5, abstention={"low": 0.3, "high": 0.7})
    decided = wide.decide([0.29, 0.3, 0.5, 0.69, 0.7])
    assert decided.tolist() == ["REAL", "UNSURE", "UNSURE", "UNSURE", "FAKE"]
    assert Decision(threshold=0.5).decide([0.4, 0.5]).tolist() == ["REAL", "FAKE"]


# --- the decision and its file ----------------------------------------------------------------


def test_decision_comes_back_as_it_was_written_with_what_else_its_file_tells(tmp_path):
    full = replace(
        DECISION, offset=-0.3, prior=0.8, units="videos", facts={"targets": {"fpr_target": 0.05}}
    )
    path = full.write(tmp_path, date="today")
    assert path == tmp_path / "model" / "decision.json"
    again = Decision.read(path.parent)
    assert again.facts == {"targets": {"fpr_target": 0.05}, "date": "today"}
    assert replace(again, facts=full.facts) == full
    plain = Decision(rule="eer")
    plain.write(tmp_path)
    assert Decision.read(path.parent) == plain
    with pytest.raises(FrozenInstanceError):
        again.threshold = 0.1


def test_older_file_has_no_offset_and_was_chosen_on_whole_videos(tmp_path):
    values = {"temperature": 2.0, "threshold": 0.5, "rule": "eer", "aggregation": "median",
              "abstention": BAND, "of_the_future": [1, 2]}  # fmt: skip
    write_json(values, tmp_path, "model/decision.json")
    decision = Decision.read(tmp_path / "model")
    assert (decision.offset, decision.units) == (0.0, "videos")
    assert (decision.temperature, decision.rule, decision.aggregation) == (2.0, "eer", "median")
    assert decision.band == (0.4, 0.6)
    assert decision.facts == {"of_the_future": [1, 2]}


def test_folder_without_a_decision_gets_the_plain_one(tmp_path):
    plain = Decision.read(tmp_path)
    assert plain == Decision()
    assert (plain.rule, plain.temperature, plain.band) == (UNDECIDED, 1.0, (0.5, 0.5))


WRONG = [
    ({"temperature": 0}, "temperature"),
    ({"temperature": -1}, "temperature"),
    ({"temperature": float("nan")}, "temperature"),
    ({"temperature": None}, "temperature"),
    ({"offset": float("inf")}, "offset"),
    ({"rule": "youden"}, "youden.*accepted: none.*balanced_accuracy, eer"),
    ({"aggregation": "maximum"}, "maximum.*accepted: mean_logit"),
    ({"units": "crops"}, "crops.*accepted: tracks, videos"),
    ({"threshold": 0.7}, "0.7 lies outside the band 0.4 to 0.6"),
    ({"abstention": {"low": 0.6, "high": 0.4}}, "outside the band"),
    ({"abstention": {"low": 0.4}}, "high"),
    ({"abstention": {"low": "a", "high": 0.6}}, "a"),
    ({"abstention": 0.4}, "no decision"),
    ({"temperature": "warm"}, "warm"),
    ({"temperature": 1e-300}, "temperature.*0.01 to 1000"),
    ({"temperature": True}, "temperature"),
    ({"temperature": "2"}, "temperature"),
    ({"offset": 10**400}, "offset.*-60 to 60"),
    ({"offset": 1e9}, "offset"),
    ({"threshold": 1.5, "abstention": None}, "threshold.*0 to 1"),
    ({"threshold": -0.1, "abstention": None}, "threshold"),
    ({"abstention": BAND | {"coverage": "<b>"}}, "coverage.*0 to 1"),
    ({"abstention": BAND | {"upper": None}}, "upper"),
    ({"abstention": [0.4, 0.6]}, "no decision"),
    ({"rule": "<img src=x onerror=alert(1)>"}, "accepted: none"),
]


@pytest.mark.parametrize(("wrong", "named"), WRONG)
def test_decision_that_is_none_is_refused_and_its_file_named(tmp_path, wrong, named):
    values = {"temperature": 2.0, "threshold": 0.5, "rule": "eer", "aggregation": "median",
              "abstention": BAND}  # fmt: skip
    (tmp_path / "decision.json").write_text(json.dumps(values))
    assert Decision.read(tmp_path).temperature == 2
    (tmp_path / "decision.json").write_text(json.dumps(values | wrong))
    with pytest.raises(ValueError, match=rf"decision\.json.*{named}"):
        Decision.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        *(('{"threshold": 0.5}', "temperature.*04_evaluate"), ("[]", "04_evaluate"), ("{", "JSON")),
        *(('"temperature threshold rule aggregation abstention"', "04_evaluate"), ("5", "04_")),
    ],
)
def test_file_that_lacks_a_key_or_is_no_json_is_named(tmp_path, text, named):
    (tmp_path / "decision.json").write_text(text)
    with pytest.raises(ValueError, match=rf"decision\.json.*{named}"):
        Decision.read(tmp_path)


def test_offset_moves_scores_pools_and_decisions_but_no_ranking():
    moved = Decision(2.0, offset=1.0)
    assert moved.score([0.0, 2.0]).tolist() == pytest.approx(expit([1.0, 2.0]).tolist())
    assert moved.pool([2.0, 4.0]) == pytest.approx(expit(1.5 + 1))
    # 1.5 is over log(4) once it is moved by 1: two of four crops are sure, which is over 40%.
    sure = replace(moved, aggregation="confident")
    assert sure.pool([1.0, 1.0, -2.0, -2.0]) == pytest.approx(expit(1.5))
    assert replace(sure, offset=0.0).pool([1.0, 1.0, -2.0, -2.0]) == pytest.approx(expit(-0.25))

    crops = draw_predictions()
    here, there = (Decision(2.0, offset=o).judge_videos(crops) for o in (0.0, 1.0))
    assert (logit(there["score"]) - logit(here["score"])).to_numpy() == pytest.approx(1)
    y_true = here["label"] == "FAKE"
    assert sk.roc_auc_score(y_true, here["score"]) == sk.roc_auc_score(y_true, there["score"])
    assert (there["decision"] == "FAKE").sum() > (here["decision"] == "FAKE").sum()
    median = Decision(2.0, aggregation="median", offset=1.0).judge_videos(crops)["score"]
    assert median.iloc[0] == pytest.approx(expit(crops["logit"].iloc[:4].median() / 2 + 1))


def test_decision_in_words_tells_its_numbers_and_promises_nothing():
    assert "never UNSURE" in Decision(threshold=0.25, rule="eer").describe()
    band = BAND | {"coverage": 0.75, "error": 0.05, "upper": 0.2}
    words = replace(DECISION, abstention=band).describe()
    for told in ("0.500", "balanced_accuracy", "2.00", "mean logit", "0.400 to 0.600"):
        assert told in words
    assert "75% are decided, 5% of them wrongly" in words and "up to 20%" in words


# --- pools and videos -------------------------------------------------------------------------


def predictions():
    names = ["path", "video", "frame", "face", "source", "label", "split", "logit"]
    table = [
        ("b/0.png", "b", 0, 1, "a", "FAKE", "test", 2.0),
        ("a/0.png", "a", 0, 1, "a", "REAL", "test", -1.0),
        ("b/9.png", "b", 9, 1, "a", "FAKE", "test", 4.0),
        ("b/9_2.png", "b", 9, 2, "a", "FAKE", "test", -3.0),
    ]
    return pd.DataFrame(table, columns=names)


def test_videos_equal_hand_values_in_order_of_appearance():
    videos = Decision(2.0).judge_videos(predictions())
    assert list(videos) == ["video", "source", "label", "split", "n_faces", "score", "decision"]
    assert videos["video"].tolist() == ["b", "a"] and videos["n_faces"].tolist() == [3, 1]
    assert videos["label"].tolist() == ["FAKE", "REAL"]
    assert videos["score"].tolist() == pytest.approx([expit(1 / 2), expit(-1 / 2)])
    assert videos["decision"].tolist() == ["FAKE", "REAL"]


def test_videos_of_two_data_sets_stay_apart():
    both = pd.concat([predictions().assign(dataset=name) for name in ("one", "two")])
    videos = Decision().judge_videos(both)
    assert videos[["dataset", "video"]].to_numpy().tolist() == [
        *(["one", "b"], ["one", "a"], ["two", "b"], ["two", "a"])
    ]
    assert videos["n_faces"].tolist() == [3, 1, 3, 1]


def test_videos_that_cannot_be_meant_are_refused():
    with pytest.raises(ValueError, match="video b has more than one label"):
        Decision().judge_videos(predictions().assign(label=["REAL", "REAL", "FAKE", "FAKE"]))
    with pytest.raises(ValueError, match="video b has more than one source"):
        Decision().judge_videos(predictions().assign(source=["a", "a", "b", "a"]))
    with pytest.raises(ValueError, match="logit"):
        Decision().judge_videos(predictions().assign(logit=[1, np.nan, 1, 1]))


def test_videos_are_judged_by_the_frozen_decision():
    crops = pd.DataFrame({"video": ["a", "a", "b", "c"], "source": ["a", "a", "b", "c"],
                          "label": "REAL", "split": "test",
                          "logit": [1.0, 5.0, -4.0, 0.2]})  # fmt: skip
    videos = DECISION.judge_videos(crops)
    np.testing.assert_allclose(videos["score"], expit([1.5, -2.0, 0.1]))
    assert videos["decision"].tolist() == ["FAKE", "REAL", "UNSURE"]


@pytest.mark.parametrize(
    ("how", "logits", "pooled"),
    [
        ("mean_logit", [-2.0, 1.0, 4.0, 2.0, 1.0], 1.2),
        ("trimmed_mean", [-2.0, 1.0, 4.0, 2.0, 1.0], 4 / 3),  # one of five is cut at each end
        ("median", [-2.0, 1.0, 4.0, 2.0, 1.0], 1),
        ("top_third", [-2.0, 1.0, 4.0, 2.0, 1.0], 4),
        ("confident", [-2.0, 1.0, 4.0, 2.0, 1.0], 1.2),  # two of five are sure: not over 40%
        ("confident", [0.0, 4.0, 2.0], 3),
        ("confident", [-2.0, -4.0, 0.0], -2),  # not over 90%
    ],
)
def test_pools_equal_hand_values(how, logits, pooled):
    assert Decision(aggregation=how).pool(logits) == pytest.approx(expit(pooled))


@pytest.mark.parametrize("how", AGGREGATIONS)
def test_every_pool_agrees_with_its_table_and_bears_one_crop(how):
    assert Decision(3.0, aggregation=how).pool([1.5]) == pytest.approx(expit(0.5))
    table, decision = predictions(), Decision(2.0, aggregation=how)
    videos = decision.judge_videos(table).set_index("video")["score"]
    for video, logits in table.groupby("video")["logit"]:
        assert videos[video] == pytest.approx(decision.pool(logits))


@pytest.mark.parametrize("bad", [[], [np.nan], [[1.0]]])
def test_pool_refuses_what_has_no_score(bad):
    with pytest.raises(ValueError, match="finite"):
        Decision().pool(bad)


# --- people of one file -----------------------------------------------------------------------


def seen(track, logit, n=10, *, probability=1.0, side=60.0, focus=0.4):
    facts = {"probability": probability, "side": side, "focus": focus}
    return pd.DataFrame({"track": [track] * n, "logit": logit, **facts})


def judged(*people):
    table = DECISION.find_people(pd.concat(people, ignore_index=True))
    return table, *DECISION.judge_file(table)


def test_one_person_scores_by_the_rule_for_a_video():
    logits = np.linspace(-3, 5, 10)  # their mean is 1
    people, score, decision, reason = judged(seen(1, logits))
    assert list(people) == ["track", "n_faces", "score", "decision", "decides", "note"]
    assert score == pytest.approx(expit(1 / 2))
    assert (decision, reason) == ("FAKE", "")


def test_one_fake_person_of_two_makes_the_video_fake_and_is_named():
    people, score, decision, reason = judged(seen(1, REAL), seen(2, FAKE))
    assert people["decision"].tolist() == ["REAL", "FAKE"]
    assert decision == "FAKE"
    assert score == pytest.approx(expit(2))  # not the mean of the two, 0.5
    assert reason == "person 2, one of 2, looks fake"


def test_two_real_people_are_real():
    _, score, decision, reason = judged(seen(1, REAL), seen(2, REAL + 1))
    assert (decision, reason) == ("REAL", "")
    assert score == pytest.approx(expit((REAL + 1) / 2))


def test_person_in_the_band_makes_the_video_unsure_with_the_reason():
    *_, decision, reason = judged(seen(1, REAL), seen(2, 0.1))
    assert decision == "UNSURE"
    assert reason == "person 2: score 0.51 lies between 0.40 and 0.60"


@pytest.mark.parametrize(
    ("weak", "note"),
    [
        ({"n": 1}, "short: 1 of 10 frames"),
        ({"probability": 0.8}, "uncertain: a face by 80% only"),
        ({"side": 12.0}, "too small: 12 pixels"),
        ({"focus": 0.05}, "too blurred"),
    ],
)
def test_person_who_is_hardly_seen_decides_not_beside_one_who_is(weak, note):
    people, score, decision, reason = judged(seen(1, REAL), seen(2, FAKE, **weak))
    assert people["note"].iloc[0] == "" and note in people["note"].iloc[1]
    assert people["decides"].tolist() == [True, False]
    assert decision == "REAL"
    assert score == pytest.approx(expit(-2))
    assert "person 2 scores 0.88, not counted" in reason  # but it is said


def test_short_person_decides_where_there_is_no_longer_one():
    *_, decision, _ = judged(seen(1, FAKE, n=1))
    assert decision == "FAKE"
    people, _, decision, _ = judged(seen(1, FAKE, n=2, probability=0.8), seen(2, REAL, n=2))
    assert people["decides"].tolist() == [False, True]
    assert decision == "REAL"


def test_uncertain_person_decides_where_there_is_no_other():
    *_, decision, _ = judged(seen(1, FAKE, probability=0.85), seen(2, FAKE, n=1, probability=0.8))
    assert decision == "FAKE"


@pytest.mark.parametrize(
    ("weak", "expected"), [({"side": 12.0}, "faces too small"), ({"focus": 0.05}, "too blurred")]
)
def test_score_of_faces_that_show_too_little_is_no_answer(weak, expected):
    _, score, decision, reason = judged(seen(1, FAKE, **weak))
    assert decision == "UNSURE"
    assert score == pytest.approx(expit(2))
    assert expected in reason


# --- people of many videos --------------------------------------------------------------------


def film(video, *people, label="FAKE"):
    """The crops of one video, of which the tracks are known."""
    rows = pd.concat(people, ignore_index=True)
    return rows.assign(dataset="d", video=video, source=video, label=label, split="test")


def blind_film(video, logits, label="FAKE"):
    """The crops of one video of which no track is known."""
    missing = dict.fromkeys(("probability", "side", "focus"), np.nan)
    return film(video, seen(np.nan, logits, len(logits), **missing), label=label)


VIDEO = ["dataset", "video"]


def test_video_with_a_fake_and_a_real_person_is_fake_by_the_score_of_the_fake_one():
    crops = pd.concat([film("a", seen(1, FAKE), seen(2, REAL)), film("b", seen(1, REAL))])
    videos = DECISION.judge_videos(crops)
    np.testing.assert_allclose(videos["score"], expit([2, -2]))  # the mean of "a" is 0.5
    assert videos["decision"].tolist() == ["FAKE", "REAL"]
    assert videos["n_faces"].tolist() == [20, 10]


@pytest.mark.parametrize("weak", [{"n": 1}, {"focus": 0.05}, {"side": 12.0}, {"probability": 0.5}])
def test_hardly_seen_person_does_not_decide_a_video_and_the_crops_say_so(weak):
    crops = film("a", seen(1, REAL), seen(2, FAKE, **weak))
    videos = DECISION.judge_videos(crops)
    assert videos["score"].tolist() == pytest.approx([expit(-2)])
    assert videos["decision"].tolist() == ["REAL"]
    scored = DECISION.score_crops(crops, by=VIDEO)
    assert scored["decides"].tolist() == (crops["track"] == 1).astype(int).tolist()
    np.testing.assert_allclose(scored["score"], expit(crops["logit"] / 2))
    assert list(scored) == [*crops, "score", "decides"]


def test_crops_of_nobody_known_are_pooled_as_those_of_one_person():
    logits = [3.0, -1.0, 0.5]
    unknown = blind_film("a", logits)
    assert DECISION.judge_videos(unknown)["score"].item() == expit(np.mean(logits) / 2)
    bare = unknown.drop(columns=["track", "probability", "side", "focus"])
    assert DECISION.judge_videos(bare)["score"].item() == expit(np.mean(logits) / 2)
    assert DECISION.score_crops(bare, by=VIDEO)["decides"].tolist() == [1, 1, 1]


def test_videos_with_tracks_and_without_stand_in_one_table():
    crops = pd.concat(
        [
            blind_film("a", [3.0, -1.0]),
            film("b", seen(1, REAL), seen(2, FAKE)),
            blind_film("c", [-5.0, 1.0], "REAL"),
            film("d", seen(2, FAKE, n=1), seen(1, REAL, n=9), label="REAL"),
        ]
    )
    mixed = crops.sample(frac=1, random_state=0)  # rows of a video apart, labels repeated
    videos = DECISION.judge_videos(mixed).set_index("video").sort_index()
    np.testing.assert_allclose(videos["score"], expit([0.5, 2, -1, -2]))
    assert videos["decision"].tolist() == ["FAKE", "FAKE", "REAL", "REAL"]
    scored = DECISION.score_crops(mixed, by=VIDEO)
    assert ((scored["decides"] == 0) == ((scored["video"] == "d") & (scored["track"] == 2))).all()


def random_films(seed):
    """Videos of up to four people, well and hardly seen, some without tracks; rows shuffled."""
    rng = np.random.default_rng(seed)
    films = []
    for number in range(25):
        video, label = f"v{number}", ("REAL", "FAKE")[number % 2]
        if rng.random() < 0.3:
            films.append(blind_film(video, rng.normal(0, 3, rng.integers(1, 9)), label))
            continue
        people = []
        for track in rng.permutation(5)[: rng.integers(1, 5)] + 1:
            n = int(rng.integers(1, 12))
            facts = {
                "probability": rng.uniform(0.8, 1, n),
                "side": rng.uniform(10, 60, n),
                "focus": rng.uniform(0.05, 0.3, n),
            }
            people.append(seen(track, rng.normal(0, 3, n), n, **facts))
        films.append(film(video, *people, label=label))
    crops = pd.concat(films, ignore_index=True)
    return crops.sample(frac=1, random_state=seed)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("how", AGGREGATIONS)
def test_videos_are_judged_as_files_one_by_one(seed, how):
    decision = replace(DECISION, aggregation=how, offset=0.2)
    crops = random_films(seed)
    videos = decision.judge_videos(crops).set_index("video")
    scored = decision.score_crops(crops, by=VIDEO)
    noted = decision.find_people(crops, by=VIDEO)["note"]
    assert (noted != "").any() and (scored["decides"] == 0).any()  # else this proves little
    for video, faces in crops.groupby("video"):
        score, answer, _ = decision.judge_file(decision.find_people(faces))
        assert videos.loc[video, "score"] == pytest.approx(score, abs=1e-12)
        assert videos.loc[video, "decision"] == answer
    # The columns of predictions.csv alone tell the same.
    deciding = scored.loc[scored["decides"] == 1, ["video", "track", "logit"]]
    pooled = deciding.groupby(["video", "track"], dropna=False)["logit"].agg(decision.pool)
    again = pooled.groupby("video").max()
    assert again.to_dict() == pytest.approx(videos["score"].to_dict(), abs=1e-12)
    table = decision.judge_videos(scored.drop(columns=["probability", "side", "focus", "score"]))
    assert table["score"].tolist() == pytest.approx(videos["score"].tolist(), abs=1e-12)


def test_who_counts_stays_as_it_was_settled():
    clean = film("a", seen(1, REAL), seen(2, FAKE, focus=0.05))
    settled = DECISION.score_crops(clean, by=VIDEO)
    assert settled["decides"].tolist() == [1] * 10 + [0] * 10
    # Now the first looks worse than the second in every way.
    hurt = {"probability": 0.5, "side": 12.0, "focus": 0.01}
    spoilt = settled.assign(
        **{k: np.where(settled["track"] == 1, v, 90.0) for k, v in hurt.items()}
    )
    assert DECISION.judge_videos(spoilt)["score"].item() == pytest.approx(expit(-2))
    anew = DECISION.judge_videos(spoilt.drop(columns="decides"))
    assert anew["score"].item() == pytest.approx(expit(2))
    assert DECISION.score_crops(spoilt, by=VIDEO)["decides"].tolist() == [1] * 10 + [0] * 10


def test_frames_without_anybody_who_decides_still_give_a_score():
    settled = DECISION.score_crops(film("a", seen(1, REAL), seen(2, FAKE, focus=0.05)), by=VIDEO)
    left = DECISION.judge_videos(settled[settled["track"] == 2])
    assert left["score"].tolist() == pytest.approx([expit(2)])
    assert left["decision"].tolist() == ["UNSURE"]  # too blurred to say


# --- choosing on val --------------------------------------------------------------------------


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
    decision = choose_decision(val, target_error=0.05)
    fitted = fit_calibration(val["logit"], val["label"] == "FAKE")
    assert (decision.temperature, decision.offset) == fitted
    assert decision.prior == (val["label"] == "FAKE").mean()
    assert decision.aggregation in AGGREGATIONS
    assert decision.abstention["target"] == 0.05
    upside_down = pd.concat([val, test.assign(logit=-test["logit"])])
    again = choose_decision(upside_down[upside_down["split"] == "val"], target_error=0.05)
    assert again == decision
    fixed = choose_decision(val, aggregation="median", rule="eer", fpr_target=0.2)
    assert (fixed.aggregation, fixed.rule, fixed.offset) == ("median", "eer", fitted[1])
    assert fixed.facts == {"targets": {"fpr_target": 0.2, "cost_ratio": 1.0}}


def test_threshold_and_band_are_chosen_on_videos_by_the_rule():
    val, _ = halves(draw_predictions())
    decision = choose_decision(val, rule="fpr", fpr_target=0.1, aggregation="median")
    pooled = val.groupby("video", sort=False)["logit"].median() / decision.temperature
    pooled += decision.offset
    y_true = val.drop_duplicates("video")["label"] == "FAKE"
    cut = choose_threshold(y_true, expit(pooled), rule="fpr", fpr_target=0.1)
    assert decision.threshold == pytest.approx(cut, abs=1e-12)
    assert decision.abstention == choose_abstention(y_true, expit(pooled), threshold=cut)


def test_auto_takes_the_lowest_log_loss_on_val():
    val, _ = halves(draw_predictions(seed=3))
    decision = choose_decision(val)
    losses = {}
    for how in AGGREGATIONS:
        videos = replace(decision, aggregation=how).judge_videos(val)
        losses[how] = sk.log_loss(videos["label"] == "FAKE", videos["score"])
    assert losses[decision.aggregation] == pytest.approx(min(losses.values()))


def test_units_are_tracks_only_where_every_crop_of_val_has_one():
    val, _ = halves(draw_predictions())
    known = val.assign(track=1.0)
    partly = known.assign(track=known["track"].where(known["video"] != known["video"].iloc[0]))
    chosen = [choose_decision(table) for table in (val, known, partly)]
    assert [decision.units for decision in chosen] == ["videos", "tracks", "videos"]
    assert [bool(decision.caution) for decision in chosen] == [True, False, True]
    assert "crops pooled" in chosen[0].caution
    assert chosen[1].threshold == chosen[0].threshold  # one person a video: the same videos


def test_the_aggregation_of_least_log_loss_comes_first():
    # One crop of each fake shows it; the mean hides it.
    table = pd.DataFrame(
        {"video": np.repeat(np.arange(40), 3), "source": np.repeat(np.arange(40), 3),
         "label": np.repeat(["REAL", "FAKE"], 60), "split": "val",
         "logit": np.r_[np.full(60, -2.0), np.tile([-2.0, -2.0, 3.0], 20)]}
    )  # fmt: skip
    order = compare_aggregations(table, Decision())
    assert order["how"].iloc[0] == "top_third" and set(order["how"]) == set(AGGREGATIONS)
    assert order["log_loss"].is_monotonic_increasing
    tie = compare_aggregations(table.assign(logit=0.5), Decision())
    assert tie["how"].tolist() == list(AGGREGATIONS)
