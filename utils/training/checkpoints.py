"""The full state of a training run on disk: written beside the training, read with suspicion."""

from __future__ import annotations

import contextlib
import os
import warnings
import zipfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from accelerate.utils import recursively_apply

from utils.model.network import check_stored
from utils.run.artifacts import atomic_path
from utils.run.machine import input_roots

LAST, PREVIOUS = "last.pt", "previous.pt"


def has_checkpoint(folder: str | Path) -> bool:
    """Tell whether there is a state to go on from."""
    return any((Path(folder) / name).is_file() for name in (LAST, PREVIOUS))


def find_checkpoint(output: str | Path) -> Path | None:
    """The checkpoint folder to go on from: of OUTPUT, else of an attached earlier output."""
    folders = [Path(root) / "checkpoint" for root in (output, *input_roots())]
    return next((folder for folder in folders if has_checkpoint(folder)), None)


class CheckpointWriter:
    """Writes states in the background, one after the other; the newest two stay.

    What goes wrong is raised by the next `save` or `wait`.
    """

    def __init__(self, folder: str | Path) -> None:
        """Check that the folder can be written, before an hour of training depends on it."""
        self.folder = Path(folder)
        self._thread = ThreadPoolExecutor(1)
        self._pending: Future[None] | None = None
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            for left in self.folder.glob(f".{Path(LAST).stem}-*.pt"):
                left.unlink()  # half a state, of a run that was killed while it wrote
            with atomic_path(self.folder / ".probe"):
                pass
            (self.folder / ".probe").unlink()
        except OSError as error:
            raise self._failure(error) from error

    def save(self, live: dict[str, Any], **fixed: Any) -> None:
        """Copy what changes with every step, and start to write it; waits for the state before."""
        self.wait()
        self._pending = self._thread.submit(self._write, copied(live) | fixed)

    def wait(self) -> None:
        """Wait until all is on disk; OSError where it failed: earlier states are as they were."""
        pending, self._pending = self._pending, None
        if pending:
            try:
                pending.result()
            # torch wraps what the file system says into errors of its own.
            except (OSError, RuntimeError) as error:
                raise self._failure(error) from error

    def stop(self) -> None:
        """End the thread, after the state that it is writing."""
        self._thread.shutdown()

    def _write(self, state: dict[str, Any]) -> None:
        last = self.folder / LAST
        with atomic_path(last) as temporary:
            with open(temporary, "wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())  # the name must not reach the disk before the content
            if last.exists():
                last.replace(self.folder / PREVIOUS)

    def _failure(self, error: BaseException) -> OSError:
        reason = getattr(error, "strerror", None) or str(error).split("\n")[0]
        kept = f"the last good state is in {self.folder}" if has_checkpoint(self.folder) else ""
        return OSError(
            f"no checkpoint can be written to {self.folder} ({reason}). Free some disk, or set "
            f"OUTPUT to a folder with room that can be written{'; ' * bool(kept)}{kept}"
        )


def copied(state: Any) -> Any:
    """A copy on the CPU of all tensors in a state: the live ones change with every step."""
    copy = recursively_apply(
        lambda live: live.detach().to("cpu", copy=True, non_blocking=live.is_cuda), state
    )
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # once, and not for each of hundreds of tensors
    return copy


def load_checkpoint(folder: str | Path, settings: dict[str, Any]) -> dict[str, Any] | None:
    """Read the newest sound state; None where there is none.

    Every byte is checked against the checksums in the file, and only tensors and plain values are
    read. A damaged newest state is set aside with a warning, and the one before serves.

    Of the settings only `epochs` may differ, and these too only where the learning rate does not
    depend on them. Nothing in the folder is changed but the name of a damaged file.

    Raises:
        ValueError: no state is sound, or the state belongs to other settings.
    """
    damaged = []
    for path in (Path(folder) / LAST, Path(folder) / PREVIOUS):
        if not path.is_file():
            continue
        try:
            state = _read(path)
        except ValueError as error:
            damaged.append(str(error))
            continue
        _check_settings(path, settings, state["settings"])
        if damaged:
            # Or it would become the previous one with the next save.
            with contextlib.suppress(OSError):  # an attached output is read-only
                last = Path(folder) / LAST
                last.replace(last.with_suffix(".damaged"))
            done = f"epoch {state['epoch']}, step {state['step']}"
            warnings.warn(f"{damaged[0]}; going on from {path.name} ({done})", stacklevel=2)
        return state
    if damaged:
        raise ValueError(f"{'; '.join(damaged)}: remove it, or set RESUME=False to start anew")
    return None


def _read(path: Path) -> dict[str, Any]:
    try:
        check_stored(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or "settings" not in state:
            raise ValueError(f"{path} holds no state of a training run")
        return state
    except (zipfile.BadZipFile, UnpicklingError, RuntimeError, EOFError, OSError) as error:
        reason = str(error).strip().split("\n")[0]
        raise ValueError(f"{path} is damaged or no checkpoint ({reason[:100]})") from error


def _check_settings(path: Path, now: dict[str, Any], then: dict[str, Any]) -> None:
    # More epochs may be asked for; anything else would make another run of it.
    if now["schedule"] == "constant" and not now["warm_up"]:
        then = then | {"epochs": now["epochs"]}
    changed = [f"{key} {then.get(key)} → {now[key]}" for key in now if now[key] != then.get(key)]
    if changed:
        raise ValueError(
            f"{path} was written with other settings ({'; '.join(changed)}): set them back, or "
            "RESUME=False to start anew"
        )
