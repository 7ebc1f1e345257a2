"""The words of the report: names, numbers as text, and the facts that its sentences are made of.

Every number comes from the artefacts. Sentences that judge follow stated rules, and what an
interval does not exclude is not claimed. A value of None reads "not defined".

The sentences themselves are in sentences.jinja.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import ChainableUndefined, Environment, FileSystemLoader, Undefined

NOT_DEFINED = "not defined"
#: In the order of the tables; "balanced_" before a key means that both classes weigh the same.
METRIC_NAMES = {
    "roc_auc": "ROC AUC",
    "average_precision": "Average precision",
    "balanced_accuracy": "Balanced accuracy",
    "accuracy": "Accuracy",
    "precision": "Precision",
    "recall": "Recall",
    "specificity": "Specificity",
    "f1": "F1",
    "tpr_at_fpr_1": "Recall at 1% false alarms",
    "tpr_at_fpr_5": "Recall at 5% false alarms",
    "eer": "Equal error rate",
    "log_loss": "Log loss",
    "brier": "Brier score",
    "ece": "Expected calibration error",
}
LOWER_IS_BETTER = ("eer", "log_loss", "brier", "ece")
#: What slices are grouped by.
SLICE_NAMES = {
    "method": "Method (its fakes against all real videos)",
    "dataset": "Data set",
    "faces": "Faces in a frame",
    "face_size": "Size of the face (pixels)",
    "brightness": "Brightness (0 to 1)",
    "sharpness": "Sharpness (log10 variance of the Laplacian)",
}
#: Name and unit of the severity.
CORRUPTION_NAMES = {
    "jpeg": ("JPEG", "quality"),
    "blur": ("Blur", "deviation, px of 160"),
    "downscale": ("Shrunk and back", "factor"),
    "noise": ("Noise", "deviation, grey levels"),
    "darker": ("Darker", "factor"),
    "brighter": ("Brighter", "factor"),
    "contrast": ("Less contrast", "factor"),
    "h264": ("H.264", "constant rate factor"),
}
#: In the order of the report.
FIGURE_NAMES = {
    "roc": "ROC curve",
    "precision_recall": "Precision and recall",
    "scores": "Scores by class",
    "confusion": "Confusion matrix",
    "calibration": "Calibration",
    "intervals": "Scores with their intervals",
    "slices": "Groups of the test split",
    "robustness": "Robustness",
    "heat_maps": "What speaks for FAKE",
    "errors": "The worst errors",
    "history": "Training history",
}
#: The four questions of the first screen, and what answers them in sentences.jinja.
QUESTIONS = {
    "How good is it?": "how_good",
    "How sure are we?": "how_sure",
    "Where does it fail?": "where_it_fails",
    "Can I use it?": "can_i_use_it",
}


def name_of(key: str, names: Mapping[str, str]) -> str:
    """The name of `key` in `names`, or one made from it: "my_own" is "My own"."""
    words = key.replace("_", " ").replace("-", " ")
    return names.get(key, words[:1].upper() + words[1:])


def corruption(key: str) -> tuple[str, str]:
    """Name and unit of a corruption; of one without a name, made from its key."""
    return CORRUPTION_NAMES.get(key, (name_of(key, {}), "severity"))


def metric_names(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Name of every metric that metrics.json holds by its key, those without a name last."""
    names: dict[str, str] = {}
    for key, name in METRIC_NAMES.items():
        names[key] = name
        names.setdefault(f"balanced_{key}", f"{name}, classes weighing the same")
    present = {**metrics["video"], **metrics["frame"]}
    return {key: name_of(key, names) for key in (*names, *present) if key in present}


def as_number(x: Any) -> float | None:
    """The number in a bare number or a `{value, low, high}`; None where there is none."""
    x = x.get("value") if isinstance(x, Mapping) else x
    is_number = isinstance(x, Real) and not isinstance(x, bool) and math.isfinite(x)
    return float(x) if is_number else None


def number(x: Any, digits: int = 3) -> str:
    """`0.938`, or "not defined"."""
    return _written(x, f".{digits}f")


def percent(x: Any) -> str:
    """`93.8%` of a share, or "not defined"."""
    return _written(x, ".1%")


def count(x: Any) -> str:
    """`1,920`, or "not defined"."""
    return _written(x, ",.0f")


def _written(x: Any, form: str) -> str:
    value = as_number(x)
    return NOT_DEFINED if value is None else format(value, form)


def interval(x: Any, show: Callable[[Any], str] = number) -> str:
    """`0.888 to 0.978` of a `{value, low, high}`; empty where it has none."""
    ends = [x.get("low"), x.get("high")] if isinstance(x, Mapping) else [None]
    return "" if None in map(as_number, ends) else " to ".join(map(show, ends))


