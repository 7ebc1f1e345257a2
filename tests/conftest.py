"""The chain, run once for all end-to-end tests."""

import json
from pathlib import Path

import pytest

from tools.run import DEMO, run_pipeline

#: CI keeps this folder of a failed run: executed notebooks and report.
OUTPUT = Path(__file__).resolve().parent.parent / "outputs" / "test"


@pytest.fixture(scope="session")
def demo():
    """OUTPUT of `make run`: from drawing the demo videos to the answers of 05."""
    return run_pipeline(output=OUTPUT / "demo")


@pytest.fixture(scope="session")
def control(demo):
    """OUTPUT of the same training on the same crops, with labels that say nothing.

    Its report compares the demo's model, and tests on the demo's faces as on a further data set.
    """
    output = OUTPUT / "control"
    output.mkdir(parents=True, exist_ok=True)
    for name in ("index.csv", "data_audit.json", "augment.json"):
        (output / name).write_bytes((demo / name).read_bytes())
    settings = json.loads(DEMO.read_text())
    shuffled = settings["03_train"] | {"SHUFFLE_LABELS": True}
    beside = {"MODELS": [str(demo)], "EXTRA_DATA": [str(demo / "faces")]}
    return run_pipeline(
        demo / "faces",
        output,
        {"03_train": shuffled, "04_evaluate": settings["04_evaluate"] | beside},
        start="03_train",
        stop="04_evaluate",
    )
