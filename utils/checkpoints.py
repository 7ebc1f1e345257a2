"""The full state of a training run on disk."""

from __future__ import annotations

from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch

from utils.artifacts import atomic_path


def has_checkpoint(folder: str | Path) -> bool:
    """Tell whether there is a state to go on from."""
    return any((Path(folder) / name).is_file() for name in ("last.pt", "previous.pt"))


def save_checkpoint(folder: Path, state: dict[str, Any]) -> None:
    """Write `folder/last.pt` atomically; the state before it stays as `folder/previous.pt`."""
    with atomic_path(folder / "last.pt") as temporary:
        torch.save(state, temporary)
        if (folder / "last.pt").exists():
            (folder / "last.pt").replace(folder / "previous.pt")


def load_checkpoint(folder: Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Read the newest state; None where there is none. Only tensors and plain values are read.

    Args:
        folder: of the checkpoint.
        settings: of the run that wants to go on; only its `epochs` may differ, and these too only
            where the learning rate does not depend on them.
    Raises:
        ValueError: the file is damaged, or belongs to other settings.
    """
    path = next((folder / n for n in ("last.pt", "previous.pt") if (folder / n).is_file()), None)
    if path is None:
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a checkpoint; remove it or set RESUME=False") from error
    # More epochs may be asked for; anything else would make another run of it.
    free = {"epochs": 0} if settings["schedule"] == "constant" else {}
    now, then = settings | free, state["config"] | free
    changed = [f"{key} {then.get(key)} → {now[key]}" for key in now if now[key] != then.get(key)]
    if changed:
        raise ValueError(
            f"{path} was written with other settings ({'; '.join(changed)}): set them back, or "
            "RESUME=False to start anew"
        )
    return state
