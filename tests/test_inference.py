import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import expit
from test_faces import LEFT, RIGHT, scene

from utils.artifacts import ARTIFACTS, write_json
from utils.engine import predict
from utils.inference import (
    collect_inputs,
    held_out_examples,
    judge_file,
    judge_files,
    load_judge,
    submission,
)
from utils.loading import make_loader
from utils.models import build_model, model_transform, save_model
from utils.video import write_video

CPU = torch.device("cpu")
PRIOR = 0.8
DECISION = {
    "temperature": 2.0,
    "threshold": 0.5,
    "rule": "balanced_accuracy",
    "aggregation": "mean_logit",
    "abstention": {"low": 0.4, "high": 0.6},
}


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    output = tmp_path_factory.mktemp("output")
    torch.manual_seed(0)
    model = build_model("test_efficientnet", image_size=32, pretrained=False)
    save_model(model, output / "model", extra={"prior": PRIOR}, card="")
    return output / "model"


@pytest.fixture(scope="module")
def judge(model_folder):
    undecided = load_judge(model_folder, device=CPU)
    write_json(DECISION, model_folder.parent, "model/decision.json")
    judge = load_judge(model_folder, device=CPU)
    assert undecided.decision != judge.decision
    return judge


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """A picture of two people, a clip of one and then two, a wall, and two broken files."""
    folder = tmp_path_factory.mktemp("media")
    Image.fromarray(scene(LEFT, RIGHT)).save(folder / "pair.png")
    frames = [scene(LEFT)] * 4 + [scene(LEFT, RIGHT)] * 4
    write_video(folder / "clip.mp4", frames, fps=8)
    Image.fromarray(scene()).save(folder / "wall.png")
    (folder / "broken.jpg").write_bytes(b"no image")
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def crop(path, level=0):
    pixels = np.random.default_rng(level).integers(0, 256, (160, 160, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return str(path)


def verdict_table(*names):
    return pd.DataFrame({"input": names, "score": np.linspace(0, 1, len(names))})


def test_files_folders_and_globs_are_collected_once_and_in_order(tmp_path):
    for name in ("a/1.png", "a/b/2.JPG", "a/b/3.mp4", "a/notes.txt", "10.png", "100.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")

    def collected(*patterns):
        found = collect_inputs([str(tmp_path / pattern) for pattern in patterns])
        return [Path(path).relative_to(tmp_path).as_posix() for path in found]

    assert collected("a/1.png") == ["a/1.png"]
    assert collected("a") == ["a/1.png", "a/b/2.JPG", "a/b/3.mp4"]
    assert collected("a/**/*.mp4") == ["a/b/3.mp4"]
    assert collected("**/*.png") == ["10.png", "100.png", "a/1.png"]
    assert collected("10.png", "a", "*.png", "a/b/2.JPG") == [
        *("10.png", "a/1.png", "a/b/2.JPG", "a/b/3.mp4", "100.png")
    ]
    assert collect_inputs([]) == []


def test_file_that_is_named_in_two_ways_is_one_input(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert collect_inputs(["a.png", "./*.png", str(tmp_path / "a.png")]) == ["a.png"]


def test_name_with_brackets_is_a_file_and_not_a_pattern(tmp_path):
    (tmp_path / "[1].png").write_bytes(b"x")
    assert collect_inputs([str(tmp_path / "[1].png")]) == [str(tmp_path / "[1].png")]


@pytest.mark.parametrize("pattern", ["missing.png", "*.webm", "texts", "texts/*"])
def test_pattern_without_an_image_or_video_is_named(tmp_path, pattern):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_bytes(b"x")
    (tmp_path / "good.png").write_bytes(b"x")
    with pytest.raises(FileNotFoundError, match="names no image and no video") as caught:
        collect_inputs([str(tmp_path / "good.png"), str(tmp_path / pattern)])
    assert pattern in str(caught.value)


def test_every_face_of_an_image_is_scored(judge, media):
    faces = judge_file(judge, str(media / "pair.png"))
    assert faces.columns.tolist() == [*ARTIFACTS["inference.csv"].columns, "logit"]
    assert sorted(faces["track"]) == [1, 2]
    centres = sorted((faces["x1"] + faces["x2"]) / 2)
    assert centres == pytest.approx([LEFT[0], RIGHT[0]], abs=30)
    assert (faces["frame"] == 0).all() and (faces["time_s"] == 0).all()
    assert faces["score"].tolist() == pytest.approx(expit(faces["logit"] / 2).tolist())


def test_every_face_of_a_video_is_scored_with_its_time_and_person(judge, media):
    faces = judge_file(judge, str(media / "clip.mp4"), frames_per_video=4)
    assert faces["frame"].tolist() == [1, 3, 5, 5, 7, 7]
    assert faces["time_s"].tolist() == pytest.approx([n / 8 for n in faces["frame"]], abs=0.01)
    left = faces["x2"] < 320
    assert faces.loc[left, "track"].unique().tolist() == [1]
    assert faces.loc[~left, "track"].unique().tolist() == [2]
    assert len(judge_file(judge, str(media / "clip.mp4"), frames_per_video=0)) == 12


def test_long_video_is_judged_in_parts_as_in_one(judge, media, monkeypatch):
    whole = judge_file(judge, str(media / "clip.mp4"), frames_per_video=0)
    monkeypatch.setattr("utils.inference.BATCH", 3)
    parts = judge_file(judge, str(media / "clip.mp4"), frames_per_video=0)
    pd.testing.assert_frame_equal(parts, whole, atol=1e-5)


def test_video_score_is_the_sigmoid_of_the_mean_logit_over_temperature(judge, media):
    clip = str(media / "clip.mp4")
    faces, verdicts = judge_files(judge, [clip], frames_per_video=4, progress=False)
    logits = judge_file(judge, clip, frames_per_video=4)["logit"]
    assert verdicts["score"].item() == pytest.approx(1 / (1 + np.exp(-logits.mean() / 2.0)))
    assert verdicts["n_faces"].item() == len(faces) == 6


def test_crop_scores_as_the_evaluation_scores_it(judge, tmp_path):
    paths = [crop(tmp_path / f"{n}.png", n) for n in range(3)]
    loader = make_loader(paths, [0] * 3, model_transform(judge.model), batch_size=3)
    logits = predict(judge.model, loader, device=CPU, progress=False)
    faces, verdicts = judge_files(judge, [], crops=paths, progress=False)
    assert verdicts["score"].tolist() == pytest.approx(expit(logits / 2).tolist(), abs=1e-5)
    assert faces[["x1", "y1", "x2", "y2"]].to_numpy().tolist() == [[0, 0, 160, 160]] * 3


def test_broken_file_is_listed_with_its_reason_and_the_others_go_on(judge, media, tmp_path):
    good = crop(tmp_path / "good.png")
    names = ["broken.jpg", "broken.mp4", "missing.mp4", "wall.png", "pair.png"]
    faces, verdicts = judge_files(
        judge, [str(media / name) for name in names], crops=[good], progress=False
    )
    assert [Path(path).name for path in verdicts["input"]] == [*names, "good.png"]
    unjudged = verdicts.head(4)
    assert (unjudged["score"] == PRIOR).all()
    assert (unjudged["decision"] == "UNSURE").all()
    for name, reason in zip(names, unjudged["reason"].head(3)):
        assert name in reason
    assert unjudged["reason"].iloc[3] == "no face found"
    assert (verdicts["reason"].tail(2) == "").all()
    assert faces["input"].map(os.path.basename).tolist() == ["pair.png"] * 2 + ["good.png"]


def test_mistake_of_the_program_is_not_taken_for_a_broken_file(judge, tmp_path):
    def bug(crop):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        judge_files(
            replace(judge, transform=bug), [], crops=[crop(tmp_path / "a.png")], progress=False
        )


def test_nothing_to_judge_gives_tables_without_rows(judge):
    faces, verdicts = judge_files(judge, [], progress=False)
    assert faces.columns.tolist() == ARTIFACTS["inference.csv"].columns
    assert len(faces) == len(verdicts) == len(submission(verdicts)) == 0


def test_file_that_is_input_and_crop_at_once_is_refused(judge, tmp_path):
    path = crop(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png.*INPUTS.*CROPS"):
        judge_files(judge, [path], crops=[path], progress=False)


class Constant(torch.nn.Module):
    """Answers every crop with the same logit of FAKE."""

    def __init__(self, logit):
        super().__init__()
        self.logit = logit

    def forward(self, images):
        return torch.tensor([[0.0, self.logit]]).repeat(len(images), 1)


@pytest.mark.parametrize(
    ("score", "expected"),
    [(0.3, "REAL"), (0.39, "REAL"), (0.45, "UNSURE"), (0.55, "UNSURE"), (0.61, "FAKE")],
)
def test_score_inside_the_band_is_unsure(judge, tmp_path, score, expected):
    sure = replace(judge, model=Constant(2 * np.log(score / (1 - score))))  # temperature 2
    _, verdicts = judge_files(sure, [], crops=[crop(tmp_path / "a.png")], progress=False)
    assert verdicts["score"].item() == pytest.approx(score, abs=1e-6)
    assert verdicts["decision"].item() == expected


def test_model_without_a_decision_is_judged_by_the_plain_rule(judge, model_folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / name).write_bytes((model_folder / name).read_bytes())
    plain = load_judge(tmp_path / "model", device=CPU)
    path = crop(tmp_path / "a.png")
    logit = judge_file(plain, path, cropped=True)["logit"].item()
    assert logit == pytest.approx(judge_file(judge, path, cropped=True)["logit"].item())
    _, verdicts = judge_files(plain, [], crops=[path], progress=False)
    assert verdicts["score"].item() == pytest.approx(expit(logit))
    assert verdicts["decision"].item() == ("FAKE" if logit >= 0 else "REAL")
    assert plain.prior == PRIOR


def test_damaged_decision_is_refused(model_folder, judge, tmp_path):
    (tmp_path / "model").mkdir()
    for path in model_folder.iterdir():
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model" / "decision.json").write_text('{"threshold": 0.5}')
    with pytest.raises(ValueError, match=r"temperature.*04_evaluate"):
        load_judge(tmp_path / "model", device=CPU)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_picture_that_a_phone_stored_on_its_side_is_turned_upright(judge, tmp_path, suffix):
    upright = Image.fromarray(scene(LEFT))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown after a quarter turn clockwise
    stored = upright.transpose(Image.Transpose.ROTATE_90)
    stored.save(tmp_path / f"phone.{suffix}", exif=exif)
    upright.save(tmp_path / "plain.png")
    (turned,) = judge_file(judge, str(tmp_path / f"phone.{suffix}")).to_dict("records")
    (plain,) = judge_file(judge, str(tmp_path / "plain.png")).to_dict("records")
    for corner in ("x1", "y1", "x2", "y2"):
        assert turned[corner] == pytest.approx(plain[corner], abs=3)


def test_submission_has_every_input_once_under_its_own_name():
    table = submission(verdict_table("a/0.png", "b/0.png", "c/1.png"))
    assert table["filename"].tolist() == ["a/0.png", "b/0.png", "1.png"]
    assert table["label"].tolist() == [0.0, 0.5, 1.0]


def test_submission_takes_as_much_of_a_path_as_it_needs():
    table = submission(verdict_table("x/a/0.png", "y/a/0.png", "0.png", "a/1.png"))
    assert table["filename"].tolist() == ["x/a/0.png", "y/a/0.png", "0.png", "1.png"]


def test_judged_files_of_one_name_all_reach_the_submission(judge, tmp_path):
    paths = [crop(tmp_path / video / "0.png", n) for n, video in enumerate("abc")]
    _, verdicts = judge_files(judge, [], crops=paths, progress=False)
    table = submission(verdicts)
    assert table["filename"].tolist() == ["a/0.png", "b/0.png", "c/0.png"]
    assert table["label"].tolist() == verdicts["score"].tolist()


def test_held_out_examples_come_from_the_test_split_alone(tmp_path):
    rows = [("train", "v1"), ("val", "v2"), ("test", "v3"), ("test", "v4"), ("test", "v5")]
    index = pd.DataFrame(
        [
            {"path": f"{video}/0.png", "dataset": "faces", "video": video, "split": split}
            for split, video in rows
        ]
    )
    for _, video in rows:
        crop(tmp_path / "faces" / video / "0.png")
    lines = [f"{video}.mp4,FAKE,{split},x.mp4" for split, video in rows]
    (tmp_path / "faces" / "metadata.csv").write_text(
        "\n".join(["filename,label,split,original", *lines]) + "\n"
    )
    data = str(tmp_path / "faces")
    videos, crops = held_out_examples(index, data, tmp_path, n=2)
    assert videos == []
    assert len(crops) == 2
    assert {Path(path).parent.name for path in crops} <= {"v3", "v4", "v5"}
    assert held_out_examples(index, data, tmp_path, n=2) == (videos, crops)
