"""What is chosen on val and then frozen, and what it says of crops, people and videos.

`y_true` (n,) is 0 (REAL) or 1 (FAKE), `y_score` (n,) is P(FAKE) in [0, 1], and a row is called
FAKE when `y_score >= threshold`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import minimize
from scipy.special import expit, logit
from scipy.stats import beta, trim_mean

from utils.run.artifacts import CLASSES, check_fields, check_number, read_any_json, write_json
from utils.stats.metrics import EPS, Array, check_scores, score_table, y_true_of

#: The rule of a model that 04 has not seen.
UNDECIDED = "none: 04_evaluate has not run"
THRESHOLD_RULES = ("balanced_accuracy", "eer", "fpr", "cost")
TEMPERATURE_RANGE = (0.05, 20.0)
#: Largest offset to either side, in log odds.
OFFSET = 30.0
#: Share of the rows that a band leaves decided at least.
MIN_COVERAGE = 0.1
#: Share of a video's crops that the trimmed mean leaves out at each end.
TRIM = 0.2
#: From these odds on to either side, a crop counts as confident: P(FAKE) 0.8 and 0.2.
CONFIDENT = float(logit(0.8))


def fit_calibration(logits: ArrayLike, y_true: ArrayLike) -> tuple[float, float]:
    """Temperature T > 0 and offset b that minimise the log loss of sigmoid(logit / T + b).

    T mends over- and underconfidence, b a network that learnt another mix of classes, as pairs of
    REAL and FAKE make one. No ranking changes; and the share of FAKE is that of the rows given, so
    elsewhere a score is a probability if the share is alike. T stays within TEMPERATURE_RANGE (a
    perfect ranking asks for 0, a useless one for infinity). ValueError: one class only, or a logit
    that is not finite.

    Source: Platt (1999), Probabilistic Outputs for Support Vector Machines; Guo et al. (2017), On
    Calibration of Modern Neural Networks.
    """
    logits = np.asarray(logits, dtype=np.float64)
    finite = np.where(np.isfinite(logits), 0.5, np.nan)
    y_true, _ = check_scores(y_true, finite, both_for="a calibration")
    sign = np.where(y_true == 1, 1.0, -1.0)

    def loss(x: Array) -> tuple[float, Array]:
        margin = sign * (x[0] * logits + x[1])
        slopes = -sign * expit(-margin)
        return float(np.logaddexp(0, -margin).mean()), np.array(
            [(slopes * logits).mean(), slopes.mean()]
        )

    low, high = TEMPERATURE_RANGE
    bounds = [(1 / high, 1 / low), (-OFFSET, OFFSET)]
    exact = {"ftol": 1e-15, "gtol": 1e-9, "maxiter": 1000}
    best = minimize(loss, [1.0, 0.0], jac=True, method="L-BFGS-B", bounds=bounds, options=exact)
    return float(1 / best.x[0]), float(best.x[1])


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

    Returns: of equals the closest to 0.5, then the lower; 0.5 if all scores are equal.
    Raises ValueError: unknown rule, a target out of range, or one class only.
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
    y_true: ArrayLike, y_score: ArrayLike, *, threshold: float, target_error: float = 0.1
) -> dict[str, float]:
    """The narrowest band around the threshold that leaves an error of at most `target_error`.

    The band reaches equally far to both sides in log odds. Choose it on val, of videos. At least
    MIN_COVERAGE of the rows stay decided, or one lucky row would meet any target; if no such
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
    allowed = decided >= MIN_COVERAGE * len(y_true)
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


#: What is known of a face beside its logit where it was cut out of a frame: the detector's
#: probability of being a face, its shorter side in pixels where it was cut, and `focus`.
FACE_FACTS = ("probability", "side", "focus")
#: A person seen in less than this share of the frames in which the longest one is seen is short.
MIN_SHARE = 0.2
#: Mean probability, by the detector, of being a face; patterns taken for faces lie below.
MIN_PROBABILITY = 0.9
#: Median side of a face in pixels where it is cut, the detector's own floor. Below, the crop is
#: enlarged eight times and more.
MIN_SIDE = 20
#: Median of `focus`. Of 1,200 crops of DFDC none lies below 0.13, of 3,000 square ones from full
#: frames none below 0.14; blurred until about 20 pixels of detail are left they have 0.12 and 0.15,
#: until 10 are left 0.06.
MIN_FOCUS = 0.1
UNSURE = "UNSURE"
#: What a file is called if one of its people is called so: the last one that occurs.
ORDER = (CLASSES[0], UNSURE, CLASSES[1])
#: Columns of `Decision.find_people`.
PERSON = ("track", "n_faces", "score", "decision", "decides", "note")