def estimate(x: Any, show: Callable[[Any], str] = number) -> str:
    """`0.938 (0.888 to 0.978)`; without the brackets where there is no interval."""
    within = interval(x, show)
    return f"{show(x)} ({within})" if within else show(x)


def in_words(x: Any) -> str:
    """Any value of an artefact in words: yes and no, lists with commas, None as "not defined"."""
    if x is None or isinstance(x, Undefined) or (isinstance(x, float) and math.isnan(x)):
        return NOT_DEFINED
    if isinstance(x, bool):
        return "yes" if x else "no"
    if isinstance(x, Mapping):
        return ", ".join(f"{key}: {in_words(value)}" for key, value in x.items())
    if isinstance(x, (list, tuple)):
        return ", ".join(in_words(value) for value in x)
    return f"{x:.6g}" if isinstance(x, float) else str(x)


def verdict(metrics: Mapping[str, Any]) -> tuple[str, str]:
    """One sentence on the whole and the answer to "can I use it?", from the interval of the AUC."""
    headline, use = _say("verdict", _facts(metrics))
    return headline, use


def questions(metrics: Mapping[str, Any]) -> dict[str, list[str]]:
    """The four questions of the first screen, each with the sentences that answer it."""
    facts = {**_facts(metrics), "use": verdict(metrics)[1]}
    return {question: _say(block, facts) for question, block in QUESTIONS.items()}


def captions(metrics: Mapping[str, Any], history: pd.DataFrame | None) -> dict[str, str]:
    """A caption of each known figure that reads it with its numbers; empty where they lack."""
    facts = _facts(metrics)
    if history is not None:
        kept = history[history["epoch"] == metrics.get("model", {}).get("best_epoch")]
        facts |= {"epochs": len(history), "kept": next(iter(kept.to_dict("records")), None)}
    return {figure: " ".join(_say(figure, facts)) for figure in FIGURE_NAMES}


def _say(block: str, facts: Mapping[str, Any]) -> list[str]:
    """The paragraphs of one block of sentences.jinja, each on one line."""
    template = environment().get_template("sentences.jinja")
    text = "".join(template.blocks[block](template.new_context(dict(facts))))
    return [line for part in text.split("\n\n") if (line := " ".join(part.split()))]


def environment(**options: Any) -> Environment:
    """Jinja over this folder; what is missing reads "not defined" once it passes our filters."""
    options |= {"undefined": ChainableUndefined, "trim_blocks": True, "lstrip_blocks": True}
    jinja = Environment(loader=FileSystemLoader(Path(__file__).parent), **options)
    for show in (number, percent, count, interval, estimate, in_words, name_of):
        jinja.filters[show.__name__] = show
    jinja.globals["percent"] = percent
    return jinja


def _facts(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """metrics.json and what sentences need beyond it."""
    baselines, band = metrics["baselines"], metrics.get("abstention") or {}
    others = [row for row in metrics.get("generalisation") or [] if row.get("elsewhere")]
    slices = metrics.get("slices", {})
    return {
        "level": 0.95,
        **metrics,
        "auc": metrics["video"].get("roc_auc") or {},
        "majority": baselines.get("majority", {}).get("video", {}),
        "files": baselines.get("zero_pixel", {}).get("roc_auc") or {},
        "band": band if band.get("low") != band.get("high") else {},
        "weakest": weakest(metrics),
        "some_small": any(row.get("small") for rows in slices.values() for row in rows.values()),
        "hardest": _lowest(stress_rows(metrics.get("robustness", {}))),
        "elsewhere": _lowest(others),
    }


def weakest(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """The group of the lowest AUC of all slices of two groups or more, with its `by` and `name`.

    Small groups count only where there is no other: their AUC may be low by luck.
    """
    return _lowest(
        {"by": by.replace("_", " "), "name": name, **group}
        for by, groups in metrics.get("slices", {}).items()
        for name, group in groups.items()
        if len(groups) > 1
    )


def stress_rows(robustness: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The scores of each condition with its `name`: "JPEG 30" or "Darker × 0.25"; no clean."""
    rows = []
    for key, severities in robustness.items():
        name, unit = corruption(key)
        times = "× " if unit == "factor" else ""
        if key != "clean":
            rows += [{"name": f"{name} {times}{s}", **row} for s, row in severities.items()]
    return rows


def _lowest(rows: Iterable[Mapping[str, Any]]) -> Any:
    """The row of the lowest ROC AUC, a small one only where there is no other; None without one."""
    known = [row for row in rows if as_number(row.get("roc_auc")) is not None]
    ranked = sorted(known, key=lambda row: (bool(row.get("small")), row["roc_auc"]["value"]))
    return ranked[0] if ranked else None
