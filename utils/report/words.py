"""The words of the report: numbers as text, the verdict, the answers, the captions.

Every number comes from the artefacts. Sentences that judge follow stated rules, and what an
interval does not exclude is not claimed. A value of None reads "not defined".
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import pandas as pd
from jinja2 import Undefined

from utils.report.score_figures import CORRUPTION_NAMES

NOT_DEFINED = "not defined"


def as_number(x: Any) -> float | None:
    """The number in a bare number or a `{value, low, high}`; None where there is none."""
    x = x.get("value") if isinstance(x, Mapping) else x
    is_number = isinstance(x, Real) and not isinstance(x, bool) and math.isfinite(x)
    return float(x) if is_number else None


def number(x: Any, digits: int = 3) -> str:
    """`0.938`, or "not defined"."""
    value = as_number(x)
    return NOT_DEFINED if value is None else f"{value:.{digits}f}"


def percent(x: Any) -> str:
    """`93.8%` of a share, or "not defined"."""
    value = as_number(x)
    return NOT_DEFINED if value is None else f"{value:.1%}"


def count(x: Any) -> str:
    """`1,920`, or "not defined"."""
    value = as_number(x)
    return NOT_DEFINED if value is None else f"{value:,.0f}"


def interval(x: Any) -> str:
    """`0.888 to 0.978` of a `{value, low, high}`; empty where it has none."""
    low, high = (
        as_number(x.get(end)) if isinstance(x, Mapping) else None for end in ("low", "high")
    )
    return "" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def percent_interval(x: Any) -> str:
    """`10.0% to 50.0%` of a `{value, low, high}` of shares; empty where it has none."""
    ends = [as_number(x.get(end)) if isinstance(x, Mapping) else None for end in ("low", "high")]
    return "" if None in ends else " to ".join(map(percent, ends))


def plain(x: Any) -> str:
    """Any value of an artefact in words: yes and no, lists with commas, None as "not defined"."""
    if x is None or isinstance(x, Undefined) or (isinstance(x, float) and math.isnan(x)):
        return NOT_DEFINED
    if isinstance(x, bool):
        return "yes" if x else "no"
    if isinstance(x, Mapping):
        return ", ".join(f"{key}: {plain(value)}" for key, value in x.items())
    if isinstance(x, (list, tuple)):
        return ", ".join(plain(value) for value in x)
    return f"{x:.6g}" if isinstance(x, float) else str(x)


def auc_of(metrics: Mapping[str, Any]) -> tuple[float | None, float | None, float | None]:
    """(value, low, high) of the ROC AUC by video."""
    auc = metrics["video"].get("roc_auc") or {}
    return as_number(auc), as_number(auc.get("low")), as_number(auc.get("high"))


def zero_pixel(metrics: Mapping[str, Any]) -> Mapping[str, Any]:
    """The AUC that file and crop sizes reach, empty where it was not measured."""
    return metrics["baselines"].get("zero_pixel", {}).get("roc_auc") or {}


def verdict(metrics: Mapping[str, Any]) -> dict[str, str]:
    """One sentence on the whole and the answer to "can I use it?", from the interval of the AUC."""
    value, low, high = auc_of(metrics)
    files = as_number(zero_pixel(metrics))
    no = "No. On this test nothing shows that the scores mean anything."
    hint = "As a hint to look closer at a video, on fakes of the kinds it was trained on."
    if value is None:
        return {
            "headline": "Not measurable: the ROC AUC is not defined on this test split.",
            "use": "Not on this evidence: test it on videos of both classes.",
        }
    if low is None or high is None:
        return {
            "headline": "Measured, but without an interval: nobody can say how sure it is.",
            "use": "Not on this evidence: a number without an interval is no ground.",
        }
    if high < 0.5:
        return {
            "headline": "Worse than chance: it ranks real videos above fakes.",
            "use": "No. Its scores point the wrong way; look for swapped labels first.",
        }
    if low <= 0.5:
        return {"headline": "No evidence that it beats chance.", "use": no}
    if files is not None and low <= files:
        return {
            "headline": "Better than chance, but not clearly better than what the files alone "
            "give away.",
            "use": "Not yet: a classifier that looks at no pixel may do as well on this data.",
        }
    if low >= 0.9:
        return {"headline": "It tells fakes from real videos well on this test.", "use": hint}
    if low >= 0.7:
        return {"headline": "Clearly better than chance, with errors to expect.", "use": hint}
    return {
        "headline": "Better than chance, but weak.",
        "use": "Hardly: it errs too often to act on, save for study.",
    }


def answers(metrics: Mapping[str, Any]) -> list[tuple[str, list[str]]]:
    """The four questions of the first screen, each with its sentences."""
    video, majority = metrics["video"], metrics["baselines"].get("majority", {}).get("video", {})
    balanced, accuracy = video.get("balanced_accuracy"), video.get("accuracy")
    value, low, high = auc_of(metrics)
    good = [
        f"Video by video, the ROC AUC is {number(value)}"
        + (f": a fake outscores a real video in {percent(value)} of pairs." if value else "."),
        f"Balanced accuracy is {number(balanced)}, where always answering the majority class gets "
        f"{number(majority.get('balanced_accuracy'))}.",
    ]
    ours, theirs = as_number(accuracy), as_number(majority.get("accuracy"))
    if ours is not None and theirs is not None:
        word = "above" if ours > theirs else "not above"
        good.append(
            f"Plain accuracy, {number(ours)}, is {word} the {number(theirs)} of always "
            "answering the majority."
        )
    sources = metrics.get("n", {}).get("video", {}).get("sources")
    level = percent(metrics.get("level", 0.95)).replace(".0%", "%")
    sure = ["The ROC AUC has no interval."]
    if low is not None and high is not None:
        over = f" (resampling {count(sources)} source videos)" if sources is not None else ""
        holds = (
            "It holds 0.5, so chance is not ruled out."
            if low <= 0.5 <= high
            else ("It rules out chance (0.5).")
        )
        sure = [
            f"The {level} interval of the ROC AUC by video runs from {number(low)} to "
            f"{number(high)}{over}. {holds}"
        ]
    if sources is not None and sources < 30:
        sure.append(f"With {count(sources)} source videos the interval itself is rough.")
    files = zero_pixel(metrics)
    if as_number(files) is not None:
        sure.append(
            f"Without looking at a pixel, file and crop sizes alone reach {number(files)}"
            + (f" ({interval(files)})." if interval(files) else ".")
        )
    luck = metrics["baselines"].get("shuffled_labels", {}).get("roc_auc")
    if as_number(luck) is not None:
        sure.append(f"On shuffled labels the same scores reach {interval(luck)}: that is luck.")
    use = [verdict(metrics)["use"], "Never as proof about a person or in court."]
    band = metrics.get("abstention") or {}
    if as_number(band.get("coverage")) is not None and band.get("low") != band.get("high"):
        use.append(
            f"It may answer UNSURE (scores from {number(band['low'], 2)} to "
            f"{number(band['high'], 2)}): on val it then decided {percent(band['coverage'])} of "
            f"the videos and erred on {percent(band.get('error'))} of those."
        )
        target = as_number(band.get("target"))
        if target is not None and (as_number(band.get("error")) or 0) > target:
            use.append(f"No band reached the error of {percent(target)} that was asked for.")
        effect = band.get("test") or {}
        if as_number(effect.get("error")) is not None:
            use.append(
                f"On test it decided {percent(effect['coverage'])} and erred on "
                f"{percent(effect['error'])} ({percent_interval(effect['error'])}) of those."
            )
    return [
        ("How good is it?", good),
        ("How sure are we?", sure),
        ("Where does it fail?", failures(metrics)),
        ("Can I use it?", use),
    ]


def failures(metrics: Mapping[str, Any]) -> list[str]:
    """Where it fails: errors of each class, the weakest group, corruption and other data set."""
    sentences = []
    matrix = metrics.get("confusion", {}).get("video")
    if matrix:
        (tn, fp), (fn, tp) = matrix
        for wrong, total, what, fate in (
            (fp, tn + fp, "real videos", "called FAKE"),
            (fn, fn + tp, "fakes", "missed"),
        ):
            share = f" ({percent(wrong / total)})" if total else ""
            verb = "is" if wrong == 1 else "are"
            sentences.append(f"{count(wrong)} of {count(total)} {what}{share} {verb} {fate}.")
    group = weakest(metrics)
    if group:
        by, name, auc = group
        within = f" ({interval(auc)})" if interval(auc) else ""
        sentences.append(
            f"Weakest group by {by.replace('_', ' ')}: {name}, ROC AUC {number(auc)}{within}."
        )
    worst = hardest(metrics)
    if worst:
        title, severity, row = worst
        sentences.append(
            f"Hardest corruption: {title} {severity}, ROC AUC {number(row['roc_auc'])}"
            f" where clean pictures reach {number(metrics['robustness']['clean']['roc_auc'])}."
        )
    elsewhere = [row for row in metrics.get("generalisation") or [] if row.get("elsewhere")]
    known = [row for row in elsewhere if as_number(row.get("roc_auc")) is not None]
    if known:
        row = min(known, key=lambda row: as_number(row["roc_auc"]) or 0.0)
        within = f" ({interval(row['roc_auc'])})" if interval(row["roc_auc"]) else ""
        sentences.append(
            f"On other data, {row['tested_on']}: ROC AUC {number(row['roc_auc'])}{within}."
        )
    return sentences or ["The errors were not counted."]


def weakest(metrics: Mapping[str, Any]) -> tuple[str, str, Mapping[str, Any]] | None:
    """(kind of slice, name, AUC) of the lowest AUC of all slices of two groups or more.

    Small groups count only where there is no other: their AUC may be low by luck.
    """
    known = [
        (bool(group.get("small")), value, by, name, group["roc_auc"])
        for by, groups in metrics.get("slices", {}).items()
        for name, group in groups.items()
        if len(groups) > 1 and (value := as_number(group.get("roc_auc"))) is not None
    ]
    return min(known, key=lambda row: row[:2])[2:] if known else None


def stress_rows(robustness: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(corruption, severity, scores) of each condition, clean left out."""
    return [
        (CORRUPTION_NAMES.get(name, (name, ""))[0], str(severity), row)
        for name, rows in robustness.items()
        if name != "clean"
        for severity, row in rows.items()
    ]


