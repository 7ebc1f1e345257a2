"""The report as a short `report.md` beside its pictures, and its part of the model card.

The sentences and captions are those of the page. What comes from the data adds no markup.
"""

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from utils.artifacts import atomic_path, read_json, read_table
from utils.plots_intervals import METRIC_NAMES
from utils.report import figure_paths, title_of
from utils.report_captions import captions
from utils.report_text import answers, interval, number, plain, verdict

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
