"""Where am I running, on what, and from which seed."""

from __future__ import annotations

import ctypes
import hashlib
import importlib
import os
import platform
import random
import shutil
import sys
import warnings
from collections import Counter
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import numpy as np
import torch

KAGGLE_INPUT = Path("/kaggle/input")
KAGGLE_WORKING = Path("/kaggle/working")
#: Folders of `/kaggle/input` that are no input themselves, and where below them the inputs lie:
#: `<owner>/<slug>`; of a model `<owner>/<model>/<framework>/<variation>/<version>`.
KAGGLE_MOUNTS = {"competitions": "*", "datasets": "*/*", "models": "*/*/*/*/*", "notebooks": "*/*"}
#: Kaggle ends a session after 9 hours, and what comes after training needs some of them.
KAGGLE_BUDGET_MIN = 500.0
DRIVE = Path("/content/drive")
#: For mallopt(3): M_MMAP_THRESHOLD, so that nothing up to 1 GiB is mapped by itself;
#: M_TRIM_THRESHOLD, the heap is never trimmed; M_ARENA_MAX, all threads share it, for heaps of
#: threads are trimmed in any case.
MALLOC = {-3: 2**30, -1: 2**31 - 1, -8: 1}


def environment() -> str:
    """Name the place this process runs in: "kaggle", "colab" or "local"."""
    if "KAGGLE_KERNEL_RUN_TYPE" in os.environ or KAGGLE_WORKING.is_dir():
        return "kaggle"
    return "colab" if "COLAB_RELEASE_TAG" in os.environ else "local"


