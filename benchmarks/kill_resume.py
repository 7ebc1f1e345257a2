"""Kill training at random moments and go on: does it end like the run that nobody killed?

    python -m benchmarks.kill_resume --runs 20

Each run trains a small network on drawn crops in a process of its own. It is killed (SIGKILL) at
random moments, in every other run while a state is being written, and started again until it is
done. Weights and history, but for what a clock measured, must equal those of the whole run to the
bit.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import signal
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from utils.model.network import build_model
from utils.training.augmentation import POLICIES
from utils.training.batches import CropSet, CropStore, CropTable
from utils.training.checkpoints import has_checkpoint
from utils.training.fitting import fit
from utils.training.recipes import make_config

#: Columns of history.csv that a clock or a memory gauge fills.
MEASURED = ["images_per_s", "data_wait_s", "compute_s", "peak_memory_mb", "elapsed_s"]
CROPS, SIDE = 48, 32
#: What the strong recipe lacks and a resumed run has to keep.
CHANGES = {"schedule": "cosine", "warm_up": 0.05, "ema": 0.9}


@dataclass
class Ended:
    """How a run ended, and how often it was killed on the way."""

    history: pd.DataFrame
    weights: dict[str, torch.Tensor]
    kills: int
    signal: int | None


def draw_crops(folder: Path) -> CropSet:
    """Noise; every second crop, the fake of the one before it, has stripes."""
    crops = np.random.default_rng(0).integers(60, 190, (CROPS, SIDE, SIDE, 3), dtype=np.uint8)
    crops[1::2, ::2] += 60
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "crops.npy", crops)
    rows = np.arange(CROPS)
    table = CropTable(y_true=rows % 2, video=rows, source=rows // 2, frame=0 * rows)
    return CropSet(CropStore(folder / "crops.npy"), table, [f"{row}.png" for row in rows])


def train(folder: Path) -> None:
    """Train, or go on; the end is in `folder/model.pt` and `folder/history.csv`."""
    torch.set_num_threads(1)
    torch.manual_seed(int.from_bytes(random.randbytes(4)))  # a resumed run starts from elsewhere
    if not has_checkpoint(folder / "checkpoint"):
        torch.manual_seed(0)
    crops = draw_crops(folder)
    model = build_model("test_efficientnet", image_size=SIDE, pretrained=False)
    model.drop_rate = 0.3
    model, history = fit(
        model,
        crops,
        crops,
        make_config("strong", CHANGES, epochs=8, batch_size=8, precision="float32"),
        policy=POLICIES["robust"],
        output=folder,
        device=torch.device("cpu"),
        resume=True,
        num_workers=0,
        checkpoint_minutes=0,  # a state after every step
        progress=False,
    )
    torch.save(model.state_dict(), folder / "model.pt")
    history.to_csv(folder / "history.csv", index=False)


def run_until_done(
    folder: Path, *, kills: int = 0, while_writing: bool = False, seed: int = 0
) -> Ended:
    """Train in a process of its own, and kill it some times on the way."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # torch is imported once, not for every start
    rng = random.Random(seed)
    done, last = 0, None
    folder.mkdir(parents=True, exist_ok=True)
    while True:
        process = context.Process(target=train, args=(folder,))
        process.start()
        if done < kills:
            checkpoint = folder / "checkpoint"
            known = _stamp(checkpoint)
            while process.is_alive() and _stamp(checkpoint) == known:
                time.sleep(0.001)  # let it get somewhere first
            time.sleep(rng.uniform(0, 0.4))
            while while_writing and process.is_alive() and not any(checkpoint.glob(".last-*")):
                pass
            process.kill()
        process.join()
        if process.exitcode == 0:
            break
        if process.exitcode != -signal.SIGKILL:
            raise RuntimeError(f"the training process ended with status {process.exitcode}")
        done, last = done + 1, -process.exitcode
    history = pd.read_csv(folder / "history.csv")
    weights = torch.load(folder / "model.pt", weights_only=True)
    return Ended(history, weights, done, last)


def _stamp(checkpoint: Path) -> int:
    """When the newest state was written, 0 before the first."""
    try:
        return (checkpoint / "last.pt").stat().st_mtime_ns
    except OSError:
        return 0


def compare(one: Ended, two: Ended) -> list[str]:
    """Names of what differs, by a bit or more."""
    columns = [column for column in one.history if column not in MEASURED]
    different = [c for c in columns if not one.history[c].equals(two.history[c])]
    return different + [
        name for name, value in one.weights.items() if not torch.equal(value, two.weights[name])
    ]


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kill_resume")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--kills", type=int, default=3, help="in each run")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        whole = run_until_done(Path(name) / "whole")
        failed = 0
        for run in range(args.runs):
            while_writing = run % 2 == 1
            killed = run_until_done(
                Path(name) / str(run), kills=args.kills, while_writing=while_writing, seed=run
            )
            different = compare(whole, killed)
            failed += bool(different)
            when = "while a state is written" if while_writing else "at random"
            verdict = f"differs in {', '.join(different)}" if different else "the same to the bit"
            print(f"run {run + 1}: killed {killed.kills} times {when}: {verdict}", flush=True)
    print(f"{args.runs - failed} of {args.runs} runs ended like the uninterrupted one")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
