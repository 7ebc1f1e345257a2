"""The room in which the kernels are checked is as closed as Kaggle's sessions are."""

import json
import sys
from pathlib import Path

import pytest

from tests.kaggle_replica import check
from tests.kaggle_replica.room import REPOSITORY, Room, can_enclose
from tools.parameters import checked_parameters

LOOK = """
import json, os, socket
def attempt(action):
    try:
        action()
        return ""
    except OSError as error:
        return type(error).__name__ + " " + str(error.errno)
print(json.dumps({
    "here": os.getcwd(),
    "input": os.listdir(INPUT),
    "write": attempt(lambda: open(INPUT + "/set/new", "w")),
    "save": attempt(lambda: open("result", "w")),
    "network": attempt(lambda: socket.create_connection(("192.0.2.1", 80), 1)),
    "repository": os.path.exists(REPOSITORY + "/Makefile"),
    "loopback": attempt(lambda: socket.create_server(("127.0.0.1", 0))),
}))
"""


@pytest.mark.skipif(not can_enclose(), reason="this system allows no namespaces")
def test_in_the_room_inputs_are_read_only_and_nothing_else_is_in_sight(tmp_path):
    room = Room(tmp_path / "room", Path(sys.executable), enclosed=True)
    (room.folder / "input" / "set").mkdir()
    code = f"INPUT, REPOSITORY = '/kaggle/input', {str(REPOSITORY)!r}\n{LOOK}"
    done = room.run(["-c", code])
    seen = json.loads(done.stdout or done.stderr)
    assert seen["here"] == "/kaggle/working" and seen["input"] == ["set"]
    assert seen["write"] == "OSError 30"  # read-only file system
    assert seen["network"] == "OSError 101"  # unreachable
    assert not seen["repository"]
    assert seen["save"] == seen["loopback"] == ""
    assert (room.folder / "working" / "result").is_file()


def test_without_namespaces_the_copies_look_for_kaggle_in_the_room(tmp_path):
    room = Room(tmp_path / "room", Path(sys.executable), enclosed=False)
    package = room.folder / "input" / "set" / "utils" / "run"
    package.mkdir(parents=True)
    (package / "machine.py").write_text('KAGGLE_INPUT = "/kaggle/input"')
    (room.folder / "tmp" / "in.ipynb").write_text('"/kaggle/working"')
    done = room.run(["-c", "import os; print(os.getcwd())"])
    assert done.stdout.strip() == str(room.folder / "working")
    assert (package / "machine.py").read_text() == f'KAGGLE_INPUT = "{room.folder}/input"'
    assert (room.folder / "tmp" / "in.ipynb").read_text() == f'"{room.folder}/working"'
    assert not (package / "machine.py").stat().st_mode & 0o222


@pytest.mark.parametrize("notebook", check.SMALLER)
def test_what_the_check_makes_smaller_are_parameters(notebook):
    path = REPOSITORY / "notebooks" / f"{notebook}.ipynb"
    assert checked_parameters(path, check.SMALLER[notebook]) == check.SMALLER[notebook]


def test_the_main_data_set_has_its_four_columns_and_no_more(tmp_path):
    faces = tmp_path / "faces"
    (faces / "a").mkdir(parents=True)
    (faces / "a" / "0.png").touch()
    (faces / "boxes.csv").touch()
    (faces / "metadata.csv").write_text("filename,label,split,original,method\na.mp4,REAL,,,x\n")
    check._as_main_data_set(faces, tmp_path / "main")
    assert (tmp_path / "main" / "metadata.csv").read_text().splitlines() == [
        "filename,label,split,original",
        "a.mp4,REAL,train,",
    ]
    assert sorted(path.name for path in (tmp_path / "main").iterdir()) == ["a", "metadata.csv"]
