import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import expit

from tests.faces.test_detection import LEFT, RIGHT, scene
from tests.stats.test_people import DECISION
from utils.faces.media import write_video
from utils.inference.answers import (
    _lost,
    answer_tables,
    held_out_examples,
    judge_file,
    judge_files,
    load_judge,
    predict,
    recut,
    score_crops,
    short_names,
    submission,
)
from utils.model import scoring
from utils.model.network import build_model, fold_batch_norms, load_model, save_model
from utils.model.scoring import make_loader, model_transform
from utils.run.artifacts import ARTIFACTS, write_json
from utils.stats.decisions import aggregate_videos

CPU = torch.device("cpu")
PRIOR = 0.8


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


def test_every_face_of_an_image_is_scored(judge, media):
    answer = judge_file(judge, str(media / "pair.png"))
    faces = answer.faces
    contract = ARTIFACTS["inference.csv"].columns
    assert faces.columns.tolist()[: len(contract)] == contract
    assert sorted(faces["track"]) == [1, 2]
    centres = sorted((faces["x1"] + faces["x2"]) / 2)
    assert centres == pytest.approx([LEFT[0], RIGHT[0]], abs=30)
    assert (faces["frame"] == 0).all() and (faces["time_s"] == 0).all()
    assert faces["score"].tolist() == pytest.approx(expit(faces["logit"] / 2).tolist())
    assert len(answer.people) == 2


def test_every_face_of_a_video_is_scored_with_its_time_and_person(judge, media):
    faces = judge_file(judge, str(media / "clip.mp4"), frames_per_video=4).faces
    assert faces["frame"].tolist() == [1, 3, 5, 5, 7, 7]
    assert faces["time_s"].tolist() == pytest.approx([n / 8 for n in faces["frame"]], abs=0.01)
    left = faces["x2"] < 320
    assert faces.loc[left, "track"].unique().tolist() == [1]
    assert faces.loc[~left, "track"].unique().tolist() == [2]
    assert len(judge_file(judge, str(media / "clip.mp4"), frames_per_video=0).faces) == 12


def test_long_video_is_judged_in_parts_as_in_one(judge, media, monkeypatch):
    whole = judge_file(judge, str(media / "clip.mp4"), frames_per_video=0).faces
    monkeypatch.setattr("utils.inference.answers.BATCH", 3)
    parts = judge_file(judge, str(media / "clip.mp4"), frames_per_video=0).faces
    pd.testing.assert_frame_equal(parts, whole, atol=1e-5)


@pytest.mark.parametrize("how", ["mean_logit", "median", "top_third"])
def test_video_of_one_person_scores_as_the_evaluation_pools_it(judge, media, how):
    ruled = replace(judge, decision=DECISION | {"aggregation": how})
    write_video(media / "one.mp4", [scene(LEFT)] * 6, fps=8)
    answer = judge_file(ruled, str(media / "one.mp4"), frames_per_video=0)
    crops = answer.faces.assign(video="one", source="one", label="REAL", split="test")
    expected = aggregate_videos(crops, how=how, temperature=DECISION["temperature"])
    assert answer.score == pytest.approx(expected["score"].item(), abs=1e-9)


def test_crops_score_as_the_evaluation_scores_them(judge, model_folder, tmp_path):
    paths = [crop(tmp_path / f"{n}.png", n) for n in range(3)]
    model, _ = load_model(model_folder)
    loader = make_loader(paths, [0] * 3, model_transform(model), batch_size=3)
    logits = scoring.predict_logits(model, loader, device=CPU, progress=False)
    answers = judge_files(judge, [], crops=paths, progress=False)
    ours = [answer.faces["logit"].item() for answer in answers]
    assert ours == pytest.approx(logits.tolist(), abs=1e-5)
    assert [answer.score for answer in answers] == pytest.approx(expit(logits / 2), abs=1e-5)
    corners = answers[0].faces[["x1", "y1", "x2", "y2"]]
    assert corners.to_numpy().tolist() == [[0, 0, 160, 160]]


@pytest.mark.parametrize("name", ["tf_efficientnetv2_b0", "test_efficientnet", "test_vit"])
def test_folded_model_gives_the_same_logits(name):
    torch.manual_seed(0)
    model = build_model(name, image_size=64, pretrained=False)
    for layer in model.modules():  # norms as after training, not as new
        if isinstance(layer, torch.nn.BatchNorm2d):
            for tensor in (layer.running_var, layer.weight.data):
                torch.nn.init.uniform_(tensor, 0.5, 1.5)
            for tensor in (layer.running_mean, layer.bias.data):
                torch.nn.init.normal_(tensor, std=0.2)
    images = torch.randn(4, 3, 64, 64) * 0.5
    with torch.inference_mode():
        plain = model.eval()(images)
        n_norms = sum(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules())
        folded = fold_batch_norms(model)
        torch.testing.assert_close(folded(images), plain, atol=1e-5, rtol=1e-4)
    assert not [m for m in folded.modules() if isinstance(m, torch.nn.BatchNorm2d)]
    assert n_norms or name == "test_vit"


