"""What is chosen on val and then frozen, and what it says of a video.

`y_true` (n,) is 0 (REAL) or 1 (FAKE), `y_score` (n,) is P(FAKE) in [0, 1], and a row is called
FAKE when `y_score >= threshold`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import minimize_scalar
from scipy.special import expit, logit
from scipy.stats import beta

from utils.run.artifacts import CLASSES
from utils.stats.metrics import EPS, Array, check_scores, score_table, y_true_of

THRESHOLD_RULES = ("balanced_accuracy", "eer", "fpr", "cost")
TEMPERATURE_RANGE = (0.05, 20.0)
#: Share of a video's crops that the trimmed mean leaves out at each end.
TRIM = 0.2
#: From these odds on to either side, a crop counts as confident: P(FAKE) 0.8 and 0.2.
CONFIDENT = float(logit(0.8))


def fit_temperature(logits: ArrayLike, y_true: ArrayLike) -> float:
    """The temperature T that minimises the log loss of sigmoid(logit / T).

    It mends over- and underconfidence only: no ranking and no bias of the model changes, and the
    share of FAKE stays that of val, so elsewhere a score is a probability if the share is alike.
    T stays within TEMPERATURE_RANGE (a perfect ranking asks for 0, a useless one for infinity)
    and is 1 if every logit is 0. ValueError: one class only, or a logit that is not finite.

    Source: Guo et al. (2017), On Calibration of Modern Neural Networks.
    """
    logits = np.asarray(logits, dtype=np.float64)
    finite = np.where(np.isfinite(logits), 0.5, np.nan)
    y_true, _ = check_scores(y_true, finite, both_for="a temperature")
    if not logits.any():
        return 1.0
    margin = np.where(y_true == 1, logits, -logits)
    bounds = np.log(TEMPERATURE_RANGE)
    best = minimize_scalar(lambda x: np.logaddexp(0, -margin / np.exp(x)).mean(), bounds=bounds)
    return float(np.clip(np.exp(best.x), *TEMPERATURE_RANGE))


def choose_threshold(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    rule: str = "balanced_accuracy",
    fpr_target: float = 0.05,
    cost_ratio: float = 1.0,
) -> float:
    """The midpoint between two neighbouring scores that is best by `rule`; choose it on val.

    Args:
        rule: "balanced_accuracy" makes the mean of recall and specificity largest; "eer" makes
            the two most alike; "fpr" finds most fakes while at most `fpr_target` of the REAL rows
            are called FAKE (calling none FAKE is allowed); "cost" makes the cost smallest.
        fpr_target: in [0, 1), for "fpr".
        cost_ratio: cost of a missed fake over that of a false alarm, above 0, for "cost"; counted
            by rows, so it holds for the class mix at hand.

    Returns:
        Of equals the closest to 0.5, then the lower; 0.5 if all scores are equal.

    Raises:
        ValueError: unknown rule, a target out of range, or one class only.
    """
    if rule not in THRESHOLD_RULES:
        raise ValueError(f"rule is {rule!r}; accepted: {', '.join(THRESHOLD_RULES)}")
    if not 0 <= fpr_target < 1 or not 0 < cost_ratio < np.inf:
        raise ValueError(f"fpr_target {fpr_target} must lie in [0, 1), cost_ratio {cost_ratio} > 0")
    y_true, y_score = check_scores(y_true, y_score, both_for="a threshold")
    scores = np.unique(y_score)
    if len(scores) == 1 and rule != "fpr":
        return 0.5
    cuts = np.maximum((scores[:-1] + scores[1:]) / 2, np.nextafter(scores[:-1], 1))
    if rule == "fpr":  # above every score none is FAKE, which meets any target
        cuts = np.append(cuts, np.nextafter(scores[-1], 2))
    missed, passed = (np.searchsorted(np.sort(y_score[y_true == k]), cuts) for k in (1, 0))
    n_real, n_fake = np.bincount(y_true, minlength=2).tolist()
    alarms, found = n_real - passed, n_fake - missed
    # Whole numbers where they can be, so that ties are exact.
    if rule == "balanced_accuracy":
        gain = passed * n_fake + found * n_real
    elif rule == "eer":
        gain = -np.abs(alarms * n_fake - missed * n_real)
    elif rule == "fpr":
        gain = np.where(alarms <= fpr_target * n_real, found, -1)
    else:
        gain = -(missed * cost_ratio + alarms)
    best = cuts[gain == gain.max()]
    return float(best[np.argmin(np.abs(best - 0.5))])


def choose_abstention(
    y_true: ArrayLike,
    y_score: ArrayLike,
    *,
    threshold: float,
    target_error: float = 0.1,
    min_coverage: float = 0.1,
) -> dict[str, float]:
    """The narrowest band around the threshold that leaves an error of at most `target_error`.

    The band reaches equally far to both sides in log odds. Choose it on val, of videos. At least
    `min_coverage` of the rows stay decided, or one lucky row would meet any target; if no such
    band meets it, the one of least error, then of most coverage.

    The target holds on the rows given, not on new ones: `upper` says how large the error of new
    rows may yet be, were these rows independent and the band not chosen on them.

    Returns:
        `low`, `high`: UNSURE is `low <= score < high`, empty (both the threshold) if the plain
        error meets the target; `coverage`, `error`: share decided, and wrong of it; `target`;
        `upper`: one-sided 95% bound of the error (Clopper & Pearson, 1934).
    """
    y_true, y_score = check_scores(y_true, y_score)
    log_odds, centre = (logit(np.clip(score, EPS, 1 - EPS)) for score in (y_score, threshold))
    distance = np.abs(log_odds - centre).round(9)  # so that 0.4 and 0.6 are as far from 0.5
    wrong = (y_score >= threshold) != (y_true == 1)
    steps, codes = np.unique(distance, return_inverse=True)
    # Candidate k leaves out the k nearest distances; both arrays run from none left out.
    decided = np.cumsum(np.bincount(codes)[::-1])[::-1]
    errors = np.cumsum(np.bincount(codes, wrong)[::-1])[::-1]
    error = errors / decided
    allowed = decided >= min_coverage * len(y_true)
    reached = np.flatnonzero(allowed & (error <= target_error))
    k = int(reached[0] if len(reached) else np.argmin(np.where(allowed, error, np.inf)))
    low = high = float(threshold)
    if k:
        reach = (steps[k - 1] + steps[k]) / 2
        low, high = expit([centre - reach, centre + reach]).tolist()
    right = decided[k] - errors[k]
    return {
        "low": low,
        "high": high,
        "coverage": float(decided[k] / len(y_true)),
        "error": float(error[k]),
        "target": float(target_error),
        "upper": float(beta.ppf(0.95, errors[k] + 1, right)) if right else 1.0,
    }


def decide(y_score: ArrayLike, *, threshold: float, low: float, high: float) -> Array:
    """Give UNSURE where `low <= score < high`, else FAKE from the threshold on, REAL below it."""
    if not low <= threshold <= high:
        raise ValueError(f"threshold {threshold} lies outside the band from {low} to {high}")
    decided = np.where(np.greater_equal(y_score, threshold), CLASSES[1], CLASSES[0])
    return np.where(np.greater_equal(y_score, low) & np.less(y_score, high), "UNSURE", decided)


def _trimmed_mean(logits: Array) -> float:
    cut = int(TRIM * len(logits))
    return float(np.sort(logits)[cut : len(logits) - cut].mean())


def _top_third(logits: Array) -> float:
    return float(np.sort(logits)[-max(1, len(logits) // 3) :].mean())


def _confident(logits: Array) -> float:
    """Mean of the crops that are surely FAKE if they are over 40%, surely REAL if over 90%."""
    for sure, share in ((logits > CONFIDENT, 0.4), (logits < -CONFIDENT, 0.9)):
        if sure.mean() > share:
            return float(logits[sure].mean())
    return float(logits.mean())


#: Calibrated logits of the crops of one video, (n,), to the logit of the video. "confident" is the
#: strategy of the winner of the DFDC (Seferbekov, 2020), on log odds.
_POOLS: dict[str, Callable[[Array], float]] = {
    "mean_logit": lambda logits: float(logits.mean()),
    "trimmed_mean": _trimmed_mean,
    "median": lambda logits: float(np.median(logits)),
    "top_third": _top_third,
    "confident": _confident,
}
AGGREGATIONS = tuple(_POOLS)


def pool_logits(logits: ArrayLike, *, how: str = "mean_logit", temperature: float = 1.0) -> float:
    """Score of a video, P(FAKE), from the logits of its crops, shape (n,), n > 0.

    Args:
        how: "mean_logit"; "trimmed_mean" without TRIM of the crops at each end; "median";
            "top_third", the mean of the third that looks most FAKE; "confident", the mean of the
            crops that are sure, if enough of them agree.
        temperature: of `fit_temperature`.

    Raises:
        ValueError: unknown `how`, no logit, or one that is not finite.
    """
    if how not in AGGREGATIONS:
        raise ValueError(f"how is {how!r}; accepted: {', '.join(AGGREGATIONS)}")
    logits = np.asarray(logits, dtype=np.float64)
    if logits.ndim != 1 or not len(logits) or not np.isfinite(logits).all():
        raise ValueError(f"logits {logits.shape} must be (n,), n > 0, each a finite number")
    return float(expit(_POOLS[how](logits / temperature)))


def aggregate_videos(
    predictions: pd.DataFrame, *, how: str = "mean_logit", temperature: float = 1.0
) -> pd.DataFrame:
    """One row a video, its score by `pool_logits`.

    Args:
        predictions: a row a crop: `video, source, label, split, logit`, and `dataset` if videos
            of several data sets may share a name.
        how, temperature: of `pool_logits`.

    Returns:
        `video, source, label, split, n_faces, score` (`dataset` first where given), videos in
        the order of their first crop; `n_faces` counts crops. ValueError: unknown `how`, a logit
        missing, or a video of two sources, labels or splits.
    """
    if how not in AGGREGATIONS:
        raise ValueError(f"how is {how!r}; accepted: {', '.join(AGGREGATIONS)}")
    keys = ["dataset", "video"] if "dataset" in predictions else ["video"]
    facts = ["source", "label", "split"]
    if not np.isfinite(predictions["logit"]).all():
        raise ValueError("predictions holds a logit that is not a finite number")
    grouped = predictions.groupby(keys, sort=False, dropna=False)
    for fact in facts:
        varied = grouped[fact].nunique(dropna=False) > 1
        if varied.any():
            raise ValueError(f"video {varied.idxmax()} has more than one {fact}")
    videos = grouped[facts].first().assign(n_faces=grouped.size())
    if how == "mean_logit":  # the same as below, without a call a video
        videos["score"] = expit(grouped["logit"].mean() / temperature)
    else:
        pooled = grouped["logit"].agg(
            lambda logits: pool_logits(logits, how=how, temperature=temperature)
        )
        videos["score"] = pooled.astype(np.float64)
    return videos.reset_index()


def choose_aggregation(predictions: pd.DataFrame, *, temperature: float) -> pd.DataFrame:
    """Each of AGGREGATIONS with its log loss and ROC AUC on the videos given; choose it on val.

    Args:
        predictions: as for `aggregate_videos`, of val.
        temperature: of `fit_temperature`.

    Returns:
        `how, log_loss, roc_auc`, the lowest log loss first, and of equals the simplest.
    """
    rows = []
    for how in AGGREGATIONS:
        videos = aggregate_videos(predictions, how=how, temperature=temperature)
        y_true = (videos["label"] == CLASSES[1]).to_numpy(int)
        table = score_table(y_true, videos["score"], threshold=0.5)
        rows.append({"how": how, "log_loss": table["log_loss"], "roc_auc": table["roc_auc"]})
    order = pd.DataFrame(rows).round({"log_loss": 9})
    return order.sort_values("log_loss", kind="stable").reset_index(drop=True)


UNSURE = "UNSURE"
#: A person seen in less than this share of the frames in which the longest one is seen is short.
MIN_SHARE = 0.2
#: Mean probability, by the detector, of being a face; patterns taken for faces lie below.
MIN_PROBABILITY = 0.9
#: Median side of a face in pixels where it is cut, the detector's own floor. Below, the crop is
#: enlarged eight times and more.
MIN_SIDE = 20
#: Median of `focus`. Of 1,200 crops of DFDC none lies below 0.13; blurred until about 20
#: pixels of detail are left they have 0.12, until 10 are left 0.06.
MIN_FOCUS = 0.1
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


def find_people(faces: pd.DataFrame, decision: Mapping[str, Any]) -> pd.DataFrame:
    """One row a person of a file, in the order of the tracks.

    A person's score is that of 04: the rule for a video, on this person's crops alone. Who is
    short, uncertain, too small or too blurred does not decide beside somebody who is not.

    Args:
        faces: a row a face: `track, logit, probability, side, focus`.
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
        if seen["focus"].median() < MIN_FOCUS:
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


