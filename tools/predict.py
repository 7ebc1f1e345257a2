"""Judge images and videos from the command line: `make predict`."""

from __future__ import annotations

import argparse
import ast
import sys
from pathlib import Path

from utils.faces.media import collect_inputs
from utils.inference.answers import judge_files, write_tables
from utils.inference.judging import load_judge
from utils.inference.pictures import Pictures
from utils.model.network import find_model
from utils.report.figures import show_figures
from utils.run.machine import get_device, printable


def main(argv: list[str] | None = None) -> int:
    """Judge files from the command line; returns 0, or 2 where nothing could be judged at all."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.predict",
        description="Say of images and videos whether they are REAL, FAKE or UNSURE.",
    )
    parser.add_argument("--input", required=True, help="file, folder or glob; or a list ['a','b']")
    parser.add_argument("--model", default="", help="model folder; default: `model` in OUTPUT")
    parser.add_argument(
        "--output", default="", help="folder for tables and pictures; default: none"
    )
    parser.add_argument("--frames", type=int, default=16, help="frames of a video (16); 0: all")
    parser.add_argument(
        "--prior", type=float, default=0.0,
        help="share of FAKE among these files; 0 (default): that which the model was calibrated on",
    )  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto (default), cpu or cuda")
    args = parser.parse_args(argv)
    try:
        inputs = collect_inputs(_as_list(args.input))
        folder = find_model(args.model, args.output)
        print(printable(f"Model: {folder}"), file=sys.stderr)
        judge = load_judge(folder, device=get_device(args.device), prior=args.prior)
        print(f"A score is P(FAKE) where {100 * judge.prior:.3g}% are FAKE.", file=sys.stderr)
        answers = judge_files(judge, inputs, frames_per_video=args.frames, progress=False)
    except (ValueError, OSError) as error:
        print("error:", printable(str(error), keep="\n"), file=sys.stderr)
        return 2
    for answer in answers:
        print(answer)
    if args.output:
        write_tables(answers, args.output)
        pictures, folder = Pictures(judge, answers, args.frames), Path(args.output) / "annotated"
        show_figures(pictures.timelines(n=-1), folder, show=False)
        show_figures(pictures.people(n=-1, n_maps=len(answers)), folder, show=False)
        pictures.annotate(folder, n=-1)
        print(f"Tables and pictures are in {args.output}")
    return 0


def _as_list(text: str) -> list[str]:
    """One pattern, or a list of them as Python or JSON writes it."""
    if not (text.startswith("[") and text.endswith("]")) or Path(text).exists():
        return [text]
    try:
        return [str(pattern) for pattern in ast.literal_eval(text)]
    except (ValueError, SyntaxError):
        return [text]  # a glob, such as [ab].png


if __name__ == "__main__":
    sys.exit(main())