def test_broken_file_is_listed_with_its_reason_and_the_others_go_on(judge, media, tmp_path):
    good = crop(tmp_path / "good.png")
    names = ["broken.jpg", "broken.mp4", "missing.mp4", "wall.png", "pair.png"]
    answers = judge_files(
        judge, [str(media / name) for name in names], crops=[good], progress=False
    )
    faces, verdicts = answer_tables(answers)
    assert verdicts["input"].tolist() == [*names, "good.png"]
    unjudged = verdicts.head(4)
    assert (unjudged["score"] == PRIOR).all()
    assert (unjudged["decision"] == "UNSURE").all()
    assert (unjudged["n_faces"] == 0).all()
    for name, reason in zip(names, unjudged["reason"].head(3)):
        assert name in reason and str(media) not in reason
    assert unjudged["reason"].iloc[3] == "no face found"
    assert faces["input"].tolist() == ["pair.png"] * 2 + ["good.png"]


def test_mistake_of_the_program_is_not_taken_for_a_broken_file(judge, tmp_path):
    def bug(crop):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        judge_files(
            replace(judge, transform=bug), [], crops=[crop(tmp_path / "a.png")], progress=False
        )


def test_nothing_to_judge_gives_tables_without_rows(judge):
    faces, verdicts = answer_tables(judge_files(judge, [], progress=False))
    assert faces.columns.tolist() == ARTIFACTS["inference.csv"].columns
    assert len(faces) == len(verdicts) == len(submission(verdicts)) == 0