def output_folder(output: str | Path = "") -> Path:
    """Create and return the folder that every artefact goes to; on Colab, mount its Drive first.

    "" means `/kaggle/working` on Kaggle and `./outputs` elsewhere. Raises ValueError where it
    cannot be created or written.
    """
    folder = Path(output or (KAGGLE_WORKING if environment() == "kaggle" else "outputs"))
    folder = folder.expanduser()
    mount_drive(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".write-test-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"OUTPUT {str(folder)!r} cannot be written: {error.strerror}") from error
    return folder


def input_roots() -> list[Path]:
    """Every attached Kaggle input, sorted; empty elsewhere.

    Kaggle mounts one at `/kaggle/input/<slug>`, or by its kind as in KAGGLE_MOUNTS.
    """
    roots: list[Path] = []
    for top in sorted(KAGGLE_INPUT.glob("*")):
        form = KAGGLE_MOUNTS.get(top.name)
        roots += sorted(top.glob(form)) if form else [top]
    return [root for root in roots if root.is_dir()]


def mount_drive(folder: str | Path) -> None:
    """Mount Google Drive where a folder lies on it, on Colab, which asks for permission."""
    if environment() == "colab" and DRIVE in Path(folder).parents and not any(DRIVE.glob("*")):
        importlib.import_module("google.colab.drive").mount(str(DRIVE))


def time_budget(minutes: float) -> float:
    """Minutes that training may take; 0: no limit; -1: KAGGLE_BUDGET_MIN on Kaggle, else none."""
    if minutes >= 0:
        return minutes
    return KAGGLE_BUDGET_MIN if environment() == "kaggle" else 0.0


def get_device(device: str = "auto") -> torch.device:
    """Choose the device, and prove that it computes before anything depends on it.

    A GPU that PyTorch was not built for says `is_available() == True` and fails at its first
    kernel, so a small convolution is run on it. "auto" is a working GPU if there is one; on a CPU
    this process keeps the memory that it frees from here on (`keep_freed_memory`).

    Raises ValueError: the named device ("cpu", "cuda:1", "mps") does not exist or does not work.
    """
    if device == "auto":
        backends = {"cuda": torch.cuda, "mps": torch.backends.mps}
        there = [name for name, backend in backends.items() if backend.is_available()]
        device = next((name for name in there if not _preflight(name)), "cpu")
    elif error := _preflight(device):
        raise ValueError(f"device {device!r} does not work: {error}. Use 'auto' or 'cpu'.")
    if torch.device(device).type == "cpu":
        keep_freed_memory()
    return torch.device(device)


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


def keep_freed_memory() -> None:
    """Have glibc keep the memory that this process frees, up to what it once needed.

    The activations of a step on a CPU are hundreds of megabytes in large pieces. By default each
    goes back to the system and comes anew, page by page, which took a fifth to a third of the time
    where it was measured (`benchmarks/README.md`). Other systems are left as they are.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt:
        for parameter, value in MALLOC.items():
            mallopt(parameter, value)


def default_workers(device: torch.device) -> int:
    """Loader processes, four at most: all cores but one feed a GPU.

    Where the model itself computes on the cores, one in four: there a process more costs what the
    model needs, and its start makes this one copy its memory.
    """
    cores = os.cpu_count() or 1
    return min(4, cores // 4 if device.type == "cpu" else cores - 1)


def fits_shared_memory(size: int) -> bool:
    """Whether processes can share so many bytes; if not, a warning says what to do.

    A container often has 64 MB of /dev/shm, and who writes beyond it is killed without a word.
    """
    try:
        free = shutil.disk_usage("/dev/shm").free
    except OSError:  # another system, which has its own ways
        return True
    if size <= 0.9 * free:
        return True
    warnings.warn(
        f"loader processes would share {size / 2**20:,.0f} MB and /dev/shm has "
        f"{free / 2**20:,.0f} MB: loading in this process instead. docker run --shm-size=2g makes "
        "room; NUM_WORKERS=0 silences this",
        stacklevel=2,
    )
    return False


def version_line(device: torch.device | None = None) -> str:
    """For the top of a notebook: place, device (None if any does), versions, advice on GPUs."""
    line = " · ".join(f"{package} {version}" for package, version in versions().items())
    line = f"{environment()} · {device_name(device or torch.device('cpu'))} · {line}"
    advice = gpu_advice(device) if device else ""
    return f"{line}\n{advice}" if advice else line


def versions() -> dict[str, str]:
    """Versions that a result depends on."""
    packages = {name: metadata.version(name) for name in ("torch", "timm", "numpy")}
    return {"python": platform.python_version(), **packages}


def device_name(device: torch.device) -> str:
    """What a person calls it, such as "CPU" or "Tesla T4 (2 visible)"."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({torch.cuda.device_count()} visible)"
    return "CPU" if device.type == "cpu" else device.type


def gpu_advice(device: torch.device) -> str:
    """One sentence on how to get a GPU that works, "" where there is one or none to be had."""
    if device.type != "cpu":
        return ""
    place = environment()
    switch = {
        "kaggle": "choose GPU T4 x2 in Settings > Accelerator (needs a verified phone number)",
        "colab": "choose T4 GPU in Runtime > Change runtime type",
    }.get(place, "install the build of PyTorch that fits its driver")
    if torch.cuda.is_available() and (reason := _preflight("cuda")):
        name = torch.cuda.get_device_name()
        return f"The {name} is visible, but its first operation fails ({reason}): {switch}."
    return "" if place == "local" else f"This runs on the CPU; for a GPU, {switch}."


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def seed_torch(seed: int, device: torch.device) -> None:
    """Seed PyTorch for the CPU and one device; `torch.manual_seed` asks all: half a millisecond."""
    torch.default_generator.manual_seed(seed)
    if device.type != "cpu":
        getattr(torch, device.type).manual_seed(seed)


def stable_hash(name: str, seed: int) -> int:
    """A 64-bit number that depends on the name and the seed alone, the same on every machine."""
    digest = hashlib.blake2b(f"{seed}:{name}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big")


def inside(path: str | Path, root: Path) -> bool:
    """Tell whether a path leads, links followed, to a place inside `root`."""
    return Path(os.path.realpath(path)).is_relative_to(os.path.realpath(root))


def printable(text: str, keep: str = "") -> str:
    """A text with names from the data, on one line, without what would steer a terminal."""
    return "".join(c if c.isprintable() or c in keep else "\N{REPLACEMENT CHARACTER}" for c in text)


def short_names(paths: Sequence[str]) -> list[str]:
    """The end of each path, as short as it can be for all to differ."""
    parts = [Path(path).parts for path in paths]
    depth = [1] * len(parts)
    names: list[str] = []
    for _ in range(max(map(len, parts), default=0)):
        names = ["/".join(part[-d:]) for part, d in zip(parts, depth)]
        counts = Counter(names)
        if len(counts) == len(names):
            break
        depth = [d + (counts[name] > 1) for d, name in zip(depth, names)]
    return names
