"""Judge images and videos from the command line: `make predict`."""

from __future__ import annotations

import argparse
import ast
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from utils.faces.media import collect_inputs
from utils.inference.answers import answer_tables, judge_files, write_tables
from utils.inference.judging import Answer, load_judge
from utils.inference.pictures import Pictures
from utils.model.network import choose_model
from utils.report.figures import show_figures
from utils.run.machine import get_device, output_folder, printable

#: From so many files on there is a table in place of a line each.
MANY = 12


def main(argv: list[str] | None = None) -> int:
    """Judge files; returns 0, 1 where none of them could be judged, or 2 (refused)."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.predict",
        description="Say of images and videos whether they are REAL, FAKE or UNSURE.",
    )
    parser.add_argument("--input", default="", help="file, folder or glob; or a list ['a','b']")
    parser.add_argument(
        "--crops", default="", help="the same, of images that are face crops already"
    )
    parser.add_argument(
        "--model",
        default="",
        help="model folder; default: `model` in OUTPUT, else one in models/ of the project",
    )
    parser.add_argument(
        "--output", default="", help="folder for tables and pictures; default: none"
    )
    parser.add_argument("--frames", type=int, default=16, help="frames of a video (16); 0: all")
    parser.add_argument(
        "--prior", type=float, default=0.0,
        help="share of FAKE among these files; 0 (default): that which the model was calibrated on",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    parser.add_argument("--json", action="store_true", help="print a JSON object a line")
    args = parser.parse_args(argv)
    try:
        inputs, crops = (collect_inputs(_as_list(given)) for given in (args.input, args.crops))
        if not inputs and not crops:
            raise ValueError("name what to judge: INPUT=clip.mp4, or CROPS= for face crops")
        output = output_folder(args.output) if args.output else None
        folder = choose_model(args.model, output or "")
        judge = load_judge(folder, device=get_device(args.device), prior=args.prior)
        print(printable(f"Model: {folder}\n{judge.about}", keep="\n"), file=sys.stderr)
        share = f"{100 * judge.prior:.3g}% are FAKE"
        print(f"A score is P(FAKE) where {share}; --prior names another share.", file=sys.stderr)
        answers = judge_files(
            judge, inputs, crops=crops, frames_per_video=args.frames, progress=None
        )
    except (ValueError, OSError) as error:
        print("error:", printable(str(error), keep="\n"), file=sys.stderr)
        return 2
    if output:
        write_tables(answers, output)
    print(_as_json(answers) if args.json else _as_text(answers))
    if output:
        pictures, beside = Pictures(judge, answers, args.frames), output / "annotated"
        show_figures(pictures.timelines(n=-1), beside, show=False)
        show_figures(pictures.people(n=-1, n_maps=len(answers)), beside, show=False)
        pictures.annotate(beside, n=-1)
        print(f"To read: {pictures.write_page(output)}", file=sys.stderr)
    return int(all(answer.faces.empty for answer in answers))


def _as_text(answers: Sequence[Answer]) -> str:
    """A line a file, or a table of many."""
    if len(answers) < MANY:
        return "\n".join(map(str, answers))
    table = answer_tables(answers)[1].rename(columns={"n_faces": "faces"})
    table = table[["decision", "score", "faces", "input", "reason"]]
    table[["input", "reason"]] = table[["input", "reason"]].map(printable)
    return table.to_string(index=False, max_colwidth=70, float_format="%.2f")


def _as_json(answers: Sequence[Answer]) -> str:
    rows = answer_tables(answers)[1].assign(input=[answer.input for answer in answers])
    return "\n".join(map(json.dumps, rows.to_dict("records")))


def _as_list(text: str) -> list[str]:
    """One pattern, or a list of them as Python or JSON writes it."""
    if not (text.startswith("[") and text.endswith("]")) or Path(text).exists():
        return [text] if text else []
    try:
        return [str(pattern) for pattern in ast.literal_eval(text)]
    except (ValueError, SyntaxError):
        return [text]  # a glob, such as [ab].png


if __name__ == "__main__":
    sys.exit(main())