def choose_decision(
    val: pd.DataFrame,
    *,
    rule: str = "balanced_accuracy",
    aggregation: str = "auto",
    fpr_target: float = 0.05,
    cost_ratio: float = 1.0,
    target_error: float = 0.1,
) -> dict[str, Any]:
    """Choose temperature, aggregation, threshold and band, in this order, on the val split.

    Args:
        val: a row a crop of val: `video, source, label, split, logit`.
        rule, fpr_target, cost_ratio: of `choose_threshold`.
        aggregation: one of AGGREGATIONS, or "auto" for that of the lowest log loss on val.
        target_error: of `choose_abstention`.
    """
    temperature = fit_temperature(val["logit"], y_true_of(val))
    if aggregation == "auto":
        order = choose_aggregation(val, temperature=temperature)
        aggregation = str(order["how"].iloc[0])
    videos = aggregate_videos(val, how=aggregation, temperature=temperature)
    y_true, y_score = y_true_of(videos), videos["score"]
    threshold = choose_threshold(
        y_true, y_score, rule=rule, fpr_target=fpr_target, cost_ratio=cost_ratio
    )
    band = choose_abstention(y_true, y_score, threshold=threshold, target_error=target_error)
    return {
        "temperature": temperature,
        "threshold": threshold,
        "rule": rule,
        "aggregation": aggregation,
        "abstention": band,
    }


def judge_videos(predictions: pd.DataFrame, decision: Mapping[str, Any]) -> pd.DataFrame:
    """One row a video with `score` and `decision`, by a decision that stands."""
    videos = aggregate_videos(
        predictions, how=decision["aggregation"], temperature=decision["temperature"]
    )
    band = decision["abstention"]
    videos["decision"] = decide(
        videos["score"], threshold=decision["threshold"], low=band["low"], high=band["high"]
    )
    return videos
