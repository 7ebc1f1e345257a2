"""What an earlier notebook hands on is found, brought along, or made again."""

import pytest

from utils.inference import answers
from utils.model import network
from utils.run import artifacts, machine
from utils.training import fitting


@pytest.fixture
def attached(tmp_path, monkeypatch):
    """Kaggle's inputs, empty."""
    monkeypatch.setattr(machine, "KAGGLE_INPUT", tmp_path / "input")
    (tmp_path / "input").mkdir()
    return tmp_path / "input"


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(f"{name} of {folder.name}")


def test_a_policy_that_is_nowhere_is_the_reference(tmp_path, attached):
    assert "`reference`" in fitting.ensure_policy(tmp_path)
    assert artifacts.read_json(tmp_path, "augment.json")["policy"] == "reference"


def test_an_attached_policy_is_brought_along(tmp_path, attached):
    touch(attached / "run", "augment.json")
    assert str(attached / "run") in fitting.ensure_policy(tmp_path / "out")
    assert (tmp_path / "out" / "augment.json").read_text() == "augment.json of run"


MODEL = ("config.json", "model.safetensors")


@pytest.mark.parametrize("home", ["run/model", "model-data-set", "models/me/net/pyTorch/v2-s/1"])
def test_a_model_folder_is_found_however_it_is_attached(tmp_path, attached, home):
    touch(attached / home, *MODEL)
    assert network.find_model_folder(tmp_path / "out") == attached / home


def test_an_evaluated_model_comes_before_one_that_is_not(tmp_path, attached):
    touch(attached / "train" / "model", *MODEL)
    touch(attached / "z-evaluate" / "model", *MODEL, "decision.json")
    assert network.find_model_folder(tmp_path / "out") == attached / "z-evaluate" / "model"
    touch(tmp_path / "out" / "model", *MODEL)
    assert network.find_model_folder(tmp_path / "out") == tmp_path / "out" / "model"


def test_a_model_that_is_nowhere_says_which_notebook_to_attach(tmp_path, attached):
    touch(attached / "half" / "model", "config.json")
    with pytest.raises(FileNotFoundError, match=r"03_train writes it.*attach its output"):
        network.find_model_folder(tmp_path)


def test_an_attached_model_is_copied_to_where_it_can_be_written(tmp_path, attached):
    touch(attached / "run" / "model", *MODEL)
    (attached / "run" / "model").chmod(0o555)
    home = network.keep_model(attached / "run" / "model", tmp_path / "out")
    assert (home / "config.json").read_text() == "config.json of model"
    assert home.stat().st_mode == (tmp_path / "out").stat().st_mode
    assert network.keep_model(home, tmp_path / "out") == home


def test_a_model_alone_judges_what_is_attached_beside_it(tmp_path, attached):
    touch(attached / "model", *MODEL)
    with pytest.raises(FileNotFoundError, match="nothing to judge: name files in INPUTS"):
        answers.attached_media()
    touch(attached / "clips" / "deep", "a.MP4")
    assert answers.attached_media() == [str(attached / "clips")]
