"""The words: numbers as text, honest sentences, names for what has none."""

import copy
import re
import time

import numpy as np
import pytest

from tests.report.test_page import METRICS, NONE, ROW, changed
from utils.faces.detection import DRAWN
from utils.report.words import (
    END,
    START,
    as_number,
    captions,
    count,
    escaped,
    estimate,
    in_words,
    interval,
    metric_names,
    number,
    percent,
    questions,
    stress_rows,
    verdict,
    weakest,
    with_evaluation,
)


def test_numbers_are_written_alike_and_none_reads_not_defined():
    assert number(None) == percent(None) == count(None) == in_words(None) == "not defined"
    assert number({"value": float("nan")}) == estimate(NONE) == "not defined"
    assert as_number(True) is None and as_number({"value": 2}) == 2.0
    assert number(np.int64(3)) == "3.000" and count(np.int64(5120)) == "5,120"
    assert interval(NONE) == "" and interval(0.5) == "" and interval(ROW) == "0.701 to 0.902"
    assert estimate(ROW) == "0.812 (0.701 to 0.902)" and estimate(0.5) == "0.500"
    assert estimate(ROW, percent) == "81.2% (70.1% to 90.2%)"


@pytest.mark.parametrize(
    ("row", "headline", "use"),
    [
        ({"value": 0.55, "low": 0.45, "high": 0.65}, "No evidence that it beats chance", "No."),
        ({"value": 0.3, "low": 0.2, "high": 0.4}, "Worse than chance", "No."),
        ({"value": 0.6, "low": 0.53, "high": 0.7}, "what the files alone", "Not yet"),
        ({"value": 0.6, "low": 0.56, "high": 0.7}, "but weak", "Hardly"),
        ({"value": 0.8, "low": 0.75, "high": 0.85}, "Clearly better", "As a hint"),
        ({"value": 0.95, "low": 0.92, "high": 0.97}, "well on this test", "As a hint"),
        ({"value": 0.95, "low": None, "high": None}, "without an interval", "Not on this"),
        (NONE, "Not measurable", "Not on this"),
    ],
)
def test_verdict_claims_no_more_than_the_interval(row, headline, use):
    said, use_said = verdict(changed(roc_auc=row))
    assert headline in said
    assert use_said.startswith(use)
    assert use_said == questions(changed(roc_auc=row))["Can I use it?"][0]


def test_chance_inside_the_interval_is_said():
    sentences = questions(changed(roc_auc={"value": 0.55, "low": 0.45, "high": 0.65}))
    assert "chance is not ruled out" in " ".join(sentences["How sure are we?"])


def test_accuracy_below_the_majority_is_said():
    sentences = questions(METRICS)["How good is it?"]
    assert any("0.812, is not above the 0.831" in sentence for sentence in sentences)


def test_few_sources_and_the_weakest_group_are_said():
    metrics = copy.deepcopy(METRICS)
    metrics["n"]["video"]["sources"] = 12
    metrics["slices"] = {"method": {"A": {"n": 9, "roc_auc": ROW},
                                    "B": {"n": 8, "roc_auc": {**ROW, "value": 0.61}},
                                    "C": {"n": 1, "roc_auc": NONE}}}  # fmt: skip
    sentences = questions(metrics)
    assert any("12 source videos" in sentence for sentence in sentences["How sure are we?"])
    assert any(
        "Weakest group: B (method), " in sentence for sentence in sentences["Where does it fail?"]
    )


def test_one_error_is_told_in_the_singular():
    metrics = {**METRICS, "confusion": {"video": [[16, 1], [8, 15]]}}
    assert questions(metrics)["Where does it fail?"] == [
        "1 of 17 real videos (5.9%) is called FAKE.",
        "8 of 23 fakes (34.8%) are missed.",
    ]


def test_small_groups_are_marked_and_are_the_weakest_only_among_themselves():
    low = {**ROW, "value": 0.1}
    slices = {"faces": {"1": {"n": 90, "roc_auc": ROW, "small": False},
                        "2 or more": {"n": 4, "roc_auc": low, "small": True}}}  # fmt: skip
    found = weakest({**METRICS, "slices": slices})
    assert found is not None and (found["by"], found["name"]) == ("faces in a frame", "1")
    assert "Grey groups are small" in captions({**METRICS, "slices": slices}, None)["slices"]
    slices["faces"]["1"]["small"] = True
    assert weakest({**METRICS, "slices": slices})["name"] == "2 or more"


@pytest.mark.parametrize(
    ("why", "words"),
    [
        ({"agreement_with_random": 0.1234}, "0.123 only, so they are not due to its build alone"),
        ({"agreement_with_random": 0.9}, "do not read them as reasons"),
        ({"agreement_with_random": None}, "was not measured"),
    ],
)  # fmt: skip
def test_heat_maps_are_read_by_their_checks(why, words):
    assert words in captions({**METRICS, "explanation": {"n": 4, **why}}, None)["heat_maps"]


