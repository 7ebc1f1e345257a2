"""What 04 pays to score crops, and corrupted ones, beside the forward passes that this needs.

The baseline is the same network as `Scorer` runs it (channels_last, batch norms folded, on a CPU in
float32) on random numbers that lie in memory, in batches of the same sizes, and decoding each
crop once. Ours also corrupts, transforms and batches.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from benchmarks.crops import bench_crops
from utils.evaluation.robustness import CorruptedFaces, conditions
from utils.faces.media import load_crop
from utils.model.network import build_model, fold_batch_norms
from utils.model.scoring import Scorer
from utils.run.machine import get_device

MODEL, SIZE, BATCH = "tf_efficientnetv2_s.in1k", 224, 64
#: Crops scored once, crops scored under every corruption, paired runs.
CLEAN, CORRUPTED, RUNS = 128, 16, 5


def ours(model: torch.nn.Module, paths: list[str]) -> float:
    """Seconds of what 04 does."""
    start = time.perf_counter()
    scorer = Scorer(model, device=get_device())
    scorer.score_paths(paths[:CLEAN], batch_size=BATCH)
    faces = CorruptedFaces([[path] for path in paths[:CORRUPTED]], scorer.transform)
    scorer.score_data(faces, batch_size=None)
    return time.perf_counter() - start


@torch.inference_mode()
def bare(model: torch.nn.Module, paths: list[str]) -> float:
    """Seconds of the forward passes, and of decoding each crop once."""
    device = get_device()
    model = fold_batch_norms(model.eval()).to(device).to(memory_format=torch.channels_last)
    sizes = [BATCH] * (CLEAN // BATCH) + [len(conditions())] * CORRUPTED
    images = torch.randn(max(sizes), 3, SIZE, SIZE, device=device)
    images = images.to(memory_format=torch.channels_last)
    start = time.perf_counter()
    for path in paths[:CLEAN] + paths[:CORRUPTED]:
        load_crop(path)
    for size in sizes:
        model(images[:size]).cpu()
    return time.perf_counter() - start


def measure() -> list[tuple[float, float]]:
    """(seconds of ours, of the bare work) of each paired run."""
    with tempfile.TemporaryDirectory() as name:
        paths = bench_crops(Path(name))
        model = build_model(MODEL, image_size=SIZE, pretrained=False)
        return [(ours(model, paths), bare(model, paths)) for _ in range(RUNS)]


NAME, BASELINE, UNIT = f"scoring in 04, V2-S, {SIZE} px", "forward passes and decoding", "s"
