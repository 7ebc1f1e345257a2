"""The bootstrap cell finds `utils` wherever it may lie, and says what to do where it does not."""

import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = nbformat.read(ROOT / "notebooks" / "01_explore_data.ipynb", as_version=4)
CELL = next(cell.source for cell in NOTEBOOK.cells if cell.cell_type == "code")
UTILS = {
    "run/__init__.py": "",
    "installing.py": "def install_missing():\n    return 'Nothing to install.'\n",
}


@pytest.fixture
def room(tmp_path):
    """A machine of its own: every absolute path of the cell leads below a temporary folder."""
    for name in ("kaggle/input", "tmp", "somewhere/deep"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


def put_utils(folder):
    (folder / "utils" / "run").mkdir(parents=True)
    for name, text in UTILS.items():
        (folder / "utils" / name).write_text(text)


def run(room, cwd, *, repository=None):
    """Run the cell as a script; returns (home, printed), or the last line of the error."""
    code = CELL.replace('"/kaggle', f'"{room}/kaggle').replace('"/tmp"', f'"{room}/tmp"')
    if repository:
        code = code.replace(CELL.split("REPOSITORY = ")[1].splitlines()[0], repr(str(repository)))
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"{code}\nprint(home)"],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={"PATH": "/usr/bin:/bin", "HOME": str(room)},
    )
    if done.returncode:
        return None, done.stderr.strip().splitlines()[-1]
    *printed, home = done.stdout.splitlines()
    return Path(home), " ".join(printed)


def test_in_the_repository_it_is_found_above_and_nothing_is_installed(room):
    put_utils(room / "clone")
    (room / "clone" / "notebooks").mkdir()
    assert run(room, room / "clone" / "notebooks") == (room / "clone", "")


FORMS = [
    "utils-set",
    "datasets/me/utils-set",
    "notebooks/me/run",
    "zipped-set/inner",
    "datasets/me/zipped-set/inner",
]


@pytest.mark.parametrize("form", FORMS)
def test_on_kaggle_it_is_found_in_each_form_of_mount(room, form):
    (room / "kaggle" / "working").mkdir()
    put_utils(room / "kaggle" / "input" / form)
    home, printed = run(room, room / "kaggle" / "working")
    assert home == room / "kaggle" / "input" / form
    assert printed == "Nothing to install."


def test_on_kaggle_with_internet_it_is_cloned(room, tmp_path):
    origin = tmp_path / "deepfake-detection-notebooks"
    put_utils(origin)
    identity = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "-A"], [*identity, "commit", "-qm", "x"]):
        subprocess.run(["git", *command], cwd=origin, check=True)
    (room / "kaggle" / "working").mkdir()
    home, printed = run(room, room / "kaggle" / "working", repository=origin)
    assert home == room / "tmp" / "deepfake-detection-notebooks"
    assert printed == "Nothing to install."


def test_nowhere_it_says_what_to_attach(room):
    (room / "kaggle" / "working").mkdir()
    home, error = run(room, room / "kaggle" / "working", repository=room / "nothing")
    assert home is None
    assert "attach the data set that holds it (Add Input) or switch the internet on" in error


def test_on_a_machine_of_ones_own_nothing_is_cloned(room):
    home, error = run(room, room / "somewhere" / "deep", repository=room / "nothing")
    assert home is None and "inside a clone" in error
    assert list((room / "tmp").iterdir()) == []


def test_beside_a_large_data_set_it_takes_under_three_seconds(room):
    (room / "kaggle" / "working").mkdir()
    for video in range(1500):
        (room / "kaggle" / "input" / "datasets" / "them" / "faces" / f"v{video}").mkdir(
            parents=True
        )
    put_utils(room / "kaggle" / "input" / "datasets" / "me" / "utils-set")
    begin = time.monotonic()
    home, _ = run(room, room / "kaggle" / "working")
    assert home and time.monotonic() - begin < 3
