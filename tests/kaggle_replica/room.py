"""A machine like Kaggle's: `/kaggle` with read-only inputs, no network, no repository in sight."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
REPOSITORY = HERE.parents[2]
SECONDS = 1800


def can_enclose() -> bool:
    """Whether this system lets us have a file system and a network of our own."""
    if not shutil.which("unshare"):
        return False
    return not subprocess.run(["unshare", "-rmn", "true"], capture_output=True).returncode


class Room:
    """A folder with `input`, `working` and `tmp`, and a Python that is to see them as Kaggle's.

    Where the system allows it, they are `/kaggle/input`, `/kaggle/working` and `/tmp` of a mount
    and network namespace. Elsewhere the copies of the notebook and of `utils` in the room are
    changed to look for them where they are, and the network is kept away by a proxy that is none.
    """

    def __init__(self, folder: Path, python: Path, *, enclosed: bool) -> None:
        """Empty the room.

        Args:
            folder: of the room; replaced.
            python: of a virtual environment, `<venv>/bin/python`.
            enclosed: of `can_enclose`.
        """
        self.folder, self.python, self.enclosed = folder, python, enclosed
        shutil.rmtree(folder, ignore_errors=True)
        for name in ("input", "working", "tmp/home"):
            (folder / name).mkdir(parents=True)

    def inside(self, path: Path) -> str:
        """How a path below `tmp` is called inside."""
        return f"/{path.relative_to(self.folder)}" if self.enclosed else str(path)

    def run(self, command: list[str]) -> subprocess.CompletedProcess[str]:
        """Run the room's Python with these arguments, in `working`."""
        environment = {
            "PATH": "/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "HOME": self.inside(self.folder / "tmp" / "home"),
            "TMPDIR": self.inside(self.folder / "tmp"),
            "KAGGLE_KERNEL_RUN_TYPE": "Batch",
        }
        options: dict[str, Any] = {"text": True, "capture_output": True, "timeout": SECONDS}
        if self.enclosed:
            room = {
                "folder": str(self.folder.resolve()),
                "venv": str(self.python.parent.parent.resolve()),
                "command": ["/environment/bin/python", *command],
                "environment": environment,
            }
            enter = ["unshare", "-rmn", sys.executable, str(HERE), json.dumps(room)]
            return subprocess.run(enter, **options)
        self._look_here()
        nowhere = "http://127.0.0.1:9"
        environment |= {"http_proxy": nowhere, "https_proxy": nowhere}
        options |= {"cwd": self.folder / "working", "env": environment}
        return subprocess.run([self.python, *command], **options)

    def _look_here(self) -> None:
        """Lead the copies to this folder, and make the inputs read-only as far as modes can."""
        for path in [
            *self.folder.rglob("tmp/*.ipynb"),
            *self.folder.rglob("input/**/utils/**/*.py"),
        ]:
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace("/kaggle/", f"{self.folder.resolve()}/"), encoding="utf-8")
        for path in (self.folder / "input").rglob("*"):
            path.chmod(path.stat().st_mode & 0o555)


def _enter(folder: str, venv: str, command: list[str], environment: dict[str, str]) -> None:
    """In new namespaces: build the file system out of this one, and become the command."""
    _loopback_up()
    root = Path(folder) / "root"
    root.mkdir(exist_ok=True)
    _mount("-t", "tmpfs", "none", root)
    for entry in sorted(Path("/").iterdir()):
        if entry.name in ("kaggle", "tmp"):
            continue
        place = root / entry.name
        if entry.is_symlink():
            place.symlink_to(entry.readlink())
        elif entry.is_dir():
            place.mkdir()
            _mount("--rbind", entry, place)
    own = {"tmp": f"{folder}/tmp", "kaggle/input": f"{folder}/input", "environment": venv}
    for name, source in {**own, "kaggle/working": f"{folder}/working"}.items():
        (root / name).mkdir(parents=True)
        _mount("--bind", source, root / name)
    _mount("-o", "remount,bind,ro", root / "kaggle" / "input")
    hidden = root / REPOSITORY.relative_to("/")
    if hidden.is_dir():
        _mount("-t", "tmpfs", "none", hidden)
    os.chroot(root)
    os.chdir("/kaggle/working")
    os.execve(command[0], command, environment)


def _mount(*arguments: str | Path) -> None:
    subprocess.run(["mount", *map(str, arguments)], check=True)


def _loopback_up() -> None:
    """A new network namespace has 127.0.0.1, but switched off; the kernel talks over it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        up = 0x1 | 0x40  # IFF_UP, IFF_RUNNING
        fcntl.ioctl(any_socket, 0x8914, struct.pack("16sh", b"lo", up))  # SIOCSIFFLAGS


if __name__ == "__main__":
    _enter(**json.loads(sys.argv[1]))
