"""What the images lack is installed from wheels or the internet, without dependencies."""

import importlib.util
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from utils import installing


@pytest.fixture
def pip(monkeypatch, tmp_path):
    """What pip is asked for; it fails unless the test says which call succeeds."""

    class Pip:
        def __init__(self):
            self.calls = []
            self.works = lambda command: False

        def run(self, command, **options):
            self.calls.append(command)
            failed = int(not self.works(command))
            return subprocess.CompletedProcess(command, failed, stderr="ERROR: no network\n\n")

    fake = Pip()
    monkeypatch.setattr(installing.subprocess, "run", fake.run)
    monkeypatch.setattr(installing, "INPUTS", tmp_path)
    return fake


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


@pytest.mark.parametrize("form", ["utils-set", "datasets/me/utils-set", "my-set/wheels"])
def test_attached_wheels_come_before_the_internet(pip, monkeypatch, tmp_path, form):
    lacking(monkeypatch, "av", "captum")
    (tmp_path / form).mkdir(parents=True)
    (tmp_path / form / "av-19.0.2-cp312-abi3-any.whl").touch()
    pip.works = lambda command: "--no-index" in command
    installing.install_missing()
    (command,) = pip.calls
    assert f"--find-links={tmp_path / form}" in command


def test_wheels_that_do_not_do_are_followed_by_the_internet(pip, monkeypatch, tmp_path):
    lacking(monkeypatch, "captum")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "other-1-py3-none-any.whl").touch()
    pip.works = lambda command: "--no-index" not in command
    assert installing.install_missing() == "Installed without dependencies: captum."
    assert len(pip.calls) == 2


def test_what_cannot_be_had_is_named_with_what_to_attach(pip, monkeypatch):
    lacking(monkeypatch, "captum", "facenet_pytorch")
    said = installing.install_missing()
    assert "(no network): captum, facenet_pytorch" in said and "Settings > Internet" in said


def test_without_pyav_no_notebook_starts(pip, monkeypatch):
    lacking(monkeypatch, "av")
    with pytest.raises(ImportError, match=r"av\. Attach the data set"):
        installing.install_missing()


def test_a_real_wheel_is_installed_offline(monkeypatch, tmp_path):
    """The real pip, on a wheel of two files, into a folder of its own."""
    wheels, site = tmp_path / "input" / "set", tmp_path / "site"
    wheels.mkdir(parents=True)
    info = "tiny_extra-1.0.dist-info"
    metadata = "Metadata-Version: 2.1\nName: tiny-extra\nVersion: 1.0\n"
    tags = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    with zipfile.ZipFile(wheels / "tiny_extra-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tiny_extra.py", "answer = 42\n")
        wheel.writestr(f"{info}/METADATA", metadata)
        wheel.writestr(f"{info}/WHEEL", tags)
        wheel.writestr(f"{info}/RECORD", "")
    monkeypatch.setattr(installing, "INPUTS", tmp_path / "input")
    monkeypatch.setattr(installing, "EXTRAS", {"tiny_extra": "tiny-extra"})
    monkeypatch.setenv("PIP_TARGET", str(site))
    monkeypatch.setenv("PYTHONPATH", "")
    assert installing.install_missing() == "Installed without dependencies: tiny_extra."
    assert (site / "tiny_extra.py").is_file()


def test_it_imports_nothing_heavy():
    """It runs in the bootstrap cell, before anything is there."""
    code = "import sys, utils.installing; print(sorted({'torch', 'numpy'} & set(sys.modules)))"
    root = Path(installing.__file__).parent.parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
