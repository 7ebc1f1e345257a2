"""03 without its notebook, beside it, and under `accelerate launch`."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from tools import train
from tools.parameters import parse_overrides
from tools.run import run_pipeline
from utils.faces.detection import CropRecipe
from utils.model.network import load_model
from utils.run import artifacts
from utils.training import fitting
from utils.training.augmentation import POLICIES

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = (
    "03_train.MODEL_NAME=test_efficientnet 03_train.PRETRAINED=False 03_train.IMAGE_SIZE=32 "
    "03_train.EPOCHS=2 03_train.BATCH_SIZE=6 03_train.PRECISION=float32 03_train.NUM_WORKERS=0"
)


@pytest.fixture
def folders(tmp_path):
    """Crops in the main layout, and what 01 and 02 write about them: six sources, two a split."""
    data, output = tmp_path / "part", tmp_path / "out"
    rng = np.random.default_rng(0)
    metadata, index = [], []
    for source in range(6):
        for fake in (0, 1):
            video, original = f"s{source}f{fake}", f"s{source}f0"
            label, split = ("REAL", "FAKE")[fake], ("train", "val", "test")[source // 2]
            metadata.append([f"{video}.mp4", label, "train", f"{original}.mp4" if fake else ""])
            (data / video).mkdir(parents=True)
            for frame in range(4):
                pixels = rng.integers(60, 190, (40, 40, 3))
                pixels[::2] += 60 * fake
                Image.fromarray(pixels.astype(np.uint8)).save(data / video / f"{frame}.png")
                row = [f"{video}/{frame}.png", "part", video, frame, 1, label, original, "unknown"]
                index.append([*row, split, 40, 40])
    columns = ["filename", "label", "split", "original"]
    pd.DataFrame(metadata, columns=columns).to_csv(data / "metadata.csv", index=False)
    columns = artifacts.ARTIFACTS["index.csv"].columns
    artifacts.write_table(pd.DataFrame(index, columns=columns), output, "index.csv")
    names = artifacts.ARTIFACTS["data_audit.json"].columns
    audit = {name: {} for name in names} | {"fingerprint": "f00d", "split_by": "source"}
    audit["datasets"] = [{"name": "part", "faces": "drawn"}]
    artifacts.write_json(audit, output, "data_audit.json")
    artifacts.write_json(POLICIES["reference"].to_dict(), output, "augment.json")
    return data, output


def test_command_line_writes_what_the_notebook_writes(folders, capsys):
    data, output = folders
    cut = CropRecipe(margin=20)
    (data / "recipe.json").write_text(json.dumps(cut.to_dict()))
    arguments = ["--data", str(data), "--output", str(output), "--set", SETTINGS]
    assert train.main(arguments) == 0
    told = capsys.readouterr().out
    assert "epoch   2 of 2 · train loss" in told
    assert told.splitlines()[-1] == f"model      {output / 'model'}"
    _, card = load_model(output / "model")
    history = artifacts.read_table(output, "history.csv")
    assert card["epochs"] == len(history) == 2
    assert CropRecipe.from_dict(card["crop_recipe"]) == cut  # 05 cuts as 00 did
    assert card["cut"] == str(cut) and card["faces"] == "drawn"
    assert card["data_fingerprint"] == "f00d" and card["split_by"] == "source"
    assert card["splits"]["train"] == "16 crops of 4 videos, 2 sources, 50% FAKE"
    assert card["ingredients"]["optimizer"] == "adam"
    assert card["prior"] == 0.5
    assert "16 crops of 4 videos" in (output / "model" / "README.md").read_text()
    # The run is finished: the same call goes on from it and trains nothing.
    assert train.main([*arguments[:-1], f"{SETTINGS} 03_train.RESUME=True"]) == 0
    assert artifacts.read_table(output, "history.csv").equals(history)


def test_crops_cut_in_several_ways_are_a_sentence_and_new_files_follow_the_most(folders):
    data, output = folders
    index = artifacts.read_table(output, "index.csv")
    second = data.parent / "second"
    shutil.copytree(data, second)
    (second / "recipe.json").write_text('{"square": 0.9}')
    assert fitting._how_cut(index, data.parent) == {
        "crop_recipe": CropRecipe().to_dict(),
        "cut": "faces, squeezed, from frames shrunk to 0.25, 160 pixels",
    }
    more = index.assign(dataset="second")
    both = pd.concat([index, more, more[:3]])
    told = fitting._how_cut(both, data.parent)
    assert told["crop_recipe"] == CropRecipe(square=0.9).to_dict()
    assert "part: faces, squeezed" in told["cut"] and "second: squares of 0.9" in told["cut"]
    assert told["cut"].endswith("; new files as second")


def test_of_images_of_which_nobody_knows_how_they_were_cut_the_nearest_way_is_told(folders):
    data, output = folders
    index = artifacts.read_table(output, "index.csv")
    for label, rows in index.groupby("label"):  # real/ and fake/
        for path in rows["path"]:
            (data.parent / "loose" / label.lower() / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(data / path, data.parent / "loose" / label.lower() / path)
    loose = index.assign(dataset="loose", path=index["label"].str.lower() + "/" + index["path"])
    told = fitting._how_cut(loose, data.parent / "loose")
    assert told["crop_recipe"] is None  # noise: the detector finds no face
    assert told["cut"] == "cut nobody knows how; new files nearest to it: as whole images"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("03_train.EPOCHS=many", "03_train.EPOCHS must be of type int"),
        ("03_train.EPOCH=3", "did you mean EPOCHS"),
        ("04_evaluate.SEED=3", "names 04_evaluate; only 03_train"),
        ("03_train.RECIPE=best", "03_train: no recipe is called 'best'"),
        ("03_train.EPOCHS=0", "03_train: epochs 0 is not at least 1"),
        ("03_train.CHANGES.pairs=7", "03_train: pairs 7 is not True or False"),
        ("03_train.CHANGES.learning_rate=fast", "learning_rate 'fast' is not a number"),
        ("03_train.CHANGES.learning_rat=1", "did you mean learning_rate"),
    ],
)
def test_bad_parameters_end_with_what_is_accepted(folders, capsys, changes, said):
    data, output = folders
    arguments = ["--data", str(data), "--output", str(output), "--set", f"{SETTINGS} {changes}"]
    assert train.main(arguments) == 2
    assert said in capsys.readouterr().err
    assert not (output / "model").exists()


def test_the_notebook_trains_the_same_weights(folders, tmp_path):
    data, output = folders
    settings = f"{SETTINGS} 03_train.SEED=-1 03_train.RECIPE=strong 03_train.CHANGES.ema=0.5"
    beside = tmp_path / "notebook"
    shutil.copytree(output, beside)
    assert train.main(["--data", str(data), "--output", str(output), "--set", settings]) == 0
    run_pipeline(data, beside, parse_overrides(settings), start="03_train", stop="03_train")
    ours, theirs = (load_file(o / "model" / "model.safetensors") for o in (output, beside))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())
    card, other = (load_model(o / "model")[1] for o in (output, beside))
    clocks = {"duration", "images_per_s"}
    assert {k: v for k, v in card.items() if k not in clocks} == {
        k: v for k, v in other.items() if k not in clocks
    }
    assert (card["seed"], card["ingredients"]["ema"]) == (-1, 0.5)


def test_a_model_that_is_not_what_was_saved_is_refused(folders, capsys, monkeypatch):
    data, output = folders
    load = fitting.load_model

    def damaged(folder):
        model, facts = load(folder)
        torch.nn.init.ones_(model.get_classifier().weight)
        return model, facts

    monkeypatch.setattr(fitting, "load_model", damaged)
    assert train.main(["--data", str(data), "--output", str(output), "--set", SETTINGS]) == 2
    assert "the saved model answers differently" in capsys.readouterr().err


def test_a_split_that_leaks_is_refused(folders):
    data, output = folders
    index = artifacts.read_table(output, "index.csv")
    index.loc[index["video"] == "s0f1", "split"] = "val"
    artifacts.write_table(index, output, "index.csv")
    with pytest.raises(ValueError, match="source"):
        fitting.open_crops(output, data, image_size=32)


def test_a_folder_that_is_no_model_is_refused_before_training_and_not_after(folders):
    data, output = folders
    (output / "model" / "thesis").mkdir(parents=True)
    with pytest.raises(ValueError, match="no model of ours"):
        fitting.open_crops(output, data, image_size=32)


def test_a_split_without_a_crop_is_refused(folders):
    data, output = folders
    index = artifacts.read_table(output, "index.csv")
    artifacts.write_table(index[index["split"] != "val"], output, "index.csv")
    with pytest.raises(ValueError, match="no crop of the val split"):
        fitting.open_crops(output, data, image_size=32)


def test_test_split_stays_closed_and_frames_are_spread(folders):
    data, output = folders
    index, train_set, val_set = fitting.open_crops(
        output, data, image_size=32, frames_stored=3, frames_per_video=2
    )
    assert set(index["split"]) == {"train", "val"}
    per_video = index.groupby(["split", "video"]).size()
    assert set(per_video["train"]) == {3}
    assert set(per_video["val"]) == {2}
    assert (len(train_set), len(val_set)) == (12, 8)


@pytest.mark.parametrize(("image_size", "sides"), [(64, (40, 40)), (32, (40, 32)), (16, (24, 16))])
def test_crops_are_kept_as_large_as_is_of_use(folders, image_size, sides):
    """Those on disk have 40 pixels; training turns them at half as much again as the network."""
    data, output = folders
    _, train_set, val_set = fitting.open_crops(output, data, image_size=image_size)
    assert (train_set.store.side, val_set.store.side) == sides


def test_accelerate_launch_trains_with_two_processes_and_one_writes(folders):
    """README's command, on one machine and on CPUs."""
    data, output = folders
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2",
              "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no",
              "--main_process_port", "0"]  # fmt: skip
    task = ["-m", "tools.train", "--data", str(data), "--output", str(output), "--set", SETTINGS]
    run = subprocess.run(
        [*launch, *task], cwd=ROOT, capture_output=True, text=True, timeout=300,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.count("epoch   2 of 2 ·") == 1
    assert sorted(os.listdir(output)) == [
        *("augment.json", "checkpoint", "data_audit.json", "history.csv", "index.csv", "model"),
        "store",
    ]
    assert json.loads((output / "model" / "config.json").read_text())["num_classes"] == 2
    assert len(artifacts.read_table(output, "history.csv")) == 2