def _confident(logits: Array) -> float:
    """Mean of the crops that are surely FAKE if they are over 40%, surely REAL if over 90%."""
    for sure, share in ((logits > CONFIDENT, 0.4), (logits < -CONFIDENT, 0.9)):
        if sure.mean() > share:
            return float(logits[sure].mean())
    return float(logits.mean())


#: Calibrated logits of the crops of one person, (n,), to theirs: the mean; the mean without TRIM of
#: the crops at each end; the median; the mean of the third that looks most FAKE; the mean of the
#: crops that are sure, if enough of them agree, which on log odds is the strategy of the winner of
#: the DFDC (Seferbekov, 2020).
POOLS: dict[str, Callable[[Array], float]] = {
    "mean_logit": lambda logits: float(logits.mean()),
    "trimmed_mean": lambda logits: float(trim_mean(logits, TRIM)),
    "median": lambda logits: float(np.median(logits)),
    "top_third": lambda logits: float(np.sort(logits)[-max(1, len(logits) // 3) :].mean()),
    "confident": _confident,
}
AGGREGATIONS = tuple(POOLS)


@dataclass(frozen=True)
class Decision:
    """The rule that makes answers of logits; chosen on val, kept in `model/decision.json`.

    A file is judged by its people: of each the crops are pooled by themselves, who is hardly seen
    does not decide beside somebody who is, and one fake person makes the file FAKE. Where nobody
    knows whose face a crop is, all crops of a video count as those of one person.

    Attributes:
        temperature, offset: a score, calibrated P(FAKE), is sigmoid(logit / temperature + offset).
        threshold: from this score on it is FAKE.
        rule: of THRESHOLD_RULES, by which the threshold was chosen.
        aggregation: of AGGREGATIONS, how the crops of a person become one score.
        units: what the threshold was chosen on: "tracks" (people) or "videos" (all crops pooled).
        abstention: of `choose_abstention`: UNSURE is `low <= score < high`; None: never.
        prior: share of FAKE for which a score is a probability, that of the crops of val.
        facts: what else decision.json tells.
    """

    temperature: float = 1.0
    threshold: float = 0.5
    rule: str = UNDECIDED
    aggregation: str = "mean_logit"
    offset: float = 0.0
    units: str = "tracks"
    abstention: Mapping[str, float] | None = None
    prior: float | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, given, accepted in (
            ("rule", self.rule, (UNDECIDED, *THRESHOLD_RULES)),
            ("aggregation", self.aggregation, AGGREGATIONS),
            ("units", self.units, ("tracks", "videos")),
        ):
            if given not in accepted:
                raise ValueError(f"{name} is {given!r}; accepted: {', '.join(accepted)}")
        check_number("temperature", self.temperature, 0.01, 1000)
        check_number("offset", self.offset, -2 * OFFSET, 2 * OFFSET)
        if self.prior is not None:
            check_number("prior", self.prior, 0, 1)
        # The threshold of rule "fpr" may lie just above every score.
        for key, value in {"threshold": self.threshold, **(self.abstention or {})}.items():
            check_number(key, value, 0, np.nextafter(1, 2))
        low, high = self.band
        if not low <= self.threshold <= high:
            raise ValueError(f"threshold {self.threshold} lies outside the band {low} to {high}")

    @property
    def band(self) -> tuple[float, float]:
        """(low, high) of UNSURE; both are the threshold where there is none."""
        band = self.abstention or {"low": self.threshold, "high": self.threshold}
        return band["low"], band["high"]

    def describe(self) -> str:
        """The rule in words, for a notebook."""
        low, high = self.band
        how = self.aggregation.replace("_", " ")
        text = (
            f"FAKE from a score of {self.threshold:.3f} on (rule: {self.rule}; temperature "
            f"{self.temperature:.2f}, offset {self.offset:.2f}; the crops of a person by {how})"
        )
        if not self.abstention or low == high:
            return f"{text}, never UNSURE."
        text += f", UNSURE from {low:.3f} to {high:.3f}"
        if not {"coverage", "error", "upper"} <= self.abstention.keys():
            return f"{text}."
        return text + (
            ": of the val videos {coverage:.0%} are decided, {error:.0%} of them wrongly. That is "
            "no promise: with so few videos the error of new ones may be up to {upper:.0%} "
            "(one-sided 95% bound)."
        ).format(**self.abstention)

    def at_prior(self, prior: float) -> Decision:
        """The same decision where another share of what is judged is FAKE, between 0 and 1.

        All log odds move alike, so no ranking changes; threshold and band stay, so where fakes are
        rarer fewer files are called so. Raises ValueError for a share out of range.

        Source: Saerens et al. (2002), Adjusting the Outputs of a Classifier to New a Priori
        Probabilities.
        """
        check_number("PRIOR", prior, 1e-6, 1 - 1e-6)
        known = np.clip(0.5 if self.prior is None else self.prior, 1e-6, 1 - 1e-6)
        shift = float(logit(prior) - logit(known))
        return replace(self, offset=self.offset + shift, prior=prior)

    @property
    def caution(self) -> str:
        """What a threshold that was chosen on pooled videos means for people; "" for others."""
        if self.units == "tracks":
            return ""
        return (
            "The threshold was chosen on whole videos, their crops pooled, for nobody knew whose "
            "face each crop is; here it is applied to each person."
        )

    @classmethod
    def read(cls, folder: str | Path) -> Decision:
        """The decision of a model folder; where 04 has not run, the plain one.

        Raises ValueError that names decision.json and says what is wrong with it.
        """
        path = Path(folder) / "decision.json"
        if not path.is_file():
            return cls()
        values = read_any_json(path)
        check_fields("model/decision.json", values, path)
        known = {f.name for f in fields(cls)} - {"facts"}
        # Who wrote no units had pooled whole videos.
        given = {"units": "videos"} | {name: values[name] for name in known & values.keys()}
        facts = {name: value for name, value in values.items() if name not in known}
        try:
            return cls(**given, facts=facts)
        except (KeyError, TypeError) as error:
            raise ValueError(f"{path}: no decision: {error}") from error
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error

    def write(self, output: str | Path, **facts: Any) -> Path:
        """Write `output/model/decision.json`."""
        values = asdict(self)
        known = dict(values.pop("facts")) | facts
        return write_json(values | known, output, "model/decision.json")

    def score(self, logits: ArrayLike) -> Array:
        """Calibrated P(FAKE) of crops, in the shape of `logits`."""
        return expit(np.asarray(logits, dtype=np.float64) / self.temperature + self.offset)

    def pool(self, logits: ArrayLike) -> float:
        """P(FAKE) of one person from the logits of the crops, (n,), n > 0, each finite."""
        logits = np.asarray(logits, dtype=np.float64)
        if logits.ndim != 1 or not len(logits) or not np.isfinite(logits).all():
            raise ValueError(f"logits {logits.shape} must be (n,), n > 0, each a finite number")
        pooled = POOLS[self.aggregation](logits / self.temperature + self.offset)
        return float(expit(pooled))

    def decide(self, y_score: ArrayLike) -> Array:
        """UNSURE where `low <= score < high`, else FAKE from the threshold on, REAL below it."""
        low, high = self.band
        decided = np.where(np.greater_equal(y_score, self.threshold), CLASSES[1], CLASSES[0])
        unsure = np.greater_equal(y_score, low) & np.less(y_score, high)
        return np.where(unsure, UNSURE, decided)

    def find_people(self, faces: pd.DataFrame, *, by: Sequence[str] = ()) -> pd.DataFrame:
        """One row a person, in the order of their first faces.

        Who is short, uncertain, too small or too blurred does not decide beside somebody who is
        not. That depends on the pictures as they came and never on a logit.

        Args:
            faces: a row a face: `logit`; `track` where it is known, missing ones of a video are
                one person; FACE_FACTS where they are known; `decides` where that is settled.
            by: columns that tell files apart; none if all rows are of one.
        Returns:
            `by` and PERSON: `decision` is that of the person, `note` says why they are not
            clearly seen, or is "".
        """
        if "track" not in faces:
            faces = faces.assign(track=np.nan)
        grouped = faces.groupby([*by, "track"], sort=False, dropna=False)
        people = grouped.size().to_frame("n_faces")
        if self.aggregation == "mean_logit":  # the same as below, without a call a person
            people["score"] = self.score(grouped["logit"].mean())
        else:
            people["score"] = grouped["logit"].agg(self.pool).astype(np.float64)
        for fact, how in zip(FACE_FACTS, ("mean", "median", "median"), strict=True):
            people[fact] = grouped[fact].agg(how) if fact in faces else np.inf
        people = people.reset_index()
        files = [people[name] for name in by] or [np.zeros(len(people))]
        people["longest"] = people.groupby(files, dropna=False)["n_faces"].transform("max")
        short = people["n_faces"] < MIN_SHARE * people["longest"]
        uncertain = people["probability"] < MIN_PROBABILITY
        blind = (people["side"] < MIN_SIDE) | (people["focus"] < MIN_FOCUS)
        clear = ~(short | uncertain | blind)
        # Where nobody is clearly seen, the best seen ones decide.
        anybody = clear.groupby(files, dropna=False).transform("any")
        people["decides"] = clear | (~anybody & ~short)
        if "decides" in faces:  # settled, but the faces of those who decide may be left out here
            people["decides"] = grouped["decides"].first().to_numpy(bool)
            people["decides"] |= ~people.groupby(files, dropna=False)["decides"].transform("any")
        people["decision"] = np.where(blind, UNSURE, self.decide(people["score"]))
        people["note"] = ""
        people.loc[~clear, "note"] = [_note(row) for row in people[~clear].to_dict("records")]
        return people[[*by, *PERSON]]

    def score_crops(self, crops: pd.DataFrame, *, by: Sequence[str]) -> pd.DataFrame:
        """`crops` with `score`, and `decides`: 1 where the person of the face counts, else 0."""
        people = self.find_people(crops, by=by)
        keys = [*by, "track"] if "track" in crops else [*by]
        person = crops.groupby(keys, sort=False, dropna=False).ngroup()
        decides = people["decides"].to_numpy(int)[person]
        return crops.assign(score=self.score(crops["logit"]), decides=decides)

    def judge_videos(self, crops: pd.DataFrame) -> pd.DataFrame:
        """One row a video with its `score`, the highest of those who decide, and `decision`.

        Args:
            crops: a row a crop: `video, source, label, split, logit`, what `find_people` takes, and
                `dataset` if videos of several data sets may share a name.
        Returns: `video, source, label, split, n_faces, score, decision` (`dataset` first, `person`
            and `group` where given), in the order of the first crops; `n_faces` counts crops.
        Raises ValueError: a logit is missing, or a video has two sources, labels or splits.
        """
        keys = [name for name in ("dataset", "video") if name in crops]
        facts = ["source", "label", "split", *(n for n in ("person", "group") if n in crops)]
        if not np.isfinite(crops["logit"]).all():
            raise ValueError("predictions holds a logit that is not a finite number")
        grouped = crops.groupby(keys, sort=False, dropna=False)
        for fact in facts:
            varied = grouped[fact].nunique(dropna=False) > 1
            if varied.any():
                raise ValueError(f"video {varied.idxmax()} has more than one {fact}")
        people = self.find_people(crops, by=keys)
        people["rank"] = people["decision"].map(ORDER.index)
        judged = people[people["decides"]].groupby(keys, sort=False, dropna=False)
        videos = grouped[facts].first().assign(n_faces=grouped.size())
        videos = videos.join(judged[["score", "rank"]].max())
        videos["decision"] = [ORDER[rank] for rank in videos.pop("rank")]
        return videos.reset_index()

    def judge_file(self, people: pd.DataFrame) -> tuple[float, str, str]:
        """Score, decision and reason for a file with at least one person.

        One fake person makes the file FAKE; else one UNSURE person makes it UNSURE.

        Args: `people` of `find_people`.
        Returns: the highest score of those who decide; the decision; why it is UNSURE, or who
            decided where there are several people, else "".
        """
        deciding = people[people["decides"]]
        decision = max(deciding["decision"], key=ORDER.index)
        who = deciding[deciding["decision"] == decision]
        who = who.loc[who["score"].idxmax()]
        reasons = []
        if decision == UNSURE:
            notes = [note for note in who["note"].split("; ") if note.startswith("too")]
            why = f"score {who['score']:.2f} lies between {self.band[0]:.2f} and {self.band[1]:.2f}"
            prefix = f"person {who['track']}: " if len(deciding) > 1 else ""
            reasons.append(prefix + (f"faces {'; '.join(notes)}" if notes else why))
        elif len(deciding) > 1 and decision == CLASSES[1]:
            reasons.append(f"person {who['track']}, one of {len(deciding)}, looks fake")
        for other in people[~people["decides"] & (people["score"] >= self.threshold)].itertuples():
            who_else = f"person {other.track} scores {other.score:.2f}"
            reasons.append(f"{who_else}, not counted: {other.note}")
        return float(deciding["score"].max()), decision, "; ".join(reasons)


def _note(person: Mapping[Any, Any]) -> str:
    """Why a person is not clearly seen; those notes that begin with "too" leave them UNSURE."""
    notes = []
    if person["n_faces"] < MIN_SHARE * person["longest"]:
        notes.append(f"short: {person['n_faces']} of {person['longest']} frames")
    if person["probability"] < MIN_PROBABILITY:
        notes.append(f"uncertain: a face by {person['probability']:.0%} only")
    if person["side"] < MIN_SIDE:
        notes.append(f"too small: {person['side']:.0f} pixels, {MIN_SIDE} are needed")
    if person["focus"] < MIN_FOCUS:
        notes.append("too blurred")
    return "; ".join(notes)


def choose_decision(
    val: pd.DataFrame,
    *,
    rule: str = "balanced_accuracy",
    aggregation: str = "auto",
    fpr_target: float = 0.05,
    cost_ratio: float = 1.0,
    target_error: float = 0.1,
) -> Decision:
    """Choose calibration, aggregation, threshold and band, in this order, on the val split.

    `val` is a row a crop, as for `Decision.judge_videos`; `aggregation` one of AGGREGATIONS, or
    "auto" for that of the lowest log loss on val; the rest as in `choose_threshold` and
    `choose_abstention`.
    """
    temperature, offset = fit_calibration(val["logit"], y_true_of(val))
    calibrated = Decision(temperature, offset=offset, prior=float(y_true_of(val).mean()))
    if aggregation == "auto":
        aggregation = str(compare_aggregations(val, calibrated)["how"].iloc[0])
    calibrated = replace(calibrated, aggregation=aggregation)
    videos = calibrated.judge_videos(val)
    y_true, y_score = y_true_of(videos), videos["score"]
    targets = {"fpr_target": fpr_target, "cost_ratio": cost_ratio}
    threshold = choose_threshold(y_true, y_score, rule=rule, **targets)
    band = choose_abstention(y_true, y_score, threshold=threshold, target_error=target_error)
    units = "tracks" if "track" in val and val["track"].notna().all() else "videos"
    return replace(
        calibrated,
        threshold=threshold,
        rule=rule,
        units=units,
        abstention=band,
        facts={"targets": targets},
    )


def compare_aggregations(val: pd.DataFrame, calibrated: Decision) -> pd.DataFrame:
    """`how, log_loss, roc_auc` of each of AGGREGATIONS on the videos of val, so calibrated.

    The lowest log loss comes first, and of equals the simplest.
    """
    rows = []
    for how in AGGREGATIONS:
        videos = replace(calibrated, aggregation=how).judge_videos(val)
        table = score_table(y_true_of(videos), videos["score"], threshold=0.5)
        rows.append({"how": how, "log_loss": table["log_loss"], "roc_auc": table["roc_auc"]})
    order = pd.DataFrame(rows).round({"log_loss": 9})
    return order.sort_values("log_loss", kind="stable").reset_index(drop=True)
