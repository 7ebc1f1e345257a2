"""The report: its words and numbers as text, and `report.html` and report.md made of them.

Every number comes from the artefacts. Sentences that judge follow stated rules, and what an
interval does not exclude is not claimed. A value of None reads "not defined". The sentences stand
in sentences.jinja, the layout in template.html. The page loads nothing and runs nothing, so it can
be mailed and opened offline; what comes from the data adds no markup.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from io import BytesIO
from numbers import Real
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from jinja2 import ChainableUndefined, Environment, FileSystemLoader, Undefined
from PIL import Image

from utils.run.artifacts import atomic_path, find_artifact, read_json, read_table
from utils.run.machine import printable

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
    "group": "Group, such as DFDC's part",
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
FIGURES_BYTES = 6_500_000  # base64 adds a third; the page stays under 10 MB
#: Full of small print: they get the whole width, whatever their shape.
WIDE = ("intervals", "slices", "heat_maps", "errors")
#: What stands between them in the model card is written anew.
START, END = "<!-- evaluation -->", "<!-- /evaluation -->"


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
        "split_by": metrics.get("data", {}).get("split_by", "source"),
    }


def weakest(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """The group of the lowest AUC of all slices of two groups or more, with its `by` and `name`.

    Small groups count only where there is no other: their AUC may be low by luck.
    """

    def in_sentence(by: str) -> str:
        words = name_of(by, SLICE_NAMES).partition(" (")[0]
        return words[:1].lower() + words[1:]

    return _lowest(
        {"by": in_sentence(by), "name": name, **group}
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


def write_report(output: str | Path) -> Path:
    """Write `output/report.html` and report.md; return the former.

    They render metrics.json; `data_audit.json`, `history.csv`, `augment.json` and
    `model/decision.json` are used where they are found (in `output`, then in every Kaggle input),
    `figures/*.png` where present. The card of `output/model`, where it is, gets the evaluation.

    Raises:
        FileNotFoundError: metrics.json is missing; says which notebook writes it.
        ValueError: an artefact lacks a key or column.
    """
    output = Path(output)
    metrics = read_json(output, "metrics.json")
    history = _optional(output, "history.csv")
    figures = figures_in(output / "figures", captions(metrics, history))
    card = output / "model" / "README.md"
    if card.is_file():
        write_text(card, with_evaluation(card.read_text("utf-8", "replace"), metrics))
    write_text(output / "report.md", markdown(metrics, figures))
    page = environment(autoescape=True).get_template("template.html")
    html = page.render(
        metrics=metrics,
        names=metric_names(metrics),
        lower=LOWER_IS_BETTER,
        groups_by=SLICE_NAMES,
        headline=verdict(metrics)[0],
        questions=questions(metrics),
        figures=embed_figures(figures),
        decision={**metrics, **(_optional(output, "model/decision.json") or {})},
        audit=_optional(output, "data_audit.json"),
        augment=_optional(output, "augment.json"),
        history=history,
        stress=stress_rows(metrics["robustness"]),
    )
    return write_text(output / "report.html", html)


def _optional(output: Path, name: str) -> Any:
    try:
        folder = find_artifact(name, output)
    except (FileNotFoundError, ValueError):  # nowhere, or which one is not known
        return None
    return read_table(folder, name) if name.endswith(".csv") else read_json(folder, name)


def write_text(path: Path, text: str) -> Path:
    """Write a page, without what would steer a terminal or turn the text around it."""
    text = re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", "\ufffd", text)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")
    return path


def figures_in(folder: Path, captions: Mapping[str, str]) -> list[dict[str, Any]]:
    """Path, title and caption of each picture of `folder`, the known ones first."""
    rank = {stem: i for i, stem in enumerate(FIGURE_NAMES)}
    paths = sorted(folder.glob("*.png"), key=lambda path: (rank.get(path.stem, 99), path.stem))
    titles = [name_of(path.stem, FIGURE_NAMES) for path in paths]
    return [
        {"path": path, "title": title, "caption": captions.get(path.stem) or f"{title}."}
        for path, title in zip(paths, titles, strict=True)
    ]


def embed_figures(figures: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The figures with what the page needs to show them: size in pixels and data URI."""
    embedded = []
    for figure in figures:
        path = figure["path"]
        kind, data = _encode(path, FIGURES_BYTES // len(figures))
        with Image.open(path) as image:
            width, height = image.size
        uri = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
        wide = width > 1.3 * height or path.stem in WIDE
        embedded.append({**figure, "uri": uri, "width": width, "height": height, "wide": wide})
    return embedded


def _encode(path: Path, budget: int) -> tuple[str, bytes]:
    """The file as it is, or as a smaller and smaller JPEG until it fits into `budget` bytes."""
    data, kind = path.read_bytes(), "png"
    if len(data) <= budget:
        return kind, data
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    while len(data) > budget and min(image.size) > 16:
        buffer = BytesIO()
        image.save(buffer, "JPEG", quality=85, optimize=True)
        data, kind = buffer.getvalue(), "jpeg"
        image = image.resize((int(image.width * 0.8), int(image.height * 0.8)))
    return kind, data


def markdown(metrics: Mapping[str, Any], figures: Sequence[Mapping[str, Any]]) -> str:
    """The report as Markdown, its pictures beside it."""
    parts = ["# Deepfake detection: evaluation report", f"**{escaped(verdict(metrics)[0])}**"]
    for question, sentences in questions(metrics).items():
        parts += [f"## {question}", "\n".join(f"- {escaped(sentence)}" for sentence in sentences)]
    parts += ["## Scores", score_table(metrics), "## Figures"]
    for figure in figures:
        title = escaped(figure["title"])
        link = f"![{title}](figures/{quote(figure['path'].name)})"
        parts += [f"### {title}", escaped(figure["caption"]), link]
    return "\n\n".join([*parts, "## Reproduce", _reproduction(metrics)]) + "\n"


def with_evaluation(card: str, metrics: Mapping[str, Any]) -> str:
    """The model card with what 04 found; an earlier evaluation in it is replaced."""
    before, _, rest = card.partition(START)
    after = rest.rpartition(END)[2]  # all of it where the mark is missing
    card = "\n".join(filter(None, (before.rstrip(), after.strip())))
    parts = [card, START, "## Evaluation", f"**{escaped(verdict(metrics)[0])}**"]
    for question, sentences in questions(metrics).items():
        parts.append(f"### {question}\n" + " ".join(map(escaped, sentences)))
    return "\n\n".join([*parts, score_table(metrics), _reproduction(metrics), END]) + "\n"


def score_table(metrics: Mapping[str, Any]) -> str:
    """Every metric by video and crop, each with its interval, as a Markdown table."""
    rows = ["| on test | videos | crops |", "|---|---|---|"]
    for key, name in metric_names(metrics).items():
        cells = [estimate(metrics[level].get(key)) for level in ("video", "frame")]
        rows.append(f"| {escaped(name)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def escaped(text: Any) -> str:
    """Text on one line in which no character means anything to Markdown, HTML or a terminal."""
    line = escape(printable(" ".join(in_words(text).split())), quote=False)
    line = re.sub(r"([\\`*\[\]#|!~$]|(?<![^\W_])_|_(?![^\W_]))", r"\\\1", line)
    # A comment breaks what renderers would make a link of: https://…, www.…, me@…
    return re.sub(r"(?<=:)(?=//)|(?<=www)(?=\.)|(?<=@)", "<!-- -->", line, flags=re.IGNORECASE)


def _reproduction(metrics: Mapping[str, Any]) -> str:
    """What one needs to reproduce the numbers, as a Markdown list."""
    data = metrics.get("data", {})
    facts = {
        "Network": metrics.get("model", {}).get("name"),
        "Data sets": data.get("datasets"),
        "Data fingerprint": data.get("fingerprint"),
        "Threshold": number(metrics["threshold"]),
        "Temperature": number(metrics["temperature"]),
        "Offset": number(metrics.get("offset", 0.0)),
        "Seed": metrics.get("seed"),
        "Date": metrics.get("date"),
        "Versions": metrics.get("versions"),
    }
    known = {name: value for name, value in facts.items() if value is not None}
    return "\n".join(f"- {name}: {escaped(value)}" for name, value in known.items())


def how_far_apart(audit: Mapping[str, Any]) -> str:
    """What the split keeps apart and what may flatter, from data_audit.json; "" of older ones."""
    if "split_by" not in audit:
        return ""
    ways = {
        "official": "The official split was kept",
        "person": "The split is by person",
        "group": "The split is by group, such as DFDC's part",
        "source": "The split is by source, so no scene is on two sides",
    }
    known, unknown, n = (audit[f"test_videos{name}"] for name in ("_known", "_unknown", ""))
    shown = {
        "person": "show a person who was trained on",
        "group": "are of a group, such as DFDC's part, that was trained on",
    }
    parts = [ways[audit["split_by"]]]
    if by := audit["known_by"]:
        parts.append(f"{known:,} of {n:,} test videos {shown[by]}")
        if unknown:
            parts.append(f"of {unknown:,} that is not known")
    if by != "person":
        parts.append("whether test videos show people who were trained on is not known")
    text = "; ".join(parts) + "."
    if loose := sum(row.get("loose_images", 0) for row in audit["datasets"]):
        text += (
            f" {loose:,} images say nothing of which belong together: if several show one person "
            "or scene, some may stand on both sides of the split, and every figure may flatter."
        )
    return text
