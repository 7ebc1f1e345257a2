"""Run the staged kernels as Kaggle would, each with what it attaches and nothing else.

    make kaggle-check            both forms of mounts, then each notebook alone
    make kaggle-check ARGS="--form old"

Nothing of Kaggle's is needed or asked. The data is the demo's: its videos stand for the
competition's, and the faces that 00 cuts out of them for the main data set.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from tests.kaggle_replica.room import REPOSITORY, Room, can_enclose
from tools import kaggle, kaggle_push
from tools.demo.data import draw_demo
from tools.kaggle_push import StagedKernel, staged_kernels
from tools.parameters import checked_parameters
from tools.run import DEMO
from utils.installing import EXTRAS

BUILD = REPOSITORY / "build" / "kaggle-check"
PYTHON = REPOSITORY / ".venv-kaggle" / "bin" / "python"
OWNER = "me"
COMPETITION = "deepfake-detection-challenge"
MAIN = "phunghieu/deepfake-detection-faces-part-0-0"
N_SOURCES = 40  # real videos; the demo has 72
WORKING_LIMIT = 20e9  # bytes of /kaggle/working
#: Smaller than the demo: what is checked is where things lie, not how well they are learnt. Two
#: processes stand for the two GPUs.
SMALLER: dict[str, dict[str, Any]] = {
    "00_extract_faces": {"FRAMES_PER_VIDEO": 3},
    "03_train": {"EPOCHS": 3, "PROCESSES": 2},
    "04_evaluate": {"RESAMPLES": 100, "ROBUSTNESS_CROPS": 60, "HEAT_MAPS": 1},
    "05_inference": {"MAX_EXAMPLES": 3, "FRAMES_PER_VIDEO": 4},
}
#: Where each kind of source is mounted below /kaggle/input, by form.
MOUNTS = {
    "old": {"datasets": "{slug}", "competitions": "{slug}", "notebooks": "{slug}"},
    "new": {
        "datasets": "datasets/{owner}/{slug}",
        "competitions": "competitions/{slug}",
        "notebooks": "notebooks/{owner}/{slug}",
    },
}


class Attached(NamedTuple):
    """One input of a kernel: its kind, its name (`owner/slug`) and what it holds."""

    kind: str
    name: str
    content: Path


class Row(NamedTuple):
    """One row of the table."""

    kernel: str
    mounts: str
    result: str
    seconds: float
    bootstrap_s: float
    working_mb: float
    temporary_mb: float


def main(argv: list[str] | None = None) -> int:
    """Run the check; returns 0 if every kernel did what it should."""
    parser = argparse.ArgumentParser(prog="python -m tests.kaggle_replica.check")
    parser.add_argument("--form", choices=MOUNTS, help="only this form of mounts")
    forms = [args.form] if (args := parser.parse_args(argv)).form else list(MOUNTS)
    enclosed = can_enclose()
    print(_what_is_checked(enclosed), flush=True)
    shutil.rmtree(BUILD, ignore_errors=True)
    _uninstall()  # what a check that was broken off left
    before = _packages()
    checks = Checks(enclosed)
    for form in forms:
        checks.chain(form)
    checks.alone(forms[-1])
    shutil.rmtree(checks.room)
    table = pd.DataFrame(checks.rows)
    print(table.to_string(index=False, float_format=lambda number: f"{number:.1f}"))
    changed = set(before.items()) ^ set(_packages().items())
    if changed:
        print(f"the environment was changed: {sorted(changed)}")
    return int(bool(changed) or not (table["result"].str.startswith("ok")).all())


class Checks:
    """The staged kernels, what they may attach, and the rows so far."""

    def __init__(self, enclosed: bool) -> None:
        """Stage the kernels, and draw the videos that stand for the competition's."""
        self.enclosed = enclosed
        # Not below the repository: the bootstrap cell looks for it in every folder above.
        self.room = Path(tempfile.mkdtemp(prefix="kaggle-"))
        self.rows: list[Row] = []
        version = subprocess.run(
            [PYTHON, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        wheels = kaggle.fetch_wheels(BUILD / "wheels", python=version)
        described = kaggle.read_metadata(owner=OWNER)
        kaggle.stage(described, BUILD / "staged", wheels=wheels)
        self.kernels = {
            Path(kernel.metadata["code_file"]).stem: kernel
            for kernel in staged_kernels(BUILD / "staged").values()
        }
        self.demo = json.loads(DEMO.read_text(encoding="utf-8"))
        arguments = {**self.demo["demo_data"], "n_sources": N_SOURCES, "progress": False}
        draw_demo(BUILD / "videos" / "train_sample_videos", **arguments)
        utils = BUILD / "staged" / kaggle_push.UTILS_DATASET
        (utils / "dataset-metadata.json").unlink()  # the client reads it and leaves it here
        utils_name = f"{OWNER}/{described['utils']['slug']}"
        self.utils = Attached("datasets", utils_name, utils)
        self.videos = Attached("competitions", f"-/{COMPETITION}", BUILD / "videos")
        self.main = Attached("datasets", MAIN, BUILD / "main")

    def chain(self, form: str) -> None:
        """Run all kernels in order, each with what `kernel-metadata.json` attaches."""
        outputs: dict[str, Path] = {}
        for notebook, kernel in self.kernels.items():
            listed = kernel.metadata
            attached = [self.utils] if self.utils.name in listed["dataset_sources"] else []
            attached += [self.main] if MAIN in listed["dataset_sources"] else []
            attached += [self.videos] if COMPETITION in listed["competition_sources"] else []
            attached += [Attached("notebooks", name, outputs[name]) for name in kernel.reads]
            outputs[kernel.name] = self.run(notebook, form, attached)
            if notebook == "00_extract_faces" and not self.main.content.exists():
                _as_main_data_set(outputs[kernel.name] / "faces", self.main.content)

    def alone(self, form: str) -> None:
        """Run what a visitor copies: without earlier notebooks; 05 with a video, or a model too."""
        base = [self.utils, self.main]
        self.run("02_augment", form, base, title="02_augment, alone")
        # More epochs than fit: a session ends by its budget, and the next one reads its output.
        short = {"EPOCHS": 500, "TIME_BUDGET_MIN": 1.0}
        trained = self.run("03_train", form, base, title="03_train, alone", changes=short)
        output = Attached("notebooks", self.kernels["03_train"].name, trained)
        resumed = self.run(
            *("03_train", form, [*base, output]),
            title="03_train, resumed",
            changes={**short, "RESUME": True},
        )
        first, second = _epochs(trained), _epochs(resumed)
        if not first < second:
            result = f"FAILED: {first} epochs, then {second}"
            self.rows[-1] = self.rows[-1]._replace(result=result)
        judged = self.run("04_evaluate", form, [*base, output], title="04_evaluate, after 03")
        says = "03_train writes it"
        self.run("04_evaluate", form, base, title="04_evaluate, no model", says=says)
        model = Attached("datasets", "me/my-model", judged / "model")
        clips = BUILD / "clips"
        clips.mkdir()
        video = next((BUILD / "videos").rglob("*.mp4"))
        shutil.copy(video, clips / "clip.mp4")
        clip = Attached("datasets", "me/my-clips", clips)
        inputs = [self.utils, model, clip]
        self.run("05_inference", form, inputs, title="05_inference, model + video")
        self.run("05_inference", form, [self.utils, clip], title="05_inference, a video alone")

    def run(
        self,
        notebook: str,
        form: str,
        attached: list[Attached],
        *,
        title: str = "",
        says: str = "",
        changes: Mapping[str, Any] | None = None,
    ) -> Path:
        """Run one kernel in a room of its own.

        Args:
            notebook: such as "03_train".
            form: of the mounts.
            attached: its inputs.
            title: in the table.
            says: what the kernel has to stop with; "": it has to succeed.
            changes: of parameters.
        Returns:
            A copy of what it left in `/kaggle/working`.
        """
        title = title or notebook
        room = Room(self.room, PYTHON, enclosed=self.enclosed)
        for item in attached:
            owner, slug = item.name.split("/")
            place = MOUNTS[form][item.kind].format(owner=owner, slug=slug)
            shutil.copytree(item.content, room.folder / "input" / place)
        files = [room.folder / "tmp" / name for name in ("in.ipynb", "out.ipynb", "set.json")]
        kernel = self.kernels[notebook]
        shutil.copy(kernel.folder / kernel.metadata["code_file"], files[0])
        parameters = self._parameters(notebook, kernel, changes or {})
        files[2].write_text(json.dumps(parameters), encoding="utf-8")
        source, copy, settings = map(room.inside, files)
        begin = time.monotonic()
        command = ["-m", "papermill", source, copy, "-f", settings, "-k", "python3"]
        done = room.run([*command, "--no-progress-bar", "--log-level", "ERROR"])
        seconds = time.monotonic() - begin
        _uninstall()
        log = BUILD / "logs" / f"{form}, {title}"
        log.parent.mkdir(exist_ok=True)
        log.with_suffix(".log").write_text(done.stdout + done.stderr, encoding="utf-8")
        if files[1].is_file():
            shutil.copy(files[1], log.with_suffix(".ipynb"))
        working, temporary = _size(room.folder / "working"), _size(room.folder / "tmp")
        lines = [line for line in done.stderr.strip().splitlines() if line.strip()] or [""]
        result = "ok" if not done.returncode else f"FAILED: {lines[-1][:90]}"
        if says:
            stopped = done.returncode and says in done.stderr
            result = f"ok, says {says!r}" if stopped else f"FAILED: did not say {says!r}"
        elif working > WORKING_LIMIT:
            result = f"FAILED: {working / 1e9:.0f} GB in /kaggle/working"
        row = Row(
            title, form, result, seconds, _bootstrap(files[1]), working / 1e6, temporary / 1e6
        )
        self.rows.append(row)
        print(f"{form:4} {title:30} {result} ({seconds:.0f} s)", flush=True)
        output = BUILD / "outputs" / f"{form}, {title}"
        shutil.copytree(room.folder / "working", output)
        return output

    def _parameters(
        self, notebook: str, kernel: StagedKernel, changes: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        """Overrides of the demo, made smaller."""
        path = kernel.folder / kernel.metadata["code_file"]
        layers = (self.demo.get(notebook, {}), SMALLER.get(notebook, {}), changes)
        return checked_parameters(path, *layers)


def _what_is_checked(enclosed: bool) -> str:
    packages = _packages()
    listed = ", ".join(f"{name} {packages[name]}" for name in ("torch", "timm", "numpy"))
    version = subprocess.run([PYTHON, "--version"], capture_output=True, text=True).stdout.strip()
    if enclosed:
        return f"{version}, {listed}; /kaggle with read-only inputs, no network, no repository"
    return (
        f"{version}, {listed}; this system allows no namespaces, so a folder stands for /kaggle, "
        "its inputs are read-only by their modes, and a dead proxy for the missing network"
    )


def _packages() -> dict[str, str]:
    """What is installed where the kernels run."""
    command = [PYTHON, "-m", "pip", "list", "--format=json", "--disable-pip-version-check"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return {item["name"].lower(): item["version"] for item in json.loads(done.stdout)}


def _uninstall() -> None:
    """A session of Kaggle starts from the image: what the last one installed is gone."""
    names = [requirement.split(">")[0].split("=")[0] for requirement in EXTRAS.values()]
    command = [PYTHON, "-m", "pip", "uninstall", "--yes", "--quiet", *names]
    subprocess.run(command, capture_output=True, check=True)


def _as_main_data_set(faces: Path, folder: Path) -> None:
    """What 00 cut, as the main data set has it: four columns, and no boxes."""
    shutil.copytree(faces, folder, ignore=shutil.ignore_patterns("boxes.csv", ".*", "*.json"))
    table = pd.read_csv(folder / "metadata.csv", dtype=str, keep_default_na=False)
    columns = ["filename", "label", "split", "original"]
    table.assign(split="train")[columns].to_csv(folder / "metadata.csv", index=False)


def _bootstrap(executed: Path) -> float:
    """Seconds that the first code cell took."""
    if not executed.is_file():
        return 0.0
    cells = json.loads(executed.read_text(encoding="utf-8"))["cells"]
    first = next(cell for cell in cells if cell["cell_type"] == "code")
    return float(first["metadata"].get("papermill", {}).get("duration") or 0.0)


def _epochs(output: Path) -> int:
    history = output / "history.csv"
    return len(pd.read_csv(history)) if history.is_file() else 0


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


if __name__ == "__main__":
    sys.exit(main())
