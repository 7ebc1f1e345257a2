"""What Kaggle's and Colab's images lack, installed without touching anything that they have."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

#: Packages by the module that they bring. PyAV is everybody's, the detector is for 00 and 05, and
#: without captum 04 leaves its heat maps out.
EXTRAS = {
    "av": "av>=14.2",
    "captum": "captum>=0.7",
    "facenet_pytorch": "facenet-pytorch==2.5.3",
}
INPUTS = Path("/kaggle/input")


def install_missing() -> str:
    """Install the `EXTRAS` that are missing: from attached wheels, else from the internet.

    Always without dependencies, so torch and the rest of the image stay as they are. For Kaggle and
    Colab only: the bootstrap cell calls this nowhere else. Imports nothing heavy, since it runs
    before everything.

    Returns:
        One sentence for the notebook: what was installed, or what to attach.
    Raises:
        ImportError: PyAV, which every notebook needs, is missing and cannot be had.
    """
    missing = [module for module in EXTRAS if importlib.util.find_spec(module) is None]
    if not missing:
        return "Nothing to install."
    names = ", ".join(missing)
    links = [f"--find-links={folder}" for folder in _wheel_folders()]
    attached = [["--no-index", *links]] if links else []
    for source in (*attached, ["--retries=0", "--timeout=10"]):
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", *source]
        command += [EXTRAS[module] for module in missing]
        done = subprocess.run(command, capture_output=True, text=True)
        if not done.returncode:
            importlib.invalidate_caches()
            return f"Installed without dependencies: {names}."
    errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
    reason = errors[-1].removeprefix("ERROR: ") if errors else "pip failed"
    advice = (
        f"Missing and not to be had ({reason}): {names}. Attach the data set that `make "
        "kaggle-push` makes, which holds their wheels, or switch the internet on "
        "(Settings > Internet)."
    )
    if "av" in missing:
        raise ImportError(advice)
    return advice


def _wheel_folders() -> Iterator[Path]:
    """Folders that hold wheels: the one that `utils` lies in, and every attached data set."""
    places = [Path(__file__).resolve().parent.parent]
    for form in ("*", "*/wheels", "datasets/*/*", "datasets/*/*/wheels"):
        places += sorted(INPUTS.glob(form))
    return (place for place in dict.fromkeys(places) if next(place.glob("*.whl"), None))
