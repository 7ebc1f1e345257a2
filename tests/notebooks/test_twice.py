"""Every code cell can be run twice in a row: a notebook so run leaves what it left once."""

import copy
import json
import re
import shutil
from pathlib import Path

import nbformat
import pytest

from tests.conftest import OUTPUT
from tools.run import DEMO, NOTEBOOKS, run_pipeline

ROOT = Path(__file__).resolve().parents[2]
DAY = re.compile(rb"\d{4}-\d\d-\d\d")
#: What a notebook writes and the next one reads, to the byte.
WRITTEN = {
    "00_extract_faces": ["faces/metadata.csv", "faces/boxes.csv", "faces/recipe.json"],
    "01_explore_data": ["index.csv", "data_audit.json"],
    "02_augment": ["augment.json"],
    "04_evaluate": ["predictions.csv", "video_predictions.csv", "model/decision.json", "report.md"],
    "05_inference": ["inference.csv", "verdicts.csv", "submission.csv"],
}


@pytest.fixture(scope="module")
def doubled():
    """The notebooks with every code cell but the parameters twice, inside the repository."""
    folder = OUTPUT / "doubled"
    folder.mkdir(parents=True, exist_ok=True)
    for name in NOTEBOOKS:
        notebook = nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)
        cells = []
        for cell in notebook.cells:
            cells.append(cell)
            if cell.cell_type == "code" and "parameters" not in cell.metadata.get("tags", []):
                cells.append(copy.deepcopy(cell))
                cells[-1].id = f"{cell.id}-again"
        notebook.cells = cells
        nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder


@pytest.fixture(scope="module")
def twice(demo, doubled):
    """The finished demo, in which all notebooks but 03 have run once more, each cell twice."""
    output = OUTPUT / "twice"
    shutil.rmtree(output, ignore_errors=True)
    shutil.copytree(demo, output, ignore=shutil.ignore_patterns("checkpoint", "store"))
    run_pipeline(output=output, stop="02_augment", notebooks=doubled)
    return run_pipeline(output=output, start="04_evaluate", notebooks=doubled)


@pytest.mark.parametrize("name", WRITTEN)
def test_a_notebook_whose_cells_ran_twice_leaves_the_same(demo, twice, name):
    for artefact in WRITTEN[name]:
        # The report tells the day, and midnight may have passed.
        first, second = (DAY.sub(b"", (folder / artefact).read_bytes()) for folder in (demo, twice))
        assert first == second, artefact


def test_so_do_its_metrics(demo, twice):
    first, again = (json.loads((o / "metrics.json").read_text()) for o in (demo, twice))
    assert first.pop("date") and again.pop("date")
    assert again == first


def test_the_second_training_starts_where_the_first_did(demo, doubled):
    output = OUTPUT / "trained_twice"
    output.mkdir(parents=True, exist_ok=True)
    for name in ("index.csv", "data_audit.json", "augment.json"):
        shutil.copy(demo / name, output / name)
    settings = json.loads(DEMO.read_text())["03_train"] | {"EPOCHS": 1}
    run_pipeline(
        demo / "faces",
        output,
        {"03_train": settings},
        start="03_train",
        stop="03_train",
        notebooks=doubled,
    )
    executed = nbformat.read(output / "notebooks" / "03_train.ipynb", as_version=4)
    said = "".join(o.get("text", "") for c in executed.cells for o in c.get("outputs", []))
    losses = re.findall(r"train loss (\S+) · val loss (\S+)", said)
    assert len(losses) == 2 and losses[0] == losses[1]
    assert len((output / "history.csv").read_text().splitlines()) == 2
