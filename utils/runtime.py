"""Where am I running, on what, and from which seed."""

from __future__ import annotations

import hashlib
import os
import platform
import random
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

KAGGLE_INPUT = Path("/kaggle/input")
KAGGLE_WORKING = Path("/kaggle/working")


def environment() -> str:
    """Name the place this process runs in: "kaggle", "colab" or "local"."""
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ or KAGGLE_WORKING.is_dir():
        return "kaggle"
    return "colab" if "COLAB_RELEASE_TAG" in os.environ else "local"


def output_folder(output: str | Path = "") -> Path:
    """Create and return the folder that every artefact goes to.

    Args:
        output: a folder; "" means `/kaggle/working` on Kaggle and `./outputs` elsewhere.
    Raises:
        ValueError: the folder cannot be created or written.
    """
    folder = Path(output) if output else KAGGLE_WORKING
    if not output and environment() != "kaggle":
        folder = Path("outputs")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"OUTPUT {str(folder)!r} cannot be written: {error.strerror}") from error
    return folder


def input_roots() -> list[Path]:
    """Every attached Kaggle input, in both mount forms, sorted; empty elsewhere.

    Kaggle mounts a data set at `/kaggle/input/<slug>` or at
    `/kaggle/input/datasets/<owner>/<slug>`, and the output of a notebook at
    `/kaggle/input/<slug>` or `/kaggle/input/notebooks/<owner>/<slug>`.
    """
    roots: list[Path] = []
    for top in sorted(KAGGLE_INPUT.glob("*")):
        nested = top.name in {"datasets", "notebooks"}
        roots += sorted(top.glob("*/*")) if nested else [top]
    return [root for root in roots if root.is_dir()]


def inside(path: str | Path, root: Path) -> bool:
    """Tell whether a path leads, links followed, to a place inside `root`."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Tell whether an entry is a folder or a link to one; a link to itself is none."""
    return os.path.isdir(entry.path) if entry.is_symlink() else entry.is_dir()


def get_device(device: str = "auto") -> torch.device:
    """Choose the device, and prove that it computes before anything depends on it.

    A GPU that PyTorch was not built for says `is_available() == True` and fails at its first
    kernel, so a small convolution is run on it.

    Args:
        device: "auto" (a working GPU if there is one), "cpu", "cuda", "cuda:1", "mps".
    Raises:
        ValueError: the named device does not exist or fails at a real operation.
    """
    if device != "auto":
        error = _preflight(device)
        if error:
            raise ValueError(f"device {device!r} does not work: {error}. Use 'auto' or 'cpu'.")
        return torch.device(device)
    if torch.cuda.is_available() and not _preflight("cuda"):
        return torch.device("cuda")
    if torch.backends.mps.is_available() and not _preflight("mps"):
        return torch.device("mps")
    return torch.device("cpu")


def _preflight(device: str) -> str:
    """Run one convolution; return the first line of what went wrong, "" if nothing did."""
    try:
        images = torch.ones(1, 3, 8, 8, device=device)
        weight = torch.ones(4, 3, 3, 3, device=device)
        torch.nn.functional.conv2d(images, weight).sum().item()
    # What a backend raises is its own affair: RuntimeError, AssertionError, AcceleratorError.
    except Exception as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return ""


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def stable_hash(name: str, seed: int) -> int:
    """A 64-bit number that depends on the name and the seed alone, the same on every machine."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    packages = {name: metadata.version(name) for name in ("torch", "timm", "numpy")}
    return {"python": platform.python_version(), **packages}


def device_name(device: torch.device) -> str:
    """What a person calls it, such as "CPU" or "Tesla T4 (2 visible)"."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({torch.cuda.device_count()} visible)"
    return "CPU" if device.type == "cpu" else device.type


def version_line(device: torch.device) -> str:
    """One line for the top of a notebook: place, device, versions."""
    line = " · ".join(f"{package} {version}" for package, version in versions().items())
    return f"{environment()} · {device_name(device)} · {line}"
