"""The chain, run once for all end-to-end tests."""

import json
import os
from pathlib import Path

import pytest
from filelock import FileLock

from tools.run import DEMO, run_pipeline

#: CI keeps this folder of a failed run: executed notebooks and report.
OUTPUT = Path(__file__).resolve().parent.parent / "outputs" / "test"


def pytest_collection_modifyitems(items):
    """What makes the demo and its control first, what else looks at them last.

    So of the two processes that `make test` has, neither waits for the other.
    """
    behind = {item.path for item in items if "demo" in item.fixturenames}
    items.sort(key=lambda item: (item.path.name != "test_end_to_end.py", item.path in behind))


def once(name, make):
    """Folder `name` of OUTPUT as `make` leaves it, for all processes of a test run."""
    folder, made = OUTPUT / name, OUTPUT / f"{name}.made"
    folder.mkdir(parents=True, exist_ok=True)
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    with FileLock(OUTPUT / f"{name}.lock"):
        if run is None or not made.is_file() or made.read_text() != run:
            make(folder)
            made.write_text(str(run))
    return folder


@pytest.fixture(scope="session")
def demo():
    """OUTPUT of `make run`: from drawing the demo videos to the answers of 05."""
    return once("demo", lambda output: run_pipeline(output=output))


@pytest.fixture(scope="session")
def control(demo):
    """OUTPUT of the same training on the same crops, with labels that say nothing.

    Its report compares the demo's model, and tests on the demo's faces as on a further data set.
    """
    return once("control", lambda output: run_control(demo, output))


def run_control(demo, output):
    """03 and 04 on the crops of the demo, into a folder of their own."""
    for name in ("index.csv", "data_audit.json", "augment.json"):
        (output / name).write_bytes((demo / name).read_bytes())
    settings = json.loads(DEMO.read_text())
    shuffled = settings["03_train"] | {"SHUFFLE_LABELS": True}
    beside = {"MODELS": [str(demo)], "EXTRA_DATA": [str(demo / "faces")]}
    run_pipeline(
        demo / "faces",
        output,
        {"03_train": shuffled, "04_evaluate": settings["04_evaluate"] | beside},
        start="03_train",
        stop="04_evaluate",
    )
