"""The detector in the box, made of a finished run: `python -m tools.box round|pack OUTPUT`.

    make run DATA=faces OUTPUT=out TO=03_train SET="…"             # trains
    python -m tools.box round out --data faces                    # out/model in half precision
    make run DATA=faces OUTPUT=out FROM=04_evaluate TO=04_evaluate  # judges what was rounded
    python -m tools.box pack out models/NAME --command "make run …"

The card's figures are those of metrics.json; its sentences stand in box.md.jinja.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from importlib.metadata import files
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from utils.data.crops import crop_paths
from utils.model.network import EXTRA, FILES, check_ours, load_model
from utils.model.scoring import load_scorer
from utils.report.words import environment, stress_rows, write_text
from utils.run.artifacts import atomic_path, read_any_json, read_json, read_table

#: Crops whose logits are compared before and after rounding.
SOME = 64
CARD = Path(__file__).with_name("box.md.jinja")


def round_weights(folder: Path, crops: Sequence[str]) -> float:
    """Put weights of two and more dimensions of a model folder into half precision.

    Norms, their statistics and biases stay in float32. Returns the largest difference in a logit
    of some crops (paths).
    """
    before = load_scorer(folder, device=torch.device("cpu")).score_paths(crops)
    weights = load_file(folder / FILES[1])
    rounded = {name: w.half() if w.ndim > 1 else w for name, w in weights.items()}
    with atomic_path(folder / FILES[1]) as temporary:
        save_file(rounded, temporary, metadata={"format": "pt"})
    after = load_scorer(folder, device=torch.device("cpu")).score_paths(crops)
    return float(np.abs(after - before).max())


def pack(output: Path, box: Path, command: str) -> None:
    """Write `box` from OUTPUT of 01, 03 and 04; `command` is what repeats the card.

    Raises FileNotFoundError and ValueError as the artefacts' readers do.
    """
    model = output / "model"
    _, facts = load_model(model)
    metrics, index = read_json(output, "metrics.json"), read_table(output, "index.csv")
    check_ours(box).mkdir(parents=True, exist_ok=True)
    for name in (FILES[1], "decision.json"):
        shutil.copyfile(model / name, box / name)
    config = read_any_json(model / FILES[0])
    config[EXTRA]["title"] = box.name
    write_text(box / FILES[0], json.dumps(config, indent=2) + "\n")
    videos = index.drop_duplicates("video").sort_values("video")
    videos = videos.assign(part=videos["group"].str.removeprefix("part_"))
    how = {"method": "gzip", "mtime": 0}
    videos[["video", "part", "split"]].to_csv(box / "videos.csv.gz", index=False, compression=how)
    parts = videos.groupby("split")["part"].unique()
    told = {
        "facts": facts,
        "parts_of": parts.map(lambda names: ", ".join(sorted(names, key=lambda n: (len(n), n)))),
        "metrics": metrics,
        "decision": read_json(output, "model/decision.json"),
        "parts": metrics["slices"].get("group", {}),
        "degraded": stress_rows(metrics["robustness"]),
        "command": command,
        "name": box.name,
    }
    card = environment().from_string(CARD.read_text("utf-8")).render(**told)
    write_text(box / "README.md", card)
    # The Apache License 2.0 as it is: safetensors comes with nothing but that text.
    [licence] = [path for path in files("safetensors") or () if path.name == "LICENSE"]
    write_text(box / "LICENSE", Path(str(licence.locate())).read_text("utf-8"))


def main() -> int:
    """Round the model of a run, or pack the box from it."""
    parser = argparse.ArgumentParser(prog="python -m tools.box", description=__doc__)
    parser.add_argument("step", choices=["round", "pack"])
    parser.add_argument("output", type=Path, help="OUTPUT of the run")
    parser.add_argument("box", type=Path, nargs="?", help="folder below models/, of pack")
    parser.add_argument("--data", default="", help="the crops, as DATA of 01, of round")
    parser.add_argument("--command", default="", help="what repeats the card, of pack")
    args = parser.parse_args()
    if args.step == "round":
        index = read_table(args.output, "index.csv")
        val = index[index["split"] == "val"].sample(SOME, random_state=0)
        difference = round_weights(args.output / "model", crop_paths(val, args.data))
        print(f"The largest difference in a logit of {SOME} crops of val is {difference:.1e}.")
    else:
        pack(args.output, args.box, args.command)
        print(f"Written: {args.box}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
