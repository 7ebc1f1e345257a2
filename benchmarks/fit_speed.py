"""What `fit` adds to the bare training step: epochs of it beside the same steps on fixed tensors.

The bare step is the limit: forward, backward and optimiser on one batch of random numbers that
lies in memory. The two take turns, block by block. An epoch of `fit` has the same shapes and
precision, and besides loads, augments and normalises, checks the loss, validates a few crops and
writes its checkpoint. The bare step, on a GPU also compiled, is measured beside a plain float32
loop without channels_last, too.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.crops import bench_crops
from utils.model.network import build_model
from utils.model.scoring import mixed_precision
from utils.run.machine import get_device
from utils.training.augmentation import POLICIES
from utils.training.batches import CropSet, CropTable, open_store
from utils.training.fitting import fit
from utils.training.recipes import make_config, make_optimizer

MODEL = "tf_efficientnetv2_s.in1k"
ON_GPU = torch.cuda.is_available()
SIZES = (160, 224, 300) if ON_GPU else (160,)
FIT_SIZE = 224 if ON_GPU else 160
#: Runs, epochs a run (the first one warms up), steps an epoch, crops a step. An epoch is as long as
#: a real one, for what it ends with does not grow with its length: on a CPU one of the 1,165 crops
#: of a DFDC part at one frame a video, on a GPU one of four frames a video.
RUNS, EPOCHS, STEPS, BATCH = (3, 2, 72, 64) if ON_GPU else (3, 2, 72, 16)
#: Steps between two turns.
BLOCK = 12 if ON_GPU else 6


def crop_set(paths: list[str], folder: Path, name: str, size: int) -> CropSet:
    rows = np.arange(len(paths))
    table = CropTable(y_true=rows % 2, video=rows, source=rows // 2, frame=0 * rows)
    return CropSet(open_store(paths, size, folder, name, progress=False), table, paths)


class Interleaved:
    """Bare steps in the midst of the steps of `fit`: the clock of a machine drifts in minutes.

    A hook before every `BLOCK`-th forward pass runs as many bare ones; its time is not `fit`'s.
    """

    def __init__(self, size: int) -> None:
        self.bare_step, self.steps, self.seconds = make_bare_step(size), 0, 0.0

    def __call__(self, model: torch.nn.Module, inputs: Any) -> None:
        if not model.training:
            return
        self.steps += 1
        if self.steps % BLOCK == 0:
            self.seconds += timed(self.bare_step, BLOCK)


def epochs_of_fit(train: CropSet, val: CropSet, folder: Path, size: int) -> tuple[float, float]:
    """(crops a second of `fit`, of the bare step) over all epochs but the first.

    That of `fit` is with all that an epoch takes.
    """
    bare = Interleaved(size)
    model = build_model(MODEL, image_size=size, pretrained=False)
    # A function, which a copy of the model shares.
    model.register_forward_pre_hook(lambda network, inputs: bare(network, inputs))
    ends: list[tuple[float, float, int]] = []
    fit(
        model,
        train,
        val,
        make_config("reference", epochs=EPOCHS, batch_size=BATCH, frames_per_video=0),
        policy=POLICIES["reference"],
        output=folder,
        device=get_device(),
        processes=1,
        on_epoch=lambda _: ends.append((time.perf_counter(), bare.seconds, bare.steps)),
        progress=False,
    )
    elapsed, apart, steps = (last - first for first, last in zip(ends[0], ends[-1]))
    return (EPOCHS - 1) * len(train) / (elapsed - apart), steps * BATCH / apart


def make_bare_step(size: int, *, plain: bool = False, compiled: bool = False) -> Callable[[], None]:
    """One step on fixed tensors; `plain`: in float32, contiguous, with the default Adam."""
    device = get_device()
    layout = torch.contiguous_format if plain else torch.channels_last
    model = build_model(MODEL, image_size=size, pretrained=False)
    model = model.to(device).to(memory_format=layout).train()
    if compiled:
        model.compile(mode="reduce-overhead" if ON_GPU else None)
    optimizer = make_optimizer(model, make_config("reference"))
    if plain:
        optimizer = torch.optim.Adam(model.parameters(), foreach=False)
    images = torch.randn(BATCH, 3, size, size, device=device).to(memory_format=layout)
    targets = torch.randint(0, 2, (BATCH,), device=device)
    precision = "no" if plain else mixed_precision(device)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "fp16")

    def step() -> None:
        with torch.autocast(device.type, dtype=dtype, enabled=precision != "no"):
            loss = torch.nn.functional.cross_entropy(model(images), targets)
        optimizer.zero_grad(set_to_none=True)
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step


def timed(step: Callable[[], None], times: int) -> float:
    """Seconds for so many steps."""
    _wait()
    start = time.perf_counter()
    for _ in range(times):
        step()
    _wait()
    return time.perf_counter() - start


def _wait() -> None:
    if ON_GPU:
        torch.cuda.synchronize()


def of_fit(size: int) -> list[tuple[float, float]]:
    """(crops a second of `fit`, of the bare step) of each paired run."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = bench_crops(folder)
        wanted = (paths * (STEPS * BATCH // len(paths) + 1))[: STEPS * BATCH]
        train = crop_set(wanted, folder, "train", size)
        val = crop_set(paths[:2], folder, "val", size)
        return [epochs_of_fit(train, val, folder, size) for _ in range(RUNS)]


def of_plain_loop(size: int, *, compiled: bool = False) -> list[tuple[float, float]]:
    """(crops a second of our step, of the plain float32 step) of each paired run."""
    ours, plain = make_bare_step(size, compiled=compiled), make_bare_step(size, plain=True)
    for step in (ours, plain):
        timed(step, 3)  # to warm up
    pairs = [(timed(ours, BLOCK), timed(plain, BLOCK)) for _ in range(RUNS)]
    return [(BLOCK * BATCH / one, BLOCK * BATCH / two) for one, two in pairs]


def _benchmarks() -> Iterator[tuple]:
    yield f"fit, V2-S, {FIT_SIZE} px", "bare step", "crops/s", partial(of_fit, FIT_SIZE)
    for size in SIZES:
        for compiled in (False, True) if ON_GPU else (False,):
            name = f"{'compiled ' * compiled}step, V2-S, {size} px"
            measure = partial(of_plain_loop, size, compiled=compiled)
            yield name, "plain float32 step", "crops/s", measure


BENCHMARKS = tuple(_benchmarks())
