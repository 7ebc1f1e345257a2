"""Scores of faces → people → the answer to a file: two people are never averaged into one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pandas as pd
from PIL import Image

from utils.artifacts import CLASSES
from utils.decisions import decide, pool_logits

UNSURE = "UNSURE"
#: A person seen in less than this share of the frames in which the longest one is seen is short.
MIN_SHARE = 0.2
#: Mean probability, by the detector, of being a face; patterns taken for faces lie below.
MIN_PROBABILITY = 0.9
#: Median side of a face in pixels where it is cut, the detector's own floor. Below, the crop is
#: enlarged eight times and more.
MIN_SIDE = 20
#: Median of `sharpness`. Of 1,200 crops of DFDC none lies below 0.13; blurred until about 20
#: pixels of detail are left they have 0.12, until 10 are left 0.06.
MIN_SHARPNESS = 0.1
#: Columns of `people`.
PERSON = ["track", "n_faces", "score", "decision", "decides", "note"]


@dataclass(frozen=True)
class Verdict:
    """The answer to one file.

    Attributes:
        score: calibrated P(FAKE), in [0, 1].
        decision: REAL, FAKE or UNSURE.
        reason: why it is UNSURE, or who decided where there are several people; else "".
    """

    score: float
    decision: str
    reason: str


def sharpness(crop: Image.Image) -> float:
    """Edges over contrast of a face at 64 x 64 pixels; light and contrast do not change it."""
    full = cv2.cvtColor(np.asarray(crop), cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(full.astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_32F).std() / max(float(grey.std()), 1.0))


def find_people(faces: pd.DataFrame, decision: Mapping[str, Any]) -> pd.DataFrame:
    """One row a person of a file, in the order of the tracks.

    A person's score is that of 04: the rule for a video, on this person's crops alone. Who is
    short, uncertain, too small or too blurred does not decide beside somebody who is not.

    Args:
        faces: a row a face: `track, logit, probability, side, sharpness`.
        decision: of decision.json.
    Returns:
        `track, n_faces, score, decision` (of this person), `decides` and `note`, which says why a
        person is not clearly seen, or is "".
    """
    how, temperature = decision["aggregation"], decision["temperature"]
    rows = []
    longest = faces["track"].value_counts().max() if len(faces) else 0
    for track, seen in faces.groupby("track"):
        score = pool_logits(seen["logit"], how=how, temperature=temperature)
        notes = []
        if len(seen) < MIN_SHARE * longest:
            notes.append(f"short: {len(seen)} of {longest} frames")
        if (sure := seen["probability"].mean()) < MIN_PROBABILITY:
            notes.append(f"uncertain: a face by {sure:.0%} only")
        if (side := seen["side"].median()) < MIN_SIDE:
            notes.append(f"too small: {side:.0f} pixels, {MIN_SIDE} are needed")
        if seen["sharpness"].median() < MIN_SHARPNESS:
            notes.append("too blurred")
        rows.append((int(track), len(seen), score, answer(score, decision), not notes, notes))
    people = pd.DataFrame(rows, columns=PERSON)
    if len(people) and not people["decides"].any():
        # Nobody is clearly seen: the best seen ones decide, if anybody can.
        weak = people["note"].map(lambda notes: any(note.startswith("short") for note in notes))
        people["decides"] = ~weak if not weak.all() else people["n_faces"] == longest
    blind = people["note"].map(lambda notes: any(note.startswith("too") for note in notes))
    people.loc[blind.astype(bool), "decision"] = UNSURE
    people["note"] = people["note"].map("; ".join)
    return people


def answer(score: float, decision: Mapping[str, Any]) -> str:
    """REAL, FAKE or UNSURE by threshold and band of decision.json."""
    threshold = decision["threshold"]
    band = decision.get("abstention") or {"low": threshold, "high": threshold}
    return str(decide([score], threshold=threshold, low=band["low"], high=band["high"])[0])


def judge_people(people: pd.DataFrame, decision: Mapping[str, Any]) -> Verdict:
    """The answer to a file with at least one person.

    One fake person makes the file FAKE; else one UNSURE person makes it UNSURE. The score is the
    highest of those who decide; with one person it is that of 04.
    """
    deciding = people[people["decides"]]
    order = [CLASSES[1], UNSURE, CLASSES[0]]
    decision_of_all = min(deciding["decision"], key=order.index)
    who = deciding[deciding["decision"] == decision_of_all]
    who = who.loc[who["score"].idxmax()]
    score, several = float(deciding["score"].max()), len(deciding) > 1
    reasons = []
    if decision_of_all == UNSURE:
        prefix = f"person {who['track']}: " if several else ""
        reasons.append(prefix + _why_unsure(who, decision))
    elif several and decision_of_all == CLASSES[1]:
        reasons.append(f"person {who['track']}, one of {len(deciding)}, looks fake")
    aside = people[~people["decides"] & (people["score"] >= decision["threshold"])]
    for other in aside.itertuples():
        reasons.append(f"person {other.track} scores {other.score:.2f}, not counted: {other.note}")
    return Verdict(score, decision_of_all, "; ".join(reasons))


def _why_unsure(person: pd.Series, decision: Mapping[str, Any]) -> str:
    blind = [note for note in person["note"].split("; ") if note.startswith("too")]
    if blind:
        return f"faces {'; '.join(blind)}"
    band = decision["abstention"]
    return f"score {person['score']:.2f} lies between {band['low']:.2f} and {band['high']:.2f}"