def hardest(metrics: Mapping[str, Any]) -> tuple[str, str, Mapping[str, Any]] | None:
    """The condition of the lowest ROC AUC."""
    rows = [
        row
        for row in stress_rows(metrics.get("robustness", {}))
        if as_number(row[2].get("roc_auc")) is not None
    ]
    return min(rows, key=lambda row: as_number(row[2]["roc_auc"]) or 0.0) if rows else None


def captions(metrics: Mapping[str, Any], history: pd.DataFrame | None) -> dict[str, str]:
    """One line for each known figure that reads it with its numbers."""
    video, frame, baselines = metrics["video"], metrics["frame"], metrics["baselines"]
    n, band = metrics.get("n", {}).get("video", {}), metrics.get("abstention") or {}
    auc, precision = video.get("roc_auc"), video.get("average_precision")
    within = f" ({interval(auc)})" if interval(auc) else ""
    balanced = "balanced_accuracy"
    majority = baselines.get("majority", {}).get("video", {})
    stages = metrics.get("calibration") or {}
    before, after = (stages.get(stage, {}).get("ece") for stage in ("crops_before", "crops_after"))
    has_band = as_number(band.get("low")) is not None and band["low"] != band.get("high")
    unsure = (
        f"; between {number(band['low'], 2)} and {number(band['high'], 2)} the answer is UNSURE."
        if has_band
        else "."
    )
    lines = {
        "roc": f"The area under the curve is {number(auc)}{within}; the diagonal is chance.",
        "precision_recall": f"Average precision is {number(precision)}; calling everything FAKE "
        f"reaches {number(majority.get('average_precision'))}.",
        "confusion": " ".join(failures({**metrics, "slices": {}, "robustness": {}})),
        "scores": f"Scores from {number(metrics['threshold'], 2)} on are called FAKE" + unsure,
        "intervals": f"Balanced accuracy is {number(frame.get(balanced))} by crop and "
        f"{number(video.get(balanced))} by video, against {number(majority.get(balanced))} for "
        "always answering the majority (crosses).",
        "calibration": "On the diagonal a score is the share of fakes among the crops that get it. "
        f"Dividing the logits by {number(metrics['temperature'], 2)}, chosen on val, takes the "
        f"calibration error of the test crops from {number(before)} to {number(after)}.",
    }
    lines["slices"] = "Each group of fakes against all real test videos."
    group = weakest(metrics)
    if group:
        by, name, auc = group
        lines["slices"] = (
            f"The weakest group by {by.replace('_', ' ')} is {name}, with {number(auc)}."
        )
    if any(
        row.get("small") for rows in metrics.get("slices", {}).values() for row in rows.values()
    ):
        lines["slices"] += " Grey groups are small: their intervals are rough."
    matrix = metrics.get("confusion", {}).get("video")
    if matrix:
        wrong, total = matrix[0][1] + matrix[1][0], sum(map(sum, matrix))
        lines["errors"] = (
            f"{count(wrong)} of {count(total)} test videos are decided wrongly; these are furthest "
            "on the wrong side. Left their frames, right the training faces that the network takes "
            "for most alike; frames in the colour of the truth (blue REAL, vermilion FAKE)."
        )
    worst = hardest(metrics)
    if worst:
        clean = metrics["robustness"]["clean"]
        lines["robustness"] = (
            f"Clean pictures of the same {count(clean.get('n'))} videos reach "
            f"{number(clean['roc_auc'])} (dashed); lowest is {worst[0]} {worst[1]} with "
            f"{number(worst[2]['roc_auc'])}. Bars are 95% intervals, the dots at 0.5 chance."
        )
    why = metrics.get("explanation") or {}
    if why:
        lines["heat_maps"] = (
            "Vermilion parts speak for FAKE, blue ones for REAL; the number is P(FAKE). "
            + _sanity(why)
        )
    best = metrics.get("model", {}).get("best_epoch")
    if history is not None and best in set(history["epoch"]):
        row = history.loc[history["epoch"] == best].iloc[0]
        lines["history"] = (
            f"Epoch {best} of {len(history)} was kept, with a ROC AUC on val of "
            f"{number(row['val_auc'])} and a loss of {number(row['val_loss'])}."
        )
    if n:
        lines["roc"] += f" {count(n.get('REAL'))} real and {count(n.get('FAKE'))} fake videos."
    return lines


def _sanity(why: Mapping[str, Any]) -> str:
    """What the two checks of the heat maps allow to be read from them."""
    same = as_number(why.get("agreement_with_random"))
    if same is None:
        words = "Whether random weights give the same maps was not measured."
    elif same < 0.5:
        words = (
            f"Maps of a network of random weights correlate with them at {number(same)} only, so "
            "they are not due to its build alone."
        )
    else:
        words = (
            f"A network of random weights gives much the same maps (correlation {number(same)}): "
            "do not read them as reasons."
        )
    aimed = why.get("pointing") or {}
    if aimed.get("n"):
        words += (
            f" The hottest place lies in the manipulated part in {percent(aimed['hit'])} of "
            f"{count(aimed['n'])} fake crops, against {percent(aimed['chance'])} by chance"
        )
        low = as_number(aimed["gain"].get("low"))
        unclear = low is None or low <= 0
        words += ", which does not rule out chance." if unclear else "."
    return words
