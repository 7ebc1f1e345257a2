"""What Kaggle's and Colab's images lack, installed without touching anything that they have."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

#: Packages by the module that they bring. PyAV is everybody's, the detector is for 00 and 05, and
#: without captum 04 leaves its heat maps out.
EXTRAS = {
    "av": "av>=14.2",
    "captum": "captum>=0.7",
    "facenet_pytorch": "facenet-pytorch==2.5.3",
}
#: Beside `utils` in its data set: the wheels that were staged there, each with version and hash.
WHEELS = "wheels.txt"


def install_missing() -> str:
    """Install the `EXTRAS` that are missing: from wheels beside `utils`, else from the internet.

    Wheels that lie elsewhere are not looked at, and those beside `utils` must have the hashes of
    `WHEELS`. Always without dependencies, so torch and the rest of the image stay as they are. For
    Kaggle and Colab only: the bootstrap cell calls this nowhere else. Imports nothing heavy, since
    it runs before everything.

    Returns:
        For the notebook: what was installed, or what to attach; and why wheels were refused.
    Raises:
        ImportError: PyAV, which every notebook needs, is missing and cannot be had.
    """
    missing = [module for module in EXTRAS if importlib.util.find_spec(module) is None]
    if not missing:
        return "Nothing to install."
    names, wanted = ", ".join(missing), [EXTRAS[module] for module in missing]
    own = Path(__file__).resolve().parent.parent
    refused = ""
    if any(own.glob("*.whl")):
        attached = ("--no-index", "--require-hashes", f"--find-links={own}")
        if not (reason := _pip(_pinned(wanted, own / WHEELS), *attached)):
            return f"Installed without dependencies: {names}."
        refused = (
            f" The wheels in {own} were refused ({reason}): stage the data set anew "
            f"(`make kaggle-stage` writes {WHEELS}), or use the internet."
        )
    if not (reason := _pip(wanted, "--retries=0", "--timeout=10")):
        return f"Installed without dependencies: {names}.{refused}"
    advice = (
        f"Missing and not to be had ({reason}): {names}. Attach the data set that `make "
        "kaggle-push` makes, which holds their wheels, or switch the internet on "
        f"(Settings > Internet).{refused}"
    )
    if "av" in missing:
        raise ImportError(advice)
    return advice


def _pinned(wanted: list[str], file: Path) -> list[str]:
    """The lines of `WHEELS` for these; one that it lacks stays as it is, without a hash."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    listed = {line.partition("==")[0].replace("_", "-"): line for line in lines}
    return [listed.get(re.split("[=>]", name)[0], name) for name in wanted]


def _pip(lines: list[str], *options: str) -> str:
    """Install these lines of a requirements file; returns why it failed, "" if it did not."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *options]
    command += ["--requirement=/dev/stdin"]  # no argument of pip's takes a hash
    done = subprocess.run(command, input="\n".join(lines), capture_output=True, text=True)
    importlib.invalidate_caches()
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    reason = errors[-1].removeprefix("ERROR: ") if errors else "pip failed"
    return reason if done.returncode else ""
