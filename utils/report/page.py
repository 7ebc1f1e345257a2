"""The report: artefacts and figures in, one self-contained `report.html` and a `report.md` out.

The page loads nothing and runs nothing, so it can be mailed and opened offline. Its words are in
`words`, its layout in `template.html`. What comes from the data adds no markup.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
from jinja2 import ChainableUndefined, Environment, FileSystemLoader
from PIL import Image

from utils.report.score_figures import LOWER_IS_BETTER, METRIC_NAMES, SLICE_NAMES
from utils.report.words import (
    NOT_DEFINED,
    answers,
    as_number,
    captions,
    count,
    interval,
    number,
    percent,
    percent_interval,
    plain,
    stress_rows,
    verdict,
    zero_pixel,
)
from utils.run.artifacts import atomic_path, find_artifact, read_json, read_table

FIGURES_BYTES = 6_500_000  # base64 adds a third; the page stays under 10 MB
ORDER = (
    *("roc", "precision_recall", "scores", "confusion", "calibration", "intervals"),
    *("slices", "robustness", "heat_maps", "errors", "history"),
)
#: Full of small print: they get the whole width, whatever their shape.
WIDE = ("intervals", "slices", "heat_maps", "errors")
TITLES = {
    "roc": "ROC curve",
    "precision_recall": "Precision and recall",
    "confusion": "Confusion matrix",
    "scores": "Scores by class",
    "intervals": "Every score with its interval",
    "calibration": "Calibration",
    "slices": "Groups of the test split",
    "robustness": "Robustness",
    "heat_maps": "What speaks for FAKE",
    "errors": "The worst errors",
    "history": "Training history",
}


def build_report(output: str | Path) -> Path:
    """Render `output/metrics.json` and what else is there into `output/report.html`.

    `data_audit.json`, `history.csv`, `augment.json` and `model/decision.json` are used where they
    are found (in `output`, then in every Kaggle input), `figures/*.png` where present.

    Raises:
        FileNotFoundError: metrics.json is missing; says which notebook writes it.
        ValueError: an artefact lacks a key or column.
    """
    output = Path(output)
    metrics = read_json(output, "metrics.json")
    history = _optional(output, "history.csv")
    page = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=ChainableUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page.filters.update(
        number=number,
        percent=percent,
        percent_interval=percent_interval,
        count=count,
        interval=interval,
        plain=plain,
    )
    html = page.get_template("template.html").render(
        metrics=metrics,
        names=METRIC_NAMES,
        lower=LOWER_IS_BETTER,
        groups_by=SLICE_NAMES,
        verdict=verdict(metrics),
        answers=answers(metrics),
        scale=scale(metrics),
        figures=embed_figures(output / "figures", captions(metrics, history)),
        decision={**metrics, **(_optional(output, "model/decision.json") or {})},
        audit=_optional(output, "data_audit.json"),
        augment=_optional(output, "augment.json"),
        training=summarise_training(history),
        stress=stress_rows(metrics["robustness"]),
    )
    path = output / "report.html"
    with atomic_path(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def _optional(output: Path, name: str) -> Any:
    try:
        folder = find_artifact(name, output)
    except FileNotFoundError:
        return None
    return read_table(folder, name) if name.endswith(".csv") else read_json(folder, name)


def scale(metrics: Mapping[str, Any]) -> dict[str, Any] | None:
    """Rows of the AUC ruler in percent of its width, from 0 or 0.4 to 1; None without an AUC."""
    rows = [("This model", metrics["video"].get("roc_auc")), ("Files alone", zero_pixel(metrics))]
    known = [(label, row) for label, row in rows if as_number(row) is not None]
    if not known or known[0][0] != "This model":
        return None
    ends = [
        [value if (v := as_number(row.get(end))) is None else v for end in ("low", "high")]
        for _, row in known
        if (value := as_number(row)) is not None
    ]
    start = 0.4 if min(low for low, _ in ends) >= 0.4 else 0.0

    def place(x: float | None) -> float:
        return round(100 * ((x or 0) - start) / (1 - start), 2)

    return {
        "start": start,
        "chance": place(0.5),
        "rows": [
            {
                "label": label,
                "auc": row,
                "value": place(as_number(row)),
                "low": place(low),
                "width": round(place(high) - place(low), 2),
            }
            for (label, row), (low, high) in zip(known, ends, strict=True)
        ],
    }


def embed_figures(folder: Path, lines: Mapping[str, str]) -> list[dict[str, Any]]:
    """Title, caption and data URI of each picture of `folder`, the known ones first."""
    paths = figure_paths(folder)
    figures = []
    for path in paths:
        title = title_of(path.stem)
        kind, data = _encode(path, FIGURES_BYTES // len(paths))
        uri = f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
        caption = lines.get(path.stem, f"{title}.")
        with Image.open(path) as image:
            width, height = image.size
        figures.append(
            {
                "name": path.stem,
                "title": title,
                "caption": caption,
                "uri": uri,
                "width": width,
                "height": height,
                "wide": width > 1.3 * height or path.stem in WIDE,
            }
        )
    return figures


def figure_paths(folder: Path) -> list[Path]:
    """The pictures of `folder`, the known ones first, in their order."""
    rank = {stem: i for i, stem in enumerate(ORDER)}
    return sorted(folder.glob("*.png"), key=lambda path: (rank.get(path.stem, 99), path.stem))


def title_of(stem: str) -> str:
    """Title of a picture by its name: "my_own" is "My own"."""
    return TITLES.get(stem, stem.replace("_", " ").replace("-", " ").capitalize())


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


def summarise_training(history: pd.DataFrame | None) -> dict[str, str]:
    """Facts of the run that need the whole history."""
    if history is None or history.empty:
        return {}
    busy = history["compute_s"].sum() + history["data_wait_s"].sum()
    return {
        "Epochs run": count(len(history)),
        "Time": f"{history['elapsed_s'].max() / 60:,.1f} min",
        "Speed (median)": f"{history['images_per_s'].median():,.0f} images/s",
        "Waiting for data": percent(history["data_wait_s"].sum() / busy) if busy else NOT_DEFINED,
        "Peak memory": f"{peak:,.0f} MB"
        if (peak := history["peak_memory_mb"].max()) > 0
        else NOT_DEFINED,
        "First and last training loss": f"{number(history['train_loss'].iloc[0])}, "
        f"{number(history['train_loss'].iloc[-1])}",
    }


#: The scores of the short table.
SHOWN = (
    *("roc_auc", "average_precision", "balanced_accuracy", "recall", "specificity"),
    *("tpr_at_fpr_5", "eer", "log_loss", "brier", "ece"),
)
START, END = "<!-- evaluation -->", "<!-- /evaluation -->"


def build_markdown(output: str | Path) -> Path:
    """Write `output/report.md`, and the evaluation into the card of `output/model`, where it is.

    Args:
        output: holds metrics.json, and figures/*.png and history.csv where present.

    Raises:
        FileNotFoundError: metrics.json is missing; says which notebook writes it.
    """
    output = Path(output)
    metrics = read_json(output, "metrics.json")
    has_history = (output / "history.csv").is_file()
    lines = captions(metrics, read_table(output, "history.csv") if has_history else None)
    path, card = output / "report.md", output / "model" / "README.md"
    with atomic_path(path) as temporary:
        temporary.write_text(_report(metrics, output / "figures", lines), encoding="utf-8")
    if card.is_file():
        text = with_evaluation(card.read_text(encoding="utf-8"), metrics)
        with atomic_path(card) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return path


def words(text: Any) -> str:
    """Text on one line in which no character means anything to Markdown or HTML."""
    line = " ".join(plain(text).split())
    return re.sub(r"([\\`*_\[\]#|!~$])", r"\\\1", escape(line, quote=False))


def with_evaluation(card: str, metrics: Mapping[str, Any]) -> str:
    """The model card with what 04 found; an earlier evaluation in it is replaced."""
    card = re.sub(f"\n*{START}.*{END}\n*", "\n", card, flags=re.DOTALL).rstrip()
    sections = [
        f"### {question}\n" + " ".join(map(words, sentences))
        for question, sentences in answers(metrics)
    ]
    found = ["## Evaluation", f"**{words(verdict(metrics)['headline'])}**", *sections]
    return "\n\n".join([card, START, *found, score_table(metrics), _facts(metrics), END]) + "\n"


def score_table(metrics: Mapping[str, Any]) -> str:
    """The scores of SHOWN by video and crop, each with its interval, as a Markdown table."""
    rows = ["| on test | videos | crops |", "|---|---|---|"]
    for name in SHOWN:
        cells = [metrics[level].get(name) for level in ("video", "frame")]
        if any(cell is not None for cell in cells):
            shown = (f"{number(c)} ({i})" if (i := interval(c)) else number(c) for c in cells)
            rows.append(f"| {METRIC_NAMES[name]} | {' | '.join(shown)} |")
    return "\n".join(rows)


def _facts(metrics: Mapping[str, Any]) -> str:
    data, model = metrics.get("data", {}), metrics.get("model", {})
    facts = {
        "Network": model.get("name"),
        "Data sets": data.get("datasets"),
        "Data fingerprint": data.get("fingerprint"),
        "Threshold": number(metrics["threshold"]),
        "Temperature": number(metrics["temperature"]),
        "Seed": metrics.get("seed"),
        "Date": metrics.get("date"),
        "Versions": metrics.get("versions"),
    }
    return "\n".join(f"- {name}: {words(value)}" for name, value in facts.items() if value)


def _report(metrics: Mapping[str, Any], folder: Path, lines: Mapping[str, str]) -> str:
    parts = ["# Deepfake detection: evaluation report"]
    parts.append(f"**{words(verdict(metrics)['headline'])}**")
    for question, sentences in answers(metrics):
        parts += [f"## {question}", "\n".join(f"- {words(sentence)}" for sentence in sentences)]
    parts += ["## Scores", score_table(metrics), "## Figures"]
    for path in figure_paths(folder):
        title = words(title_of(path.stem))
        link = f"![{title}]({quote(f'{folder.name}/{path.name}')})"
        parts += [f"### {title}", words(lines.get(path.stem, f"{title_of(path.stem)}.")), link]
    parts += ["## Reproduce", _facts(metrics)]
    return "\n\n".join(parts) + "\n"


def write_report(output: str | Path) -> Path:
    """Write report.html and report.md; return the former. Raises as `build_report` does."""
    build_markdown(output)
    return build_report(output)