def test_the_effect_of_the_band_on_test_is_said():
    metrics = copy.deepcopy(METRICS)
    metrics["abstention"]["test"] = {
        "coverage": {"value": 0.6543}, "error": {"value": 0.1234, "low": 0.05, "high": 0.25}
    }  # fmt: skip
    use = " ".join(questions(metrics)["Can I use it?"])
    assert "On test it decided 65.4% and erred on 12.3% (5.0% to 25.0%) of those." in use


def test_drawn_faces_are_said_to_be_of_no_use():
    """However good the figures are."""
    drawn = {**METRICS, "model": {**METRICS["model"], "faces": DRAWN}}
    use = questions(drawn)["Can I use it?"][0]
    assert use.startswith("To try the project, and for nothing else")
    assert use not in questions(METRICS)["Can I use it?"]


def test_a_target_that_no_band_reached_is_said():
    metrics = copy.deepcopy(METRICS)
    said = "No band reached the error of 10.0% that was asked for."
    assert said not in questions(metrics)["Can I use it?"]
    metrics["abstention"]["error"] = 0.25
    assert said in questions(metrics)["Can I use it?"]


def test_metrics_without_a_name_get_one_from_their_key_and_come_last():
    metrics = {
        "video": {"partial_auc": ROW, "balanced_accuracy": ROW, "balanced_ece": ROW},
        "frame": {"my-own_score": ROW, "accuracy": ROW, "roc_auc": ROW},
    }
    assert metric_names(metrics) == {
        "roc_auc": "ROC AUC",
        "balanced_accuracy": "Balanced accuracy",
        "accuracy": "Accuracy",
        "balanced_ece": "Expected calibration error, classes weighing the same",
        "partial_auc": "Partial auc",
        "my-own_score": "My own score",
    }
    assert list(metric_names(metrics))[-2:] == ["partial_auc", "my-own_score"]


def test_a_corruption_without_a_name_is_told_by_its_key():
    rows = stress_rows({"clean": {}, "fish_eye": {"2": {"roc_auc": ROW}}, "jpeg": {"30": {}},
                        "darker": {"0.25": {}}})  # fmt: skip
    assert [row["name"] for row in rows] == ["Fish eye 2", "JPEG 30", "Darker × 0.25"]
    stress = {"clean": {"roc_auc": ROW, "n": 9}, "fish_eye": {"2": {"roc_auc": ROW}}}
    said = questions({**METRICS, "robustness": stress})["Where does it fail?"]
    assert "Hardest corruption: Fish eye 2, ROC AUC 0.812" in said[-1]


def test_a_slice_without_a_name_is_told_by_its_key():
    groups = {"a": {"n": 9, "roc_auc": ROW}, "b": {"n": 8, "roc_auc": {**ROW, "value": 0.6}}}
    assert captions({**METRICS, "slices": {"head_pose": groups}}, None)["slices"] == (
        "The weakest group is b (head pose), with 0.600."
    )


def test_the_caption_of_the_confusion_tells_of_nothing_else():
    other = [{"tested_on": "celeb", "elsewhere": True, "roc_auc": ROW}]
    said = captions({**METRICS, "generalisation": other}, None)["confusion"]
    assert said == "5 of 17 real videos (29.4%) are called FAKE. 9 of 83 fakes (10.8%) are missed."


def test_what_was_not_measured_is_not_spoken_of():
    bare = {"video": {}, "frame": {}, "baselines": {}, "robustness": {}, "threshold": 0.5}
    asked = questions(bare)
    assert asked["How sure are we?"] == ["The ROC AUC has no interval."]
    assert asked["Where does it fail?"] == ["The errors were not counted."]
    lines = captions({**bare, "temperature": 1.0}, None)
    assert lines["robustness"] == lines["heat_maps"] == lines["errors"] == lines["history"] == ""
    assert lines["scores"] == "Scores from 0.50 on are called FAKE."


@pytest.mark.parametrize(
    "name",
    ["https://evil.example/a", "HTTP://EVIL", "www.evil.example", "WWW.evil", "me@evil.example"],
)
def test_an_address_in_a_name_is_no_link(name):
    text = escaped(f"a {name} b")
    assert not re.search(r"://|www\.|\w@\w", text, flags=re.IGNORECASE)
    assert text.replace("<!-- -->", "") == f"a {name} b"


def test_names_do_not_steer_a_terminal():
    assert escaped("a\x1b[2J\u202eb\x07") == r"a�\[2J�b�"


@pytest.mark.parametrize(
    ("card", "kept"),
    [
        ("# Card\n", ["# Card"]),
        (f"# Card\n\n{START}\nstale\n{END}\n\nMore\n", ["# Card", "More"]),
        (f"# Card\n{START}\n" + "\n" * 300_000 + "x", ["# Card", "x"]),
        ("\n" * 300_000 + "x", ["x"]),
        (f"{START}" * 100_000, []),
    ],
)
def test_the_evaluation_of_a_card_is_replaced_in_no_time(card, kept):
    start = time.perf_counter()
    text = with_evaluation(card, METRICS)
    assert time.perf_counter() - start < 2
    assert text.count("## Evaluation") == 1 and "stale" not in text
    assert all(part in text for part in kept)
