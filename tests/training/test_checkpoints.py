import os
import resource
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from tests.model.test_network import repacked
from utils.training.checkpoints import (
    CheckpointWriter,
    find_checkpoint,
    has_checkpoint,
    load_checkpoint,
)

SETTINGS = {"schedule": "constant", "warm_up": 0.0, "epochs": 3, "seed": 0}


def state(step, **settings):
    return {
        "settings": SETTINGS | settings,
        "epoch": 1,
        "step": step,
        "model": {"weight": torch.full((5000,), float(step))},
    }


def write(folder, *steps):
    writer = CheckpointWriter(folder)
    for step in steps:
        writer.save(state(step))
    writer.wait()
    writer.stop()


def flip_a_byte(path, place=3000):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def test_newest_two_states_stay(tmp_path):
    write(tmp_path, 1, 2, 3)
    assert sorted(os.listdir(tmp_path)) == ["last.pt", "previous.pt"]
    assert load_checkpoint(tmp_path, SETTINGS)["step"] == 3
    (tmp_path / "last.pt").unlink()
    assert load_checkpoint(tmp_path, SETTINGS)["step"] == 2


def test_state_is_the_one_of_the_moment_it_was_handed_over(tmp_path):
    live = state(1)
    writer = CheckpointWriter(tmp_path)
    writer.save(live)
    live["model"]["weight"].fill_(9)
    writer.wait()
    assert (load_checkpoint(tmp_path, SETTINGS)["model"]["weight"] == 1).all()


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "text"])
def test_damaged_newest_state_falls_back_and_says_so(tmp_path, damage):
    write(tmp_path, 1, 2)
    last = tmp_path / "last.pt"
    if damage == "flip":
        flip_a_byte(last)
    else:
        content = {"cut": last.read_bytes()[:4000], "empty": b"", "text": b"PK\x03\x04 no"}
        last.write_bytes(content[damage])
    with pytest.warns(UserWarning, match=r"last\.pt.*going on from previous\.pt \(epoch 1, step 1"):
        assert load_checkpoint(tmp_path, SETTINGS)["step"] == 1


def test_damaged_state_does_not_become_the_previous_one(tmp_path):
    write(tmp_path, 1, 2)
    flip_a_byte(tmp_path / "last.pt")
    with pytest.warns(UserWarning, match="damaged"):
        load_checkpoint(tmp_path, SETTINGS)
    write(tmp_path, 3)
    flip_a_byte(tmp_path / "last.pt")
    with pytest.warns(UserWarning, match="damaged"):
        assert load_checkpoint(tmp_path, SETTINGS)["step"] == 1


def test_two_damaged_states_end_with_what_to_do(tmp_path):
    write(tmp_path, 1, 2)
    for name in ("last.pt", "previous.pt"):
        flip_a_byte(tmp_path / name)
    with pytest.raises(ValueError, match=r"last\.pt.*previous\.pt.*RESUME=False"):
        load_checkpoint(tmp_path, SETTINGS)


def test_half_a_state_of_a_killed_run_is_removed(tmp_path):
    write(tmp_path, 1)
    (tmp_path / ".last-abcd.pt").write_bytes(b"half")
    write(tmp_path, 2)
    assert sorted(os.listdir(tmp_path)) == ["last.pt", "previous.pt"]


def test_more_epochs_may_be_asked_for_only_where_the_rate_does_not_depend_on_them(tmp_path):
    write(tmp_path, 1)
    assert load_checkpoint(tmp_path, SETTINGS | {"epochs": 9})["step"] == 1
    cosine = {"schedule": "cosine"}
    writer = CheckpointWriter(tmp_path / "cosine")
    writer.save(state(1, **cosine))
    writer.wait()
    with pytest.raises(ValueError, match="epochs 3 → 9"):
        load_checkpoint(tmp_path / "cosine", SETTINGS | cosine | {"epochs": 9})


def test_no_checkpoint_is_none(tmp_path):
    assert load_checkpoint(tmp_path, SETTINGS) is None
    assert not has_checkpoint(tmp_path)
    assert find_checkpoint(tmp_path) is None


def test_checkpoint_of_an_attached_output_is_found_after_ones_own(tmp_path, monkeypatch):
    attached, output = tmp_path / "input" / "run", tmp_path / "output"
    monkeypatch.setattr("utils.training.checkpoints.input_roots", lambda: [attached])
    write(attached / "checkpoint", 1)
    assert find_checkpoint(output) == attached / "checkpoint"
    write(output / "checkpoint", 2)
    assert find_checkpoint(output) == output / "checkpoint"


def test_damaged_state_of_a_read_only_folder_is_passed_over(tmp_path, monkeypatch):
    write(tmp_path, 1, 2)
    flip_a_byte(tmp_path / "last.pt")

    def read_only(*_):
        raise OSError("read-only")

    monkeypatch.setattr(Path, "replace", read_only)
    with pytest.warns(UserWarning, match="going on"):
        assert load_checkpoint(tmp_path, SETTINGS)["step"] == 1


def test_folder_that_cannot_be_written_is_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"file.*set OUTPUT"):
        CheckpointWriter(tmp_path / "file" / "checkpoint")


FULL_DISK = """
import resource, sys
from tests.training.test_checkpoints import state
from utils.training.checkpoints import CheckpointWriter

writer = CheckpointWriter(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (8192, 8192))  # the system refuses what goes beyond
writer.save(state(2))
try:
    writer.wait()
except OSError as error:
    print(error)
"""


def test_disk_that_is_full_is_said_clearly_and_the_last_good_state_is_intact(tmp_path):
    """The system itself refuses to write: in a process of its own, whose files may not grow."""
    write(tmp_path, 1)
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        cwd=root, capture_output=True, text=True, check=True,
        env=os.environ | {"PYTHONPATH": str(root)},
    )  # fmt: skip
    assert "Free some disk" in run.stdout
    assert f"the last good state is in {tmp_path}" in run.stdout
    assert os.listdir(tmp_path) == ["last.pt"]
    assert load_checkpoint(tmp_path, SETTINGS)["step"] == 1
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 8192  # that was the other process


class Trap:
    """Whoever unpickles this creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_checkpoint_is_not_unpickled(tmp_path):
    trap = tmp_path / "sprung"
    torch.save({"settings": Trap(trap)}, tmp_path / "last.pt")
    with pytest.raises(ValueError, match=r"last\.pt.*RESUME=False"):
        load_checkpoint(tmp_path, SETTINGS)
    assert not trap.exists()
    torch.load(tmp_path / "last.pt", weights_only=False)
    assert trap.exists()  # it would have worked


def test_state_that_is_compressed_is_not_unpacked(tmp_path, monkeypatch):
    write(tmp_path, 1)
    repacked(tmp_path / "last.pt")
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda _: pytest.fail("unpacked"))
    with pytest.raises(ValueError, match=r"last\.pt.*compressed"):
        load_checkpoint(tmp_path, SETTINGS)
