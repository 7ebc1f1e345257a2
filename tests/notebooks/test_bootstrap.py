"""The bootstrap cell finds `utils` wherever it may lie, and says what to do where it does not."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from tools.kaggle import METADATA, NOBODY, read_metadata, stage
from tools.kaggle_push import UTILS_DATASET

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = nbformat.read(ROOT / "notebooks" / "01_explore_data.ipynb", as_version=4)
CELL = next(cell.source for cell in NOTEBOOK.cells if cell.cell_type == "code")
SLUG = read_metadata()["utils"]["slug"]
IDENTITY = ("-c", "user.name=x", "-c", "user.email=x@example.org")


@pytest.fixture
def room(tmp_path):
    """A machine of its own: every absolute path of the cell leads below a temporary folder."""
    for name in ("kaggle/input", "tmp", "somewhere/deep"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path


@pytest.fixture
def kaggle(room):
    """The working directory of a session on Kaggle."""
    (room / "kaggle" / "working").mkdir()
    return room / "kaggle" / "working"


def put_utils(folder, says="Nothing to install."):
    (folder / "utils" / "run").mkdir(parents=True, exist_ok=True)
    (folder / "utils" / "run" / "__init__.py").touch()
    code = f"def install_missing():\n    return {says!r}\n"
    (folder / "utils" / "installing.py").write_text(code)


def git(origin, *command):
    done = subprocess.run(
        ["git", *IDENTITY, *command], cwd=origin, check=True, capture_output=True, text=True
    )
    return done.stdout.strip()


@pytest.fixture
def origin(room):
    """A repository whose first commit is tagged, and which has gone on, also on a branch.

    Its `utils` say which of them is there.
    """
    origin = room / "deepfake-detection-notebooks"
    origin.mkdir()
    git(origin, "init", "-q", "-b", "main")
    for number, says in enumerate(("first", "newest", "branched")):
        if says == "branched":
            git(origin, "checkout", "-q", "-b", "some/branch")
        put_utils(origin, says)
        git(origin, "add", "-A")
        git(origin, "commit", "-qm", says)
        if number == 0:
            git(origin, "tag", "-a", "v1", "-m", "annotated")
            git(origin, "tag", "light")
    git(origin, "checkout", "-q", "main")
    return origin


def run(
    room, cwd, *, repository="nothing", revision="HEAD", before="", path="/usr/bin:/bin", tmp="tmp"
):
    """Run the cell as a script; returns (home, printed), or (None, the last line of the error)."""
    code = CELL.replace('"/kaggle', f'"{room}/kaggle')
    code, n_addresses = re.subn(r'REPOSITORY = "[^"]+"', f'REPOSITORY = "{repository}"', code)
    code, n_revisions = re.subn(r'REVISION = "HEAD"', f'REVISION = "{revision}"', code)
    assert n_addresses == n_revisions == 1
    done = subprocess.run(
        [sys.executable, "-I", "-c", f"{before}\n{code}\nprint(home)"],
        cwd=cwd,
        capture_output=True,
        text=True,
        env={"PATH": path, "HOME": str(room), "TMPDIR": str(room / tmp)},
    )
    if done.returncode:
        return None, done.stderr.strip().splitlines()[-1]
    *printed, home = done.stdout.splitlines()
    return Path(home), " ".join(printed)


def test_in_the_repository_it_is_found_above_and_nothing_is_installed(room):
    put_utils(room / "clone", says="called")
    (room / "clone" / "notebooks").mkdir()
    home, printed = run(room, room / "clone" / "notebooks")
    assert home == room / "clone" and "called" not in printed


def test_what_python_imports_from_anyway_is_found(room):
    """PYTHONPATH, or an editor that puts the project on the path."""
    put_utils(room / "clone")
    before = f"import sys; sys.path.append({str(room / 'clone')!r})"
    assert run(room, room / "somewhere", before=before)[0] == room / "clone"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_folders_that_may_not_be_read_are_passed_over(room):
    closed = room / "closed"
    closed.mkdir(mode=0)
    put_utils(room / "open")
    before = f"import sys; sys.path += [{str(closed)!r}, {str(room / 'open')!r}]"
    assert run(room, room / "somewhere", before=before)[0] == room / "open"


FORMS = [SLUG, f"datasets/me/{SLUG}", f"{SLUG}/inner", f"datasets/me/{SLUG}/inner"]
STRANGERS = [
    *("kaggle/input/faces", "kaggle/input/faces/inner", f"kaggle/input/faces/{SLUG}"),
    *(f"kaggle/input/{SLUG}-2", "kaggle/input/datasets/them/faces", "kaggle/input/datasets"),
    *(f"kaggle/input/datasets/them/faces/{SLUG}", f"kaggle/input/notebooks/them/{SLUG}"),
    *(f"kaggle/input/models/them/{SLUG}/pytorch/a/1", f"kaggle/input/competitions/{SLUG}"),
    *("kaggle/working/unpacked", "somewhere/else", "tmp/tmp.0", "tmp"),
]


@pytest.mark.parametrize("form", FORMS)
def test_on_kaggle_it_is_found_in_each_form_of_mount(room, kaggle, form):
    put_utils(room / "kaggle" / "input" / form)
    home, printed = run(room, kaggle)
    assert home == room / "kaggle" / "input" / form
    assert printed == "Nothing to install."


@pytest.mark.parametrize("stranger", STRANGERS)
def test_what_lies_elsewhere_is_never_imported(room, kaggle, origin, stranger):
    """Alone it is no `utils`, and beside ours, attached or cloned, it is nothing."""
    put_utils(room / stranger, says="a stranger's")
    home, error = run(room, kaggle)
    assert home is None and "`utils` is nowhere" in error
    assert run(room, kaggle, repository=origin)[1] == "newest"
    put_utils(room / "kaggle" / "input" / "datasets" / "zz" / SLUG, says="ours")
    assert run(room, kaggle)[1] == "ours"


@pytest.mark.parametrize("other", [f"datasets/them/{SLUG}", f"{SLUG}/inner"])
def test_of_two_attached_ones_none_is_taken_and_both_are_named(room, kaggle, origin, other):
    both = [room / "kaggle" / "input" / form for form in (SLUG, other)]
    for place in both:
        put_utils(place)
    home, error = run(room, kaggle, repository=origin)
    assert home is None and all(str(place) in error for place in both)
    assert list((room / "tmp").iterdir()) == []


@pytest.mark.parametrize("place", [SLUG, f"datasets/me/{SLUG}"])
@pytest.mark.parametrize("unpacked", ["", "utils-dataset"])
def test_a_data_set_zipped_by_hand_as_the_page_says_is_found(room, kaggle, place, unpacked):
    """`docs/offline.md`: a zip of the content, which may be unpacked into a folder of its name."""
    described = read_metadata(owner="me") | {"kernels": []}
    staged = stage(described, room / "staged", wheels=room) / UTILS_DATASET
    archive = shutil.make_archive(str(room / "utils-dataset"), "zip", staged)
    mounted = room / "kaggle" / "input" / place / unpacked
    shutil.unpack_archive(archive, mounted)
    assert run(room, kaggle) == (mounted, "Nothing to install.")
    assert (mounted / "utils" / "run" / "artifacts.py").is_file()


def test_what_is_attached_comes_before_a_clone(room, kaggle, origin):
    put_utils(room / "kaggle" / "input" / SLUG, says="attached")
    assert run(room, kaggle, repository=origin)[1] == "attached"


@pytest.mark.parametrize(
    ("revision", "says"),
    [("HEAD", "newest"), ("some/branch", "branched"), ("v1", "first"), ("light", "first")],
)
def test_on_kaggle_with_internet_the_revision_is_cloned(room, kaggle, origin, revision, says):
    home, printed = run(room, kaggle, repository=origin, revision=revision)
    assert printed == says
    assert home.is_relative_to(room / "tmp")


def test_a_full_commit_is_cloned(room, kaggle, origin):
    commit = git(origin, "rev-parse", "main~1")
    assert run(room, kaggle, repository=origin, revision=commit)[1] == "first"


def test_a_new_kernel_takes_another_revision(room, kaggle, origin):
    for revision, says in (("HEAD", "newest"), ("v1", "first"), ("HEAD", "newest")):
        assert run(room, kaggle, repository=origin, revision=revision)[1] == says


def test_a_second_run_of_the_cell_clones_nothing(room, kaggle, origin):
    code = CELL.replace('"/kaggle', f'"{room}/kaggle')
    again = re.sub(r'REPOSITORY = "[^"]+"', f'REPOSITORY = "{origin}"', code)
    home, _ = run(room, kaggle, repository="gone", before=again)
    assert list((room / "tmp").iterdir()) == [home]


def test_a_clone_that_was_broken_off_is_not_taken(room, kaggle, origin):
    """A git that dies when half of the files are there: the next run starts anew."""
    broken = room / "bin"
    broken.mkdir()
    script = '#!/bin/sh\n[ "$1" = checkout ] || exec /usr/bin/env -S PATH=/usr/bin:/bin git "$@"\n'
    script += "mkdir -p utils/run && touch utils/run/__init__.py && kill -9 $$\n"
    (broken / "git").write_text(script)
    (broken / "git").chmod(0o755)
    home, error = run(room, kaggle, repository=origin, path=f"{broken}:/usr/bin:/bin")
    (half,) = (room / "tmp").iterdir()
    assert home is None and (half / "utils/run/__init__.py").is_file()
    assert "`utils` is nowhere" in error
    home, printed = run(room, kaggle, repository=origin)
    assert home != half and printed == "newest"


@pytest.mark.parametrize("revision", ["HEAD", "no-such-branch"])
def test_nowhere_it_says_what_to_attach(room, kaggle, origin, revision):
    repository = room / "nothing" if revision == "HEAD" else origin
    home, error = run(room, kaggle, repository=repository, revision=revision)
    assert home is None
    assert all(what in error for what in (SLUG, "switch the internet on", "run in a clone"))


def test_while_the_address_names_nobody_nothing_is_cloned(room, kaggle, origin):
    """On GitHub somebody may be called so; `git` itself would take what lies there."""
    repository = json.loads(METADATA.read_text())["repository"]
    assert f"/{NOBODY}/" in repository or repository in CELL
    place = room / NOBODY / origin.name
    shutil.copytree(origin, place)
    home, error = run(room, kaggle, repository=place)
    assert home is None and f"while REPOSITORY says {NOBODY} nothing is cloned" in error
    assert list((room / "tmp").iterdir()) == []


@pytest.mark.parametrize("tmp", ["missing", "with a blank"])
def test_a_clone_stays_in_a_temporary_folder_of_its_own(room, kaggle, origin, tmp):
    (room / "with a blank").mkdir()
    home, _ = run(room, kaggle, repository=origin, tmp=tmp)
    assert (home is None) == (tmp == "missing")
    assert not (room / ".git").exists() and not (kaggle / ".git").exists()


def test_on_a_machine_of_ones_own_nothing_is_cloned(room, origin):
    home, error = run(room, room / "somewhere" / "deep", repository=origin)
    assert home is None and "run in a clone" in error
    assert list((room / "tmp").iterdir()) == []


@pytest.mark.parametrize("form", FORMS[:3])
def test_beside_a_large_data_set_it_takes_under_three_seconds(room, kaggle, form):
    for place in ("faces", "datasets/them/faces"):
        for video in range(1500):
            (room / "kaggle" / "input" / place / f"v{video}").mkdir(parents=True)
    put_utils(room / "kaggle" / "input" / form)
    begin = time.monotonic()
    home, _ = run(room, kaggle)
    assert home and time.monotonic() - begin < 3
