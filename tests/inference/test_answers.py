"""Many files: answers in order, tables, a submission."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.special import expit

from tests.inference.conftest import PRIOR
from utils.inference.answers import (
    _lost,
    answer_tables,
    choose_inputs,
    held_out_examples,
    judge_files,
    predict,
    submission,
    write_tables,
)
from utils.model import network
from utils.run.artifacts import ARTIFACTS, read_table, write_table


def verdict_table(*names):
    return pd.DataFrame({"input": names, "score": np.linspace(0, 1, len(names))})


def test_crops_score_as_the_evaluation_scores_them(judge, tmp_path, crop):
    paths = [crop(tmp_path / f"{n}.png", n) for n in range(3)]
    logits = judge.scorer.score_paths(paths, batch_size=3, num_workers=0)
    answers = judge_files(judge, [], crops=paths, progress=False)
    ours = [answer.faces["logit"].item() for answer in answers]
    assert ours == pytest.approx(logits.tolist(), abs=1e-5)
    assert [answer.score for answer in answers] == pytest.approx(expit(logits / 2), abs=1e-5)
    corners = answers[0].faces[["x1", "y1", "x2", "y2"]]
    assert corners.to_numpy().tolist() == [[0, 0, 160, 160]]


def test_broken_file_is_listed_with_its_reason_and_the_others_go_on(judge, media, tmp_path, crop):
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


def test_mistake_of_the_program_is_not_taken_for_a_broken_file(judge, tmp_path, crop):
    def bug(_):
        raise KeyError("a bug")

    scorer = copy.copy(judge.scorer)
    scorer.transform = bug
    broken, path = replace(judge, scorer=scorer), crop(tmp_path / "a.png")
    with pytest.raises(KeyError):
        judge_files(broken, [], crops=[path], progress=False)


def test_nothing_to_judge_gives_tables_without_rows(judge):
    faces, verdicts = answer_tables(judge_files(judge, [], progress=False))
    assert faces.columns.tolist() == ARTIFACTS["inference.csv"].columns
    assert len(faces) == len(verdicts) == len(submission(verdicts)) == 0


def test_file_that_is_input_and_crop_at_once_is_refused(judge, tmp_path, crop):
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


def test_one_call_finds_the_model_in_output_else_takes_the_box_or_says_where_one_comes_from(
    model_folder, judge, media, monkeypatch, tmp_path
):
    monkeypatch.chdir(tmp_path)
    [box] = network.BOX.iterdir()
    answer = predict(media / "wall.png", device="cpu")
    assert answer.reason == "no face found" and answer.model.startswith(f"{box.name} (")
    monkeypatch.setattr(network, "BOX", tmp_path / "empty")
    with pytest.raises(FileNotFoundError, match="03_train"):
        predict(media / "wall.png", device="cpu")
    (tmp_path / "outputs").rmdir()
    (tmp_path / "outputs").symlink_to(model_folder.parent)
    assert predict(media / "wall.png", device="cpu").model == judge.model


def test_submission_has_every_input_once_and_is_never_too_sure():
    table = submission(verdict_table("0.png", "1.png", "2.png"))
    assert table["filename"].tolist() == ["0.png", "1.png", "2.png"]
    assert table["label"].tolist() == [0.01, 0.5, 0.99]
    assert submission(verdict_table("a", "b"), clip=(0, 1))["label"].tolist() == [0, 1]


@pytest.mark.parametrize("clip", [(0.9, 0.1), (-1, 1), (0.5,), (0, 2)])
def test_range_that_is_none_is_refused(clip):
    with pytest.raises(ValueError, match="CLIP"):
        submission(verdict_table("a"), clip=clip)


def test_judged_files_of_one_name_all_reach_the_submission(judge, tmp_path, crop):
    paths = [crop(tmp_path / video / "0.png", n) for n, video in enumerate("abc")]
    answers = judge_files(judge, [], crops=paths, progress=False)
    table = submission(answer_tables(answers)[1])
    assert table["filename"].tolist() == ["a/0.png", "b/0.png", "c/0.png"]
    assert table["label"].tolist() == pytest.approx([answer.score for answer in answers])


def test_tables_are_written_as_they_are_promised_and_given_back(judge, media, tmp_path, crop):
    good = crop(tmp_path / "good.png")
    inputs = [str(media / "pair.png"), str(media / "broken.mp4")]
    answers = judge_files(judge, inputs, crops=[good], progress=False)
    faces, verdicts = write_tables(answers, tmp_path / "out", clip=(0.45, 0.55))
    for name in ("inference.csv", "verdicts.csv", "submission.csv"):
        table, contract = read_table(tmp_path / "out", name), ARTIFACTS[name].columns
        assert table.columns.tolist()[: len(contract)] == contract
    written = read_table(tmp_path / "out", "inference.csv")
    assert written["input"].tolist() == faces["input"].tolist() == ["pair.png"] * 2 + ["good.png"]
    assert list(written)[len(ARTIFACTS["inference.csv"].columns) :] == [
        *("probability", "side", "focus", "person_score", "note", "prior")
    ]
    assert "logit" not in written
    people = dict(zip(answers[0].people["track"], answers[0].people["score"]))
    assert faces["person_score"].tolist()[:2] == [people[track] for track in faces["track"][:2]]
    assert verdicts["input"].tolist() == ["pair.png", "broken.mp4", "good.png"]
    labels = read_table(tmp_path / "out", "submission.csv")["label"].astype(float)
    assert labels.tolist() == pytest.approx(verdicts["score"].clip(0.45, 0.55).tolist())
    assert labels[1] == 0.55  # the prior, 0.8, clipped


@pytest.fixture
def attached(tmp_path, monkeypatch):
    """Where Kaggle mounts inputs."""
    monkeypatch.setattr("utils.run.machine.KAGGLE_INPUT", tmp_path / "input")
    return tmp_path / "input"


def test_named_inputs_come_before_anything_else(tmp_path, crop, attached):
    file, other = crop(tmp_path / "a" / "0.png"), crop(tmp_path / "b" / "1.png")
    crop(attached / "pictures" / "c.png")
    chosen = choose_inputs([file], [str(tmp_path / "b")], "", tmp_path / "out", n=1, seed=0)
    assert chosen == ([file], [other])
    with pytest.raises(FileNotFoundError, match=r"nowhere\.mp4"):
        choose_inputs([str(tmp_path / "nowhere.mp4")], [], "", tmp_path / "out", n=1, seed=0)


def test_without_an_index_attached_media_are_judged_up_to_n(tmp_path, crop, attached):
    (attached / "tables").mkdir(parents=True)
    (attached / "tables" / "a.csv").write_text("a")
    with pytest.raises(FileNotFoundError, match=r"nothing to judge.*INPUTS"):
        choose_inputs([], [], "", tmp_path / "out", n=2, seed=0)
    files = [crop(attached / "pictures" / f"{n}.png", n) for n in range(3)]
    inputs, crops = choose_inputs([], [], "", tmp_path / "out", n=2, seed=0)
    assert inputs == files[:2] and crops == []
    (attached / "clips" / "deep").mkdir(parents=True)
    clip = attached / "clips" / "deep" / "a.MP4"
    clip.touch()
    inputs, _ = choose_inputs([], [], "", tmp_path / "out", n=2, seed=0)
    assert inputs == [str(clip), files[0]]


def test_held_out_examples_come_from_the_test_split_alone(tmp_path, crop):
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
    columns = ARTIFACTS["index.csv"].columns
    write_table(index.reindex(columns=columns, fill_value=0), tmp_path / "out", "index.csv")
    chosen = choose_inputs([], [], data, tmp_path / "out", n=2, seed=0)
    assert chosen == (videos, crops)


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
