"""Artefacts: written whole or not at all, checked on both sides, and found again."""

import json
import math
import os

import numpy as np
import pandas as pd
import pytest

from utils.run import artifacts, machine

BOXES = pd.DataFrame(
    {
        **{"video": ["004", "nan", "NA"], "frame": [10, 20, 30], "face": 1, "track": 0},
        **{"x1": [1.5, np.nan, 3.0], "y1": 0.0, "x2": 9.0, "y2": 9.0, "probability": 0.5},
    }
)


def fill(name):
    """A value for every key of a JSON artefact."""
    return dict.fromkeys(artifacts.ARTIFACTS[name].columns, 0)


@pytest.fixture
def mounts(tmp_path, monkeypatch):
    """Three attached inputs in all of Kaggle's mount forms."""
    monkeypatch.setattr(machine, "KAGGLE_INPUT", tmp_path / "input")
    folders = [
        tmp_path / "input" / path
        for path in ("old-slug", "datasets/owner/data", "notebooks/owner/01-explore")
    ]
    for folder in folders:
        folder.mkdir(parents=True)
    return folders


def write_half(path):
    with artifacts.atomic_path(path) as temporary:
        temporary.write_text("half of the n")
        raise RuntimeError("full disk")


def test_a_failing_write_leaves_the_old_file_and_no_temporary(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="full disk"):
        write_half(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_first_write_leaves_nothing(tmp_path):
    with pytest.raises(RuntimeError):
        write_half(tmp_path / "new" / "x.png")
    assert list((tmp_path / "new").iterdir()) == []


def test_a_write_that_succeeds_replaces_the_file_and_is_readable_by_all(tmp_path):
    path = tmp_path / "x.tar.gz"
    path.write_text("old")
    with artifacts.atomic_path(path) as temporary:
        assert temporary.parent == tmp_path and temporary.suffix == ".gz" and temporary != path
        temporary.write_text("new")
        assert path.read_text() == "old"
    plain = tmp_path / "plain"
    plain.touch()
    assert path.read_text() == "new"
    assert path.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("name", ["x" * 250 + ".json", "顔" * 83 + ".json", ".hidden.png"])
def test_name_as_long_as_the_disk_takes_is_written(tmp_path, name):
    with artifacts.atomic_path(tmp_path / name) as temporary:
        temporary.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_file_that_its_writer_made_anew_is_as_readable_as_others(tmp_path, monkeypatch):
    before = os.umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", None)  # it is of all threads: never changed for one
        with artifacts.atomic_path(tmp_path / "a.bin") as temporary:
            temporary.unlink()
            os.close(os.open(temporary, os.O_CREAT, 0o600))
    finally:
        monkeypatch.undo()
        os.umask(before)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o640


def test_name_that_is_not_text_costs_no_table(tmp_path):
    table = pd.DataFrame({"filename": ["\udcff.mp4", "a.mp4"], "label": [0.5, 0.5]})
    artifacts.write_table(table, tmp_path, "submission.csv")
    read = artifacts.read_table(tmp_path, "submission.csv")
    assert read["filename"].tolist() == ["\\udcff.mp4", "a.mp4"]


def test_json_that_cannot_be_written_keeps_the_old_artefact(tmp_path):
    artifacts.write_json(fill("augment.json") | {"policy": "old"}, tmp_path, "augment.json")
    with pytest.raises(TypeError):
        artifacts.write_json(fill("augment.json") | {"policy": object()}, tmp_path, "augment.json")
    assert artifacts.read_json(tmp_path, "augment.json")["policy"] == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["augment.json"]


def test_text_columns_keep_their_text_and_numbers_their_gaps(tmp_path):
    artifacts.write_table(BOXES, tmp_path, "faces/boxes.csv")
    table = artifacts.read_table(tmp_path, "faces/boxes.csv")
    assert table["video"].tolist() == ["004", "nan", "NA"]
    assert table["frame"].tolist() == [10, 20, 30]
    assert math.isnan(table["x1"][1]) and table["x1"][2] == 3.0


def test_an_empty_text_cell_is_read_as_empty_text(tmp_path):
    columns = artifacts.ARTIFACTS["faces/metadata.csv"].columns
    row = dict.fromkeys(columns, "1") | {"original": ""}
    artifacts.write_table(pd.DataFrame([row]), tmp_path, "faces/metadata.csv")
    assert artifacts.read_table(tmp_path, "faces/metadata.csv")["original"].tolist() == [""]


def test_contract_columns_come_first_and_extra_ones_stay(tmp_path):
    table = BOXES.assign(extra="e")[["extra", *BOXES.columns[::-1]]]
    artifacts.write_table(table, tmp_path, "faces/boxes.csv")
    read = artifacts.read_table(tmp_path, "faces/boxes.csv")
    assert list(read) == [*artifacts.ARTIFACTS["faces/boxes.csv"].columns, "extra"]


def test_a_missing_column_is_refused_on_writing_with_the_notebooks_name(tmp_path):
    with pytest.raises(ValueError, match=r"faces/boxes\.csv: x1, y2 missing; 00_extract_faces"):
        artifacts.write_table(BOXES.drop(columns=["x1", "y2"]), tmp_path, "faces/boxes.csv")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_column_is_refused_on_reading_with_the_notebooks_name(tmp_path):
    (tmp_path / "history.csv").write_text("epoch,train_loss\n1,0.5\n")
    with pytest.raises(ValueError, match=r"history\.csv: val_loss.* missing; 03_train writes"):
        artifacts.read_table(tmp_path, "history.csv")


def test_a_missing_key_is_refused_on_writing_and_on_reading(tmp_path):
    with pytest.raises(ValueError, match="parameters missing; 02_augment writes"):
        artifacts.write_json({"policy": "x"}, tmp_path, "augment.json")
    (tmp_path / "augment.json").write_text('{"parameters": {}}')
    with pytest.raises(ValueError, match="policy missing; 02_augment writes"):
        artifacts.read_json(tmp_path, "augment.json")


def test_nan_and_infinity_become_null_in_json_and_numpy_becomes_plain(tmp_path):
    value = fill("metrics.json") | {
        "frame": {"roc_auc": float("nan"), "low": np.float32("inf"), 7: np.int64(3)},
        "video": np.array([[1, 2], [3, 4]]),
        "slices": pd.DataFrame({"n": [1], "auc": [np.nan]}),
        "threshold": np.bool_(True),
    }
    path = artifacts.write_json(value, tmp_path, "metrics.json")
    plain = json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(name))
    assert plain["frame"] == {"roc_auc": None, "low": None, "7": 3}
    assert plain["video"] == [[1, 2], [3, 4]]
    assert plain["slices"] == [{"n": 1, "auc": None}]
    assert plain["threshold"] is True


