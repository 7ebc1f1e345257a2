"""What the images lack is installed from wheels or the internet, without dependencies."""

import importlib.util
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from tools import kaggle
from utils import installing


@pytest.fixture
def pip(monkeypatch, own):
    """What pip is asked for; it fails unless the test says which call succeeds."""

    class Pip:
        def __init__(self):
            self.calls = []
            self.works = lambda command: False

        def run(self, command, *, input, **options):
            self.calls.append([*command, *input.splitlines()])
            failed = int(not self.works(command))
            return subprocess.CompletedProcess(command, failed, stderr="ERROR: no network\n\n")

    fake = Pip()
    monkeypatch.setattr(installing.subprocess, "run", fake.run)
    return fake


@pytest.fixture
def own(monkeypatch, tmp_path):
    """The folder that `utils` lies in."""
    monkeypatch.setattr(installing, "__file__", str(tmp_path / "own/utils/installing.py"))
    (tmp_path / "own/utils").mkdir(parents=True)
    return tmp_path / "own"


def lacking(monkeypatch, *modules):
    """Make `find_spec` miss these modules, and no others."""
    real = importlib.util.find_spec
    monkeypatch.setattr(
        installing.importlib.util,
        "find_spec",
        lambda name: None if name in modules else real(name) or True,
    )


def test_nothing_is_asked_of_pip_where_nothing_is_missing(pip, monkeypatch):
    lacking(monkeypatch)
    assert installing.install_missing() == "Nothing to install."
    assert pip.calls == []


def test_only_what_is_missing_is_installed_and_never_with_dependencies(pip, monkeypatch):
    lacking(monkeypatch, "facenet_pytorch")
    pip.works = lambda command: True
    assert "facenet_pytorch" in installing.install_missing()
    (command,) = pip.calls
    assert "--no-deps" in command and command[-1] == "facenet-pytorch==2.5.3"
    assert not [part for part in command if part.startswith(("torch", "av", "captum"))]


def test_wheels_beside_utils_come_before_the_internet(pip, monkeypatch, own):
    lacking(monkeypatch, "av", "facenet_pytorch")
    (own / "av-19.0.2-cp312-abi3-any.whl").touch()
    lines = ["av==19.0.2 --hash=sha256:a", "facenet_pytorch==2.5.3 --hash=sha256:b"]
    (own / installing.WHEELS).write_text("\n".join(["captum==1 --hash=sha256:c", *lines]))
    pip.works = lambda command: "--no-index" in command
    installing.install_missing()
    (command,) = pip.calls
    assert f"--find-links={own}" in command and "--require-hashes" in command
    assert command[-2:] == lines


@pytest.mark.parametrize(
    "place", ["faces", "datasets/them/faces", "faces/wheels", "deepfake-detection-utils"]
)
def test_wheels_of_other_data_sets_are_not_looked_at(pip, monkeypatch, tmp_path, own, place):
    lacking(monkeypatch, "captum")
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / "captum-99-py3-none-any.whl").touch()
    installing.install_missing()
    (command,) = pip.calls
    assert not [part for part in command if part.startswith(("--find-links", "--no-index"))]


def test_what_cannot_be_had_is_named_with_what_to_attach(pip, monkeypatch):
    lacking(monkeypatch, "captum", "facenet_pytorch")
    said = installing.install_missing()
    assert "(no network): captum, facenet_pytorch" in said and "Settings > Internet" in said


def test_without_pyav_no_notebook_starts(pip, monkeypatch):
    lacking(monkeypatch, "av")
    with pytest.raises(ImportError, match=r"av\. Attach the data set"):
        installing.install_missing()


@pytest.fixture
def wheel(monkeypatch, tmp_path, own):
    """A real wheel of two files beside `utils`, staged; pip installs into a folder of its own."""
    info = "tiny_extra-1.0.dist-info"
    metadata = "Metadata-Version: 2.1\nName: tiny-extra\nVersion: 1.0\n"
    tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    path = own / "tiny_extra-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny_extra.py", "answer = 42\n")
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", tags)
        wheel.writestr(f"{info}/RECORD", "")
    (own / installing.WHEELS).write_text(kaggle._pin(path))
    monkeypatch.setattr(installing, "EXTRAS", {"tiny_extra": "tiny-extra>=0.9"})
    monkeypatch.setenv("PIP_TARGET", str(tmp_path / "site"))
    monkeypatch.setenv("PIP_INDEX_URL", f"file://{tmp_path}/internet")
    monkeypatch.setenv("PYTHONPATH", "")
    return path


def test_a_real_wheel_is_installed_offline(wheel, tmp_path):
    assert installing.install_missing() == "Installed without dependencies: tiny_extra."
    assert (tmp_path / "site" / "tiny_extra.py").is_file()


def other_content(wheel):
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("tiny_extra.pth", "import os")


def higher_version(wheel):
    shutil.copy(wheel, wheel.with_name("tiny_extra-2.0-py3-none-any.whl"))
    wheel.unlink()


@pytest.mark.parametrize(
    "change",
    [
        other_content,
        higher_version,
        lambda wheel: (wheel.parent / installing.WHEELS).unlink(),
        lambda wheel: (wheel.parent / installing.WHEELS).write_text("tiny_extra==1.0\n"),
        lambda wheel: (wheel.parent / installing.WHEELS).write_text("captum==1 --hash=sha256:0\n"),
    ],
)
@pytest.mark.parametrize("internet", [False, True])
def test_a_wheel_that_was_not_staged_is_refused(wheel, tmp_path, change, internet):
    """Then PyPI is asked, and it is said why."""
    if internet:
        page = tmp_path / "internet" / "tiny-extra"
        page.mkdir(parents=True)
        shutil.copy(wheel, page)
        (page / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    change(wheel)
    said = installing.install_missing()
    assert f"The wheels in {wheel.parent} were refused" in said and "make kaggle-stage" in said
    assert said.startswith("Installed" if internet else "Missing")
    assert [path.name for path in tmp_path.glob("site/*.p*")] == ["tiny_extra.py"] * internet


def test_it_imports_nothing_heavy():
    """It runs in the bootstrap cell, before anything is there."""
    code = "import sys, utils.installing; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    root = Path(installing.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