def test_file_that_is_input_and_crop_at_once_is_refused(judge, tmp_path):
    path = crop(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a\.png.*INPUTS.*CROPS"):
        judge_files(judge, [path], crops=[path], progress=False)


def test_threads_of_torch_are_as_before(judge, media):
    before = torch.get_num_threads()
    judge_files(judge, [str(media / "wall.png")] * 1 + [str(media / "pair.png")], progress=False)
    assert torch.get_num_threads() == before


def test_one_call_judges_one_file_and_prints_well(model_folder, judge, media):
    answer = predict(media / "clip.mp4", model=model_folder, frames_per_video=4, device="cpu")
    assert str(answer).startswith(f"{media / 'clip.mp4'}: {answer.decision}, P(FAKE) 0.")
    assert "6 faces of 2 people" in str(answer)
    again = predict(str(media / "clip.mp4"), model=judge, frames_per_video=4)
    assert again.score == pytest.approx(answer.score, abs=1e-6)
    assert "no face found" in str(predict(media / "wall.png", model=judge))


def test_one_call_finds_the_model_in_output_and_says_where_one_comes_from(
    model_folder, judge, media, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="03_train"):
        predict(media / "wall.png", device="cpu")
    (tmp_path / "outputs").rmdir()
    (tmp_path / "outputs").symlink_to(model_folder.parent)
    assert predict(media / "wall.png", device="cpu").reason == "no face found"


def test_faces_that_are_only_too_small_are_told_from_none(judge, tmp_path):
    def reason(image):
        image.save(tmp_path / "a.png")
        return judge_file(judge, str(tmp_path / "a.png")).reason

    crowd = scene((300, 300, 60), (800, 400, 60), size=(1920, 1080))  # a quarter is searched
    assert reason(Image.fromarray(crowd)).startswith("faces too small: ")
    assert "about 80 are needed" in reason(Image.fromarray(crowd))
    assert reason(Image.fromarray(scene(size=(1920, 1080)))) == "no face found"
    assert reason(Image.new("RGB", (1, 1))) == "no face can be seen in 1 x 1 pixels"


def test_name_cannot_steer_the_terminal(judge):
    answer = judge_file(judge, "a\x1b[2J\n.mp4")
    assert "\x1b" not in str(answer) and "\n" not in str(answer)


def test_faces_that_are_shown_again_are_those_that_were_scored(judge, media):
    clip = judge_file(judge, str(media / "clip.mp4"), frames_per_video=4)
    rows = clip.faces.iloc[[5, 0, 3]]
    # With other numbers of threads the detector's boxes come out a little different.
    moved = rows.assign(**{side: rows[side] + 1e-3 for side in ("x1", "y1", "x2", "y2")})
    for asked in (rows, moved):
        crops = recut(judge, clip, asked, frames_per_video=4)
        logits = score_crops(judge, crops)
        assert logits.tolist() == pytest.approx(rows["logit"].tolist(), abs=1e-5)


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
    answer = judge_file(sure, crop(tmp_path / "a.png"), cropped=True)
    assert answer.score == pytest.approx(score, abs=1e-6)
    assert answer.decision == expected
    inside = "lies between 0.40 and 0.60" if expected == "UNSURE" else ""
    assert inside in answer.reason and bool(answer.reason) == bool(inside)


def test_model_without_a_decision_is_judged_by_the_plain_rule(judge, model_folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / "model").mkdir(exist_ok=True)
        (tmp_path / "model" / name).write_bytes((model_folder / name).read_bytes())
    plain = load_judge(tmp_path / "model", device=CPU)
    path = crop(tmp_path / "a.png")
    answer = judge_file(plain, path, cropped=True)
    logit = answer.faces["logit"].item()
    assert logit == pytest.approx(judge_file(judge, path, cropped=True).faces["logit"].item())
    assert answer.score == pytest.approx(expit(logit))
    assert answer.decision == ("FAKE" if logit >= 0 else "REAL")
    assert plain.prior == PRIOR


def test_damaged_decision_is_refused(model_folder, judge, tmp_path):
    (tmp_path / "model").mkdir()
    for path in model_folder.iterdir():
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model" / "decision.json").write_text('{"threshold": 0.5}')
    with pytest.raises(ValueError, match=r"temperature.*04_evaluate"):
        load_judge(tmp_path / "model", device=CPU)


def test_submission_has_every_input_once_and_is_never_too_sure():
    table = submission(verdict_table("0.png", "1.png", "2.png"))
    assert table["filename"].tolist() == ["0.png", "1.png", "2.png"]
    assert table["label"].tolist() == [0.01, 0.5, 0.99]
    assert submission(verdict_table("a", "b"), clip=(0, 1))["label"].tolist() == [0, 1]


@pytest.mark.parametrize("clip", [(0.9, 0.1), (-1, 1), (0.5,), (0, 2)])
def test_range_that_is_none_is_refused(clip):
    with pytest.raises(ValueError, match="CLIP"):
        submission(verdict_table("a"), clip=clip)


def test_name_takes_as_much_of_a_path_as_it_needs():
    assert short_names(["a/0.png", "b/0.png", "c/1.png"]) == ["a/0.png", "b/0.png", "1.png"]
    paths = ["x/a/0.png", "y/a/0.png", "0.png", "a/1.png"]
    assert short_names(paths) == ["x/a/0.png", "y/a/0.png", "0.png", "1.png"]


def test_judged_files_of_one_name_all_reach_the_submission(judge, tmp_path):
    paths = [crop(tmp_path / video / "0.png", n) for n, video in enumerate("abc")]
    answers = judge_files(judge, [], crops=paths, progress=False)
    table = submission(answer_tables(answers)[1])
    assert table["filename"].tolist() == ["a/0.png", "b/0.png", "c/0.png"]
    assert table["label"].tolist() == pytest.approx([answer.score for answer in answers])


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


def test_memory_does_not_grow_with_the_length_of_a_video(judge, monkeypatch):
    made, most = [], 0

    class Frame(Image.Image):
        """A frame that can be counted as long as it is in memory."""

    def frames(*_, **__):
        nonlocal most
        for number in range(300):
            image = Image.fromarray(scene(LEFT, size=(160, 90)))
            image.__class__ = Frame
            made.append(weakref.ref(image))
            most = max(most, sum(ref() is not None for ref in made))
            yield number, number / 8, image
            del image

    monkeypatch.setattr("utils.inference.answers.open_media", frames)
    monkeypatch.setattr("utils.inference.answers.cut_faces", lambda *_: [])
    assert judge_file(judge, "long.mp4", frames_per_video=0).reason == "no face found"
    assert most <= 8


def test_many_files_are_judged_in_processes_as_in_this_one(judge, media):
    inputs = [str(media / name) for name in ("pair.png", "broken.mp4", "clip.mp4", "wall.png")]
    options = {"frames_per_video": 4, "progress": False}
    here = answer_tables(judge_files(judge, inputs, workers=1, **options))
    apart = answer_tables(judge_files(judge, inputs, workers=2, **options))
    for ours, theirs in zip(apart, here):
        pd.testing.assert_frame_equal(ours, theirs, atol=1e-6)


def test_file_that_takes_its_process_down_is_listed_and_the_others_go_on(judge, media):
    _, answer = _lost(judge, (3, str(media / "pair.png"), False))
    assert answer.decision == "UNSURE" and answer.score == PRIOR
    assert "pair.png took down" in answer.reason