@pytest.mark.parametrize("content", [b"", b'{"policy": ', b"\xff\xfe"])
def test_a_damaged_json_artefact_names_file_and_notebook(tmp_path, content):
    (tmp_path / "augment.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"augment\.json is not valid JSON .*run 02_augment again"):
        artifacts.read_json(tmp_path, "augment.json")


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2,3,4\n1,2,3,4,5\n", b"\xff\xfea"])
def test_a_damaged_table_names_file_and_notebook(tmp_path, content):
    (tmp_path / "index.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"index\.csv cannot be read .*run 01_explore_data again"):
        artifacts.read_table(tmp_path, "index.csv")


@pytest.mark.parametrize("name", [n for n in artifacts.ARTIFACTS if n.endswith(("csv", "json"))])
def test_reading_a_missing_artefact_says_which_notebook_writes_it(tmp_path, name):
    read = artifacts.read_table if name.endswith("csv") else artifacts.read_json
    with pytest.raises(FileNotFoundError) as error:
        read(tmp_path, name)
    assert name in str(error.value) and artifacts.ARTIFACTS[name].written_by in str(error.value)


def test_an_unknown_artefact_is_refused_with_the_known_ones(tmp_path):
    for call in (
        lambda: artifacts.write_table(BOXES, tmp_path, "boxes.csv"),
        lambda: artifacts.read_json(tmp_path, "boxes.csv"),
        lambda: artifacts.find_artifact("boxes.csv", tmp_path),
    ):
        with pytest.raises(ValueError, match=r"unknown artefact 'boxes\.csv'; known: .*index\.csv"):
            call()


def test_find_artifact_prefers_output_to_the_mounts(tmp_path, mounts):
    for folder in (tmp_path / "out", *mounts):
        folder.mkdir(exist_ok=True)
        (folder / "index.csv").touch()
    assert artifacts.find_artifact("index.csv", tmp_path / "out") == tmp_path / "out"


@pytest.mark.parametrize("which", [0, 1, 2])
def test_find_artifact_looks_in_every_mount_form(tmp_path, mounts, which):
    (mounts[which] / "model").mkdir()
    (mounts[which] / "model" / "config.json").touch()
    assert artifacts.find_artifact("model/config.json", tmp_path / "out") == mounts[which]


def test_an_artefact_that_is_nowhere_says_who_writes_it_and_how_to_attach_it(tmp_path, mounts):
    with pytest.raises(FileNotFoundError, match=r"01_explore_data writes it.*Add Input"):
        artifacts.find_artifact("index.csv", tmp_path)


def test_crops_are_taken_from_data_then_from_output_then_from_kaggle(tmp_path):
    assert artifacts.data_folder("", tmp_path) == ""
    (tmp_path / "faces").mkdir()
    (tmp_path / "faces" / "metadata.csv").touch()
    assert artifacts.data_folder("", tmp_path) == str(tmp_path / "faces")
    assert artifacts.data_folder("elsewhere", tmp_path) == "elsewhere"


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b'a,b\n"1,2\n', b"," * 10**8])
def test_a_foreign_table_that_is_no_csv_is_refused_by_name(tmp_path, content):
    (tmp_path / "metadata.csv").write_bytes(content)
    with pytest.raises(ValueError, match=r"metadata\.csv cannot be read as CSV"):
        artifacts.read_text_csv(tmp_path / "metadata.csv")


