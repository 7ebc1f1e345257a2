"""What the hardware computes fastest: number format, compiled network."""

from __future__ import annotations

import time

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from utils.launch import is_launched

#: How Accelerate calls them.
NAMES = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}
#: bfloat16 has to be this much faster on a CPU, so that noise does not choose between equals.
MARGIN = 1.25


def mixed_precision(device: torch.device, wanted: str = "auto") -> str:
    """What to compute in: "bf16", "fp16" (with a gradient scaler) or "no" (float32).

    Args:
        device: of `get_device`.
        wanted: "float32", "bfloat16", "float16", or "auto": on a GPU bfloat16 where it has that in
            hardware, else float16; on a CPU bfloat16 where a short measurement finds it faster.
    """
    if wanted != "auto":
        return NAMES[wanted]
    if device.type == "cuda":
        # is_bf16_supported() also says yes to emulation, as on a T4; the capability does not.
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    if device.type == "cpu" and _seconds("cpu", True) * MARGIN < _seconds("cpu", False):
        return "bf16"
    return "no"


def _seconds(device: str, autocast: bool) -> float:
    """The fastest of three forward and backward passes of what EfficientNets are made of."""
    rng_state = torch.get_rng_state()
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(24, 96, 1, bias=False),
        torch.nn.Conv2d(96, 96, 3, padding=1, groups=96, bias=False),
        torch.nn.SiLU(),
        torch.nn.Conv2d(96, 24, 1, bias=False),
    ).to(memory_format=torch.channels_last)
    images = torch.randn(4, 24, 32, 32).to(memory_format=torch.channels_last)
    torch.set_rng_state(rng_state)
    best = float("inf")
    for _ in range(4):  # the first one prepares kernels
        start = time.perf_counter()
        with torch.autocast(device, dtype=torch.bfloat16, enabled=autocast):
            loss = layers(images).float().square().mean()
        loss.backward()
        best = min(best, time.perf_counter() - start)
    return best


def compile_model(model: torch.nn.Module, device: torch.device, *, parts: int = 1) -> None:
    """Let torch.compile build the network, in place; the first step takes minutes.

    On a GPU as CUDA graphs: of a network of a thousand small kernels most of the time goes into
    starting them one by one. But not where a batch is computed in parts, for there the second
    forward pass would write over the gradients of the first.

    Args:
        model: to compile.
        device: of `get_device`.
        parts: forward and backward passes to a step.
    """
    graphs = device.type == "cuda" and parts == 1
    model.compile(mode="reduce-overhead" if graphs else None)


def make_accelerator(
    device: torch.device, wanted: str, *, before: str | None = None
) -> Accelerator:
    """Hugging Face Accelerate on a device: where tensors go, in which precision, beside whom.

    Args:
        device: of `get_device`.
        wanted: as for `mixed_precision`.
        before: the precision that an interrupted run was computed in, if this one goes on from it.
    Raises:
        ValueError: float16 on a CPU.
    """
    on_cpu = device.type == "cpu"
    if on_cpu and wanted == "float16":
        raise ValueError("PRECISION float16 is for GPUs; on a CPU use auto, float32 or bfloat16")
    if on_cpu and wanted == "auto" and is_launched():
        precision = "no"  # each process might measure something else
    elif on_cpu and wanted == "auto" and before:
        precision = before  # so that the run stays the same to the bit
    else:
        precision = mixed_precision(device, wanted)
    if not is_launched():
        # Accelerate keeps its first settings for ever; a notebook may train again with others.
        AcceleratorState._reset_state(reset_partial_state=True)
        if device.type == "cuda" and device.index is not None:
            torch.cuda.set_device(device)
    return Accelerator(mixed_precision=precision, cpu=on_cpu)
