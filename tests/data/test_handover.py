"""What an earlier notebook hands on is found, brought along, or made again."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from utils.data import indexing
from utils.inference import answers
from utils.model import network
from utils.run import artifacts, machine
from utils.training import fitting
from utils.training.augmentation import POLICIES


@pytest.fixture
def attached(tmp_path, monkeypatch):
    """Kaggle's inputs, empty."""
    monkeypatch.setattr(machine, "KAGGLE_INPUT", tmp_path / "input")
    (tmp_path / "input").mkdir()
    return tmp_path / "input"


@pytest.fixture
def data(tmp_path):
    """Crops in the main layout: twelve sources of one real and one fake video, two frames each."""
    rng = np.random.default_rng(0)
    rows = []
    for source in range(12):
        for label, video in (("REAL", f"r{source:02}"), ("FAKE", f"f{source:02}")):
            original = f"r{source:02}.mp4" if label == "FAKE" else ""
            rows.append([f"{video}.mp4", label, "train", original])
            folder = tmp_path / "part" / video
            folder.mkdir(parents=True)
            for frame in (0, 10):
                pixels = rng.integers(0, 255, (24, 24, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{frame}.png")
    columns = ["filename", "label", "split", "original"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "part" / "metadata.csv", index=False)
    return tmp_path / "part"


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(f"{name} of {folder.name}")


def test_an_index_that_is_nowhere_is_made_with_its_audit(data, tmp_path, attached):
    said = indexing.ensure_index(data, tmp_path / "out")
    assert "made as 01_explore_data makes it" in said
    index = artifacts.read_table(tmp_path / "out", "index.csv")
    audit = artifacts.read_json(tmp_path / "out", "data_audit.json")
    assert len(index) == 48 and all(audit["checks"].values())
    assert set(index["split"]) == set(artifacts.SPLITS)
    assert audit["zero_pixel"] and len(audit["leakage_ladder"]) == 3


def test_made_again_it_is_the_same(data, tmp_path, attached):
    for name in ("a", "b"):
        indexing.ensure_index(data, tmp_path / name)
    for name in indexing.INDEX:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_index_in_output_is_left_as_it_is(data, tmp_path, attached):
    touch(tmp_path / "out", *indexing.INDEX)
    touch(attached / "run", *indexing.INDEX)
    assert "in OUTPUT" in indexing.ensure_index(data, tmp_path / "out")
    assert (tmp_path / "out" / "index.csv").read_text() == "index.csv of out"


def test_an_attached_index_is_brought_along_with_its_own_audit(data, tmp_path, attached):
    touch(attached / "a-half", "index.csv")  # without its audit it is of no use
    touch(attached / "run", *indexing.INDEX)
    assert str(attached / "run") in indexing.ensure_index(data, tmp_path / "out")
    for name in indexing.INDEX:
        assert (tmp_path / "out" / name).read_text() == f"{name} of run"


def test_the_split_that_a_model_was_trained_on_comes_before_all_others(tmp_path, attached):
    touch(attached / "a-newer-split", *indexing.INDEX)
    touch(attached / "train", *indexing.INDEX)
    artifacts.bring(indexing.INDEX, tmp_path / "out", first=attached / "train")
    assert (tmp_path / "out" / "index.csv").read_text() == "index.csv of train"


def test_a_policy_that_is_nowhere_is_the_reference(tmp_path, attached):
    policy, said = fitting.read_policy(tmp_path)
    assert "`reference`" in said
    assert policy == POLICIES["reference"]
    assert artifacts.read_json(tmp_path, "augment.json") == json.loads(json.dumps(policy.to_dict()))


def test_an_attached_policy_is_brought_along(tmp_path, attached):
    (attached / "run").mkdir()
    artifacts.write_json(POLICIES["robust"].to_dict(), attached / "run", "augment.json")
    policy, said = fitting.read_policy(tmp_path / "out")
    assert str(attached / "run") in said
    assert policy == POLICIES["robust"]
    assert (tmp_path / "out" / "augment.json").is_file()


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