def fill_with(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(f"{name} of {folder.name}")


def test_artefacts_that_belong_together_are_brought_from_one_place(tmp_path, mounts):
    names, output = ("index.csv", "data_audit.json"), tmp_path / "out"
    assert artifacts.bring(names, output) == ""
    fill_with(mounts[0], "index.csv")  # alone it is of no use
    fill_with(mounts[2], *names)
    assert str(mounts[2]) in artifacts.bring(names, output)
    assert [(output / name).read_text() for name in names] == [f"{n} of 01-explore" for n in names]
    fill_with(mounts[2], "index.csv", "data_audit.json", "changed")
    assert "in OUTPUT" in artifacts.bring(names, output)


def test_the_split_that_a_model_was_trained_on_comes_before_all_others(tmp_path, mounts):
    for folder in (mounts[0], mounts[1]):
        fill_with(folder, "index.csv")
    artifacts.bring(["index.csv"], tmp_path / "out", first=mounts[1])
    assert (tmp_path / "out" / "index.csv").read_text() == "index.csv of data"


#: What a spreadsheet takes for a formula, and what only looks like our guard.
FORMULAS = [
    *("=1+1", "+1", "-1.mp4", "@SUM(A1)", "\t=1", "\r=1", "\n=1"),
    *("'=1", "''-1", "'quoted'", "a=b", "nan", ""),
]


@pytest.mark.parametrize("name", ["verdicts.csv", "predictions.csv", "index.csv", "submission.csv"])
def test_names_are_no_formulas_in_tables_for_people_and_come_back_exactly(tmp_path, name):
    columns = artifacts.ARTIFACTS[name].columns
    table = pd.DataFrame({c: FORMULAS if c in artifacts.TEXT_COLUMNS else -1.5 for c in columns})
    path = artifacts.write_table(table, tmp_path, name)
    pd.testing.assert_frame_equal(artifacts.read_table(tmp_path, name), table, check_dtype=False)
    cells = pd.read_csv(path, dtype=str, keep_default_na=False)
    texts = cells[[c for c in columns if c in artifacts.TEXT_COLUMNS]].to_numpy().ravel()
    guarded = not any(str(text).startswith(tuple("=+-@\t\r\n")) for text in texts)
    assert guarded == (name in ("verdicts.csv", "predictions.csv"))
    assert guarded or texts.tolist() == [x for x in FORMULAS for _ in range(len(texts) // 13)]
    assert "-1.5" in path.read_text() or name == "submission.csv"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[" * 200_000, ""),
        ('{"a":' * 200_000, ""),
        ("9" * 10_000, ""),
        ('{"\x1b[2J', ""),
    ],
)
def test_json_that_no_program_reads_alike_is_refused_by_name(tmp_path, content, said):
    path = tmp_path / "meta\x1b[2J.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=rf"json is not valid JSON \(.*{said}") as caught:
        artifacts.read_any_json(path)
    assert "\x1b" not in str(caught.value)


def test_what_is_not_a_number_in_json_is_none(tmp_path):
    (tmp_path / "a.json").write_text('{"a": [NaN, Infinity, -Infinity, 1.5]}')
    assert artifacts.read_any_json(tmp_path / "a.json") == {"a": [None, None, None, 1.5]}


@pytest.mark.parametrize("read", [artifacts.read_any_json, artifacts.read_text_csv])
def test_a_foreign_file_of_gigabytes_is_not_read(tmp_path, read):
    with open(tmp_path / "metadata", "wb") as file:
        file.truncate(2**31)  # a hole, which takes no disk
    with pytest.raises(ValueError, match=r"metadata .*longer than"):
        read(tmp_path / "metadata")


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        *((0, True), (1.0, True), (np.float64(0.5), True), (np.int64(1), True), (1.1, False)),
        *((True, False), ("0.5", False), (None, False), (float("nan"), False), (10**400, False)),
    ],
)
def test_a_setting_is_a_number_in_its_range(value, fits):
    if fits:
        artifacts.check_number("x", value, 0, 1)
        return
    with pytest.raises(ValueError, match=r"x is .*; it must be a number from 0 to 1"):
        artifacts.check_number("x", value, 0, 1)


@pytest.mark.parametrize("find", [artifacts.find_artifact, lambda n, o: artifacts.bring([n], o)])
def test_of_different_attached_files_none_is_taken_in_silence(tmp_path, mounts, find):
    for folder in mounts[:2]:
        fill_with(folder, "index.csv")
    with pytest.raises(ValueError, match=rf"{mounts[1]} and {mounts[0]} hold different index\.csv"):
        find("index.csv", tmp_path / "out")
    (mounts[0] / "index.csv").write_text((mounts[1] / "index.csv").read_text())
    assert str(mounts[1]) in str(find("index.csv", tmp_path / "out"))


def test_a_name_that_is_no_text_stops_no_table_and_no_json(tmp_path):
    name = os.fsdecode(b"\xff.mp4")
    table = pd.DataFrame({"filename": [name, "b.mp4"], "label": 0.5})
    artifacts.write_table(table, tmp_path, "submission.csv")
    read = artifacts.read_table(tmp_path, "submission.csv")["filename"].tolist()
    assert read == [r"\udcff.mp4", "b.mp4"]
    value = {"policy": "none", "parameters": {name: name}}
    artifacts.write_json(value, tmp_path, "augment.json")
    assert artifacts.read_json(tmp_path, "augment.json") == value
