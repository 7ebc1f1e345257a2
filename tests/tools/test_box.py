"""The detector in the box is what a run left, rounded, with a card of its figures."""

import shutil

import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load_file

from tools.box import pack, round_weights
from utils.data.crops import crop_paths, take_split
from utils.inference.judging import load_judge
from utils.model.network import FILES, load_model
from utils.report.words import estimate
from utils.run.artifacts import read_json, read_table
from utils.stats.decisions import Decision


@pytest.fixture
def crops(demo):
    """Paths of some crops of the run."""
    return crop_paths(read_table(demo, "index.csv").head(20), demo / "faces")


@pytest.fixture
def run(demo, tmp_path):
    """OUTPUT of a finished run, in a copy."""
    for name in ("metrics.json", "data_audit.json", "index.csv"):
        shutil.copyfile(demo / name, tmp_path / name)
    shutil.copytree(demo / "model", tmp_path / "model")
    return tmp_path


def test_weights_are_rounded_and_norms_are_not(run, crops):
    before, decision = load_file(run / "model" / FILES[1]), Decision.read(run / "model")
    size = (run / "model" / FILES[1]).stat().st_size
    assert 0 < round_weights(run / "model", crops) < 0.05
    assert (run / "model" / FILES[1]).stat().st_size < 0.55 * size
    after = load_file(run / "model" / FILES[1])
    assert {name: w.dtype for name, w in after.items()} == {
        name: torch.float16 if w.ndim > 1 else w.dtype for name, w in before.items()
    }
    assert all(torch.equal(w, after[name]) for name, w in before.items() if w.ndim < 2)
    assert Decision.read(run / "model") == decision


def test_the_box_loads_and_its_card_says_what_was_measured(run, crops):
    round_weights(run / "model", crops)
    box = run / "models" / "drawn"
    pack(run, box, "make run DATA=faces")
    names = [*FILES, "decision.json", "README.md", "LICENSE", "videos.csv.gz"]
    assert sorted(path.name for path in box.iterdir()) == sorted(names)
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        ours = load_model(box)[0](images)
        theirs = timm.create_model(f"local-dir:{box}", pretrained=True).eval()(images)
    torch.testing.assert_close(ours, theirs)
    card, metrics = (box / "README.md").read_text(), read_json(run, "metrics.json")
    for metric in ("roc_auc", "log_loss", "ece"):
        assert estimate(metrics["frame"][metric]) in card
    assert "not defined" not in card and "{{" not in card
    for words in ("make run DATA=faces", "Apache", "not known", "paid actors"):
        assert words in card
    assert "Apache License" in (box / "LICENSE").read_text()
    judge = load_judge(box, device=torch.device("cpu"))
    assert judge.model.startswith("drawn (")


def test_videos_of_the_box_are_a_split_that_01_takes(run):
    pack(run, run / "box", "")
    index = read_table(run, "index.csv")
    listed = pd.read_csv(run / "box" / "videos.csv.gz")
    assert list(listed) == ["video", "part", "split"]
    crops, left_out = take_split(index.assign(official=""), run / "box" / "videos.csv.gz")
    assert left_out.empty and (crops["official"] == index["split"]).all()


def test_a_folder_of_something_else_is_not_written_over(run):
    (run / "box").mkdir()
    (run / "box" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is no model of ours"):
        pack(run, run / "box", "")
