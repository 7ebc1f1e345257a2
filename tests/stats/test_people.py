"""Scores of faces → people → an answer."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image, ImageFilter
from scipy.special import expit

from utils.faces.detection import focus
from utils.stats.decisions import find_people, judge_people

DECISION = {
    "temperature": 2.0,
    "threshold": 0.5,
    "rule": "balanced_accuracy",
    "aggregation": "mean_logit",
    "abstention": {"low": 0.4, "high": 0.6},
}
REAL, FAKE = -4.0, 4.0  # logits: scores 0.12 and 0.88 at temperature 2


def seen(track, logit, n=10, *, probability=1.0, side=60.0, focus=0.4):
    facts = {"probability": probability, "side": side, "focus": focus}
    return pd.DataFrame({"track": [track] * n, "logit": logit, **facts})


def judged(*people):
    table = find_people(pd.concat(people, ignore_index=True), DECISION)
    return table, judge_people(table, DECISION)


def test_one_person_scores_by_the_rule_for_a_video():
    logits = np.linspace(-3, 5, 10)
    _, verdict = judged(seen(1, logits))
    assert verdict.score == pytest.approx(expit(logits.mean() / 2))
    assert (verdict.decision, verdict.reason) == ("FAKE", "") or verdict.decision == "UNSURE"


def test_one_fake_person_of_two_makes_the_video_fake_and_is_named():
    people, verdict = judged(seen(1, REAL), seen(2, FAKE))
    assert people["decision"].tolist() == ["REAL", "FAKE"]
    assert verdict.decision == "FAKE"
    assert verdict.score == pytest.approx(expit(2))  # not the mean of the two, 0.5
    assert "person 2, one of 2, looks fake" in verdict.reason


def test_two_real_people_are_real():
    _, verdict = judged(seen(1, REAL), seen(2, REAL + 1))
    assert verdict.decision == "REAL"
    assert verdict.score == pytest.approx(expit((REAL + 1) / 2))


def test_person_in_the_band_makes_the_video_unsure_with_the_reason():
    _, verdict = judged(seen(1, REAL), seen(2, 0.1))
    assert verdict.decision == "UNSURE"
    assert verdict.reason == "person 2: score 0.51 lies between 0.40 and 0.60"


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
    people, verdict = judged(seen(1, REAL), seen(2, FAKE, **weak))
    assert people["note"].iloc[0] == "" and note in people["note"].iloc[1]
    assert people["decides"].tolist() == [True, False]
    assert verdict.decision == "REAL"
    assert verdict.score == pytest.approx(expit(-2))
    assert "person 2 scores 0.88, not counted" in verdict.reason  # but it is said


def test_short_person_decides_where_there_is_no_longer_one():
    _, verdict = judged(seen(1, FAKE, n=1))
    assert verdict.decision == "FAKE"
    people, verdict = judged(seen(1, FAKE, n=2, probability=0.8), seen(2, REAL, n=2))
    assert people["decides"].tolist() == [False, True]
    assert verdict.decision == "REAL"


def test_uncertain_person_decides_where_there_is_no_other():
    _, verdict = judged(seen(1, FAKE, probability=0.85), seen(2, FAKE, n=1, probability=0.8))
    assert verdict.decision == "FAKE"


@pytest.mark.parametrize(
    ("weak", "reason"), [({"side": 12.0}, "faces too small"), ({"focus": 0.05}, "too blurred")]
)
def test_score_of_faces_that_show_too_little_is_no_answer(weak, reason):
    _, verdict = judged(seen(1, FAKE, **weak))
    assert verdict.decision == "UNSURE"
    assert verdict.score == pytest.approx(expit(2))  # as 04 would score it
    assert reason in verdict.reason


def test_sharpness_falls_with_blur_and_not_with_light():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    sharp = Image.fromarray(pixels).resize((160, 160))
    values = [focus(sharp.filter(ImageFilter.GaussianBlur(s))) for s in (0, 3, 6, 9)]
    assert values == sorted(values, reverse=True)
    dark = sharp.point(lambda level: level * 0.4)
    assert focus(dark) == pytest.approx(focus(sharp), rel=0.02)
    assert focus(Image.new("RGB", (160, 160))) == 0
