"""Where the process runs, what it computes on, and from which seed."""

import random
import subprocess
import sys
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from utils.data.datasets import find_datasets
from utils.model.network import build_model
from utils.run import machine
from utils.run.artifacts import data_folder
from utils.run.machine import fits_shared_memory, output_folder


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """Neither Kaggle nor Colab, in an empty working folder."""
    monkeypatch.setattr(machine, "KAGGLE_WORKING", tmp_path / "kaggle" / "working")
    monkeypatch.setattr(machine, "KAGGLE_INPUT", tmp_path / "kaggle" / "input")
    monkeypatch.delenv("KAGGLE_KERNEL_RUN_TYPE", raising=False)
    monkeypatch.delenv("COLAB_RELEASE_TAG", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_environment_is_told_from_its_traces(nowhere, monkeypatch):
    assert machine.environment() == "local"
    monkeypatch.setenv("COLAB_RELEASE_TAG", "r1")
    assert machine.environment() == "colab"
    machine.KAGGLE_WORKING.mkdir(parents=True)
    assert machine.environment() == "kaggle"


def test_a_kaggle_batch_run_is_known_by_its_variable(nowhere, monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert machine.environment() == "kaggle"


def test_output_is_a_local_folder_or_kaggles_working_folder(nowhere):
    assert machine.output_folder().resolve() == nowhere / "outputs"
    machine.KAGGLE_WORKING.mkdir(parents=True)
    assert machine.output_folder() == machine.KAGGLE_WORKING


def test_a_named_output_folder_is_made_and_left_empty(tmp_path):
    folder = machine.output_folder(tmp_path / "a" / "b")
    assert folder.is_dir() and list(folder.iterdir()) == []


def test_the_home_folder_may_be_written_as_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert output_folder("~/results") == tmp_path / "results"
    (tmp_path / "data").mkdir()
    assert data_folder("~/data", tmp_path / "out") == str(tmp_path / "data")
    with pytest.raises(FileNotFoundError, match="no known data set in ~/data"):
        find_datasets("~/data")
    with pytest.raises(ValueError, match="is no file, and no folder"):
        build_model("test_efficientnet", image_size=32, weights="~/weights.pt")


@pytest.mark.parametrize(("free", "fits"), [(64, False), (1000, True)])
def test_a_small_shared_memory_is_told_and_not_written_over(monkeypatch, free, fits):
    usage = SimpleNamespace(free=free * 2**20)
    monkeypatch.setattr("utils.run.machine.shutil.disk_usage", lambda path: usage)
    told = pytest.warns(UserWarning, match="--shm-size.*NUM_WORKERS=0")
    expected = nullcontext() if fits else told
    with expected:
        assert fits_shared_memory(100 * 2**20) == fits


@pytest.mark.parametrize("below", ["", "below"])
def test_a_file_in_place_of_the_output_folder_is_named(tmp_path, below):
    (tmp_path / "taken").touch()
    with pytest.raises(ValueError, match=r"OUTPUT '.*taken.*' cannot be written: "):
        machine.output_folder(tmp_path / "taken" / below)


def test_both_mount_forms_are_roots_and_files_are_not(nowhere):
    names = ["slug", "datasets/owner/data", "notebooks/owner/run", "competitions/slug"]
    names += ["models/owner/net/pyTorch/large/1"]
    for name in names:
        (machine.KAGGLE_INPUT / name).mkdir(parents=True)
    (machine.KAGGLE_INPUT / "readme.txt").touch()
    assert sorted(machine.input_roots()) == sorted(machine.KAGGLE_INPUT / name for name in names)


def test_outside_kaggle_there_are_no_roots(nowhere):
    assert machine.input_roots() == []


@pytest.mark.parametrize("device", ["nonsense", "", "cuda:99", "meta"])
def test_a_device_that_does_not_work_is_refused_by_name(device):
    with pytest.raises(ValueError, match=f"device '{device}' does not work: .*Use 'auto' or 'cpu'"):
        machine.get_device(device)


def test_the_cpu_works_when_asked_for():
    assert machine.get_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("error", "chosen"), [("no kernel image", "cpu"), ("", "cuda")])
def test_a_gpu_is_chosen_only_if_its_first_operation_works(monkeypatch, error, chosen):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(machine, "_preflight", lambda device: error)
    assert machine.get_device() == torch.device(chosen)


def test_the_preflight_runs_an_operation_and_reports_what_it_raises(monkeypatch):
    def broken(*args):
        raise RuntimeError("CUDA error: no kernel image is available\nlong advice")

    assert machine._preflight("cpu") == ""
    monkeypatch.setattr(torch.nn.functional, "conv2d", broken)
    assert machine._preflight("cpu") == "CUDA error: no kernel image is available"


def test_a_seed_repeats_every_generator_and_another_seed_does_not():
    def draw(seed):
        machine.seed_everything(seed)
        return random.random(), float(np.random.random()), float(torch.rand(1))

    first, other = draw(3), draw(4)
    assert draw(3) == first
    assert all(a != b for a, b in zip(first, other))


def test_the_version_line_names_place_device_and_versions():
    line = machine.version_line(torch.device("cpu"))
    assert line.startswith(f"{machine.environment()} · CPU · python ")
    assert all(f"{name} {version}" in line for name, version in machine.versions().items())


def test_the_hash_of_a_name_is_the_same_on_every_machine():
    # Known answers: Python's own hash() would change with every process.
    assert machine.stable_hash("004", 0) == 10255779730963335337
    assert len({machine.stable_hash("004", seed) for seed in range(5)}) == 5


def test_a_path_is_inside_only_where_its_links_lead(tmp_path):
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    (tmp_path / "root-2").mkdir()
    (root / "out").symlink_to(tmp_path / "root-2")
    (root / "in").symlink_to(root / "a")
    (root / "self").symlink_to("self")
    assert machine.inside(root / "a", root) and machine.inside(root / "in", root)
    assert machine.inside(root / "self", root)
    assert not machine.inside(root / "out", root)
    assert not machine.inside(root / ".." / "root-2", root)
    assert not machine.inside(tmp_path / "root-2", root)


def test_on_kaggle_training_leaves_time_for_what_comes_after(nowhere):
    assert machine.time_budget(-1) == 0
    machine.KAGGLE_WORKING.mkdir(parents=True)
    assert 0 < machine.time_budget(-1) < 9 * 60
    assert (machine.time_budget(0), machine.time_budget(7)) == (0, 7)


CPU = torch.device("cpu")


def test_a_gpu_that_fails_its_first_operation_is_named_with_what_to_switch_on(nowhere, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla P100")
    monkeypatch.setattr(machine, "_preflight", lambda device: "no kernel image")
    machine.KAGGLE_WORKING.mkdir(parents=True)
    line = machine.version_line(CPU)
    assert "Tesla P100 is visible, but its first operation fails (no kernel image)" in line
    assert "GPU T4 x2 in Settings > Accelerator" in line


def test_only_where_a_gpu_can_be_had_is_one_advised(nowhere, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert machine.gpu_advice(CPU) == ""
    monkeypatch.setenv("COLAB_RELEASE_TAG", "r1")
    assert "Runtime > Change runtime type" in machine.gpu_advice(CPU)
    machine.KAGGLE_WORKING.mkdir(parents=True)
    assert "Settings > Accelerator" in machine.gpu_advice(CPU)
    assert machine.gpu_advice(torch.device("cuda")) == ""
    assert "\n" not in machine.version_line()


def test_a_folder_on_drive_mounts_it_once_and_only_on_colab(nowhere, monkeypatch, tmp_path):
    mounted = []
    drive = SimpleNamespace(mount=mounted.append)
    monkeypatch.setattr(machine.importlib, "import_module", lambda name: drive)
    monkeypatch.setattr(machine, "DRIVE", tmp_path / "drive")
    output = tmp_path / "drive" / "MyDrive" / "run"
    machine.mount_drive(output)
    monkeypatch.setenv("COLAB_RELEASE_TAG", "r1")
    machine.mount_drive(tmp_path / "elsewhere")
    assert mounted == []
    machine.output_folder(output)
    assert mounted == [str(tmp_path / "drive")] and output.is_dir()
    machine.output_folder(output)
    assert len(mounted) == 1


FAULTS = """
import resource, sys, torch
from utils.run.machine import get_device
if sys.argv[1] == "keep":
    get_device("cpu")
def faults(mib):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(mib * 2**18)  # freed at once
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(80)  # something small may come to lie in its place, so the next one is smaller
print(faults(64) * resource.getpagesize() / 2**20)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc only")
def test_on_a_cpu_freed_memory_is_used_again_without_asking_the_system():
    def faulted(how):
        command = [sys.executable, "-c", FAULTS, how]
        return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)

    assert faulted("keep") < 1  # MiB that came anew
    assert faulted("default") > 60  # which is why; where it is not so, the call can go


def test_name_takes_as_much_of_a_path_as_it_needs():
    assert machine.short_names(["a/0.png", "b/0.png", "c/1.png"]) == ["a/0.png", "b/0.png", "1.png"]
    paths = ["x/a/0.png", "y/a/0.png", "0.png", "a/1.png"]
    assert machine.short_names(paths) == ["x/a/0.png", "y/a/0.png", "0.png", "1.png"]
