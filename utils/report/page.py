"""The report: artefacts and figures in, one self-contained `report.html` and a `report.md` out.

The page loads nothing and runs nothing, so it can be mailed and opened offline. Its words are in
`words` and sentences.jinja, its layout in template.html. What comes from the data adds no markup.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import quote

from PIL import Image

from utils.report import words
from utils.run.artifacts import atomic_path, find_artifact, read_json, read_table

FIGURES_BYTES = 6_500_000  # base64 adds a third; the page stays under 10 MB
#: Full of small print: they get the whole width, whatever their shape.
WIDE = ("intervals", "slices", "heat_maps", "errors")
#: What stands between them in the model card is written anew.
START, END = "<!-- evaluation -->", "<!-- /evaluation -->"


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
    page = words.environment(autoescape=True).get_template("template.html")
    html = page.render(
        metrics=metrics,
        names=words.metric_names(metrics),
        lower=words.LOWER_IS_BETTER,
        groups_by=words.SLICE_NAMES,
        headline=words.verdict(metrics)[0],
        questions=words.questions(metrics),
        figures=embed_figures(figures_in(output / "figures", words.captions(metrics, history))),
        decision={**metrics, **(_optional(output, "model/decision.json") or {})},
        audit=_optional(output, "data_audit.json"),
        augment=_optional(output, "augment.json"),
        history=history,
        stress=words.stress_rows(metrics["robustness"]),
    )
    return _write(output / "report.html", html)


def _optional(output: Path, name: str) -> Any:
    try:
        folder = find_artifact(name, output)
    except FileNotFoundError:
        return None
    return read_table(folder, name) if name.endswith(".csv") else read_json(folder, name)


def _write(path: Path, text: str) -> Path:
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def figures_in(folder: Path, captions: Mapping[str, str]) -> list[dict[str, Any]]:
    """Path, title and caption of each picture of `folder`, the known ones first."""
    rank = {stem: i for i, stem in enumerate(words.FIGURE_NAMES)}
    paths = sorted(folder.glob("*.png"), key=lambda path: (rank.get(path.stem, 99), path.stem))
    titles = [words.name_of(path.stem, words.FIGURE_NAMES) for path in paths]
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


def build_markdown(output: str | Path) -> Path:
    """Write `output/report.md`, and the evaluation into the card of `output/model`, where it is.

    Raises:
        FileNotFoundError: metrics.json is missing; says which notebook writes it.
    """
    output = Path(output)
    metrics = read_json(output, "metrics.json")
    captions = words.captions(metrics, _optional(output, "history.csv"))
    parts = ["# Deepfake detection: evaluation report", f"**{escaped(words.verdict(metrics)[0])}**"]
    for question, sentences in words.questions(metrics).items():
        parts += [f"## {question}", "\n".join(f"- {escaped(sentence)}" for sentence in sentences)]
    parts += ["## Scores", score_table(metrics), "## Figures"]
    for figure in figures_in(output / "figures", captions):
        title = escaped(figure["title"])
        link = f"![{title}](figures/{quote(figure['path'].name)})"
        parts += [f"### {title}", escaped(figure["caption"]), link]
    parts += ["## Reproduce", _facts(metrics)]
    card = output / "model" / "README.md"
    if card.is_file():
        _write(card, with_evaluation(card.read_text(encoding="utf-8"), metrics))
    return _write(output / "report.md", "\n\n".join(parts) + "\n")


def with_evaluation(card: str, metrics: Mapping[str, Any]) -> str:
    """The model card with what 04 found; an earlier evaluation in it is replaced."""
    card = re.sub(f"\n*{START}.*{END}\n*", "\n", card, flags=re.DOTALL).rstrip()
    parts = [card, START, "## Evaluation", f"**{escaped(words.verdict(metrics)[0])}**"]
    for question, sentences in words.questions(metrics).items():
        parts.append(f"### {question}\n" + " ".join(map(escaped, sentences)))
    return "\n\n".join([*parts, score_table(metrics), _facts(metrics), END]) + "\n"


def score_table(metrics: Mapping[str, Any]) -> str:
    """Every metric by video and crop, each with its interval, as a Markdown table."""
    rows = ["| on test | videos | crops |", "|---|---|---|"]
    for key, name in words.metric_names(metrics).items():
        cells = [words.estimate(metrics[level].get(key)) for level in ("video", "frame")]
        rows.append(f"| {escaped(name)} | {' | '.join(cells)} |")
    return "\n".join(rows)


def escaped(text: Any) -> str:
    """Text on one line in which no character means anything to Markdown or HTML."""
    line = " ".join(words.in_words(text).split())
    return re.sub(r"([\\`*_\[\]#|!~$])", r"\\\1", escape(line, quote=False))


def _facts(metrics: Mapping[str, Any]) -> str:
    """What one needs to reproduce the numbers, as a Markdown list."""
    data = metrics.get("data", {})
    facts = {
        "Network": metrics.get("model", {}).get("name"),
        "Data sets": data.get("datasets"),
        "Data fingerprint": data.get("fingerprint"),
        "Threshold": words.number(metrics["threshold"]),
        "Temperature": words.number(metrics["temperature"]),
        "Seed": metrics.get("seed"),
        "Date": metrics.get("date"),
        "Versions": metrics.get("versions"),
    }
    return "\n".join(
        f"- {name}: {escaped(value)}" for name, value in facts.items() if value is not None
    )


def write_report(output: str | Path) -> Path:
    """Write report.html and report.md; return the former. Raises as `build_report` does."""
    build_markdown(output)
    return build_report(output)
