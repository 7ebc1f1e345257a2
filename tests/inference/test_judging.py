"""One file in, one answer out, and the evaluation says the same."""

import hashlib
import json
import shutil
import weakref
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import expit

from tests.faces.test_detection import LEFT, RIGHT, scene
from tests.inference.conftest import CPU, PRIOR
from tests.stats.test_decisions import DECISION
from utils.faces.media import write_video
from utils.inference.answers import answer_tables, judge_files
from utils.inference.judging import judge_file, load_judge, recut
from utils.model.network import EXTRA
from utils.model.scoring import Scorer
from utils.run.artifacts import ARTIFACTS


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
    monkeypatch.setattr("utils.inference.judging.BATCH", 3)
    parts = judge_file(judge, str(media / "clip.mp4"), frames_per_video=0).faces
    pd.testing.assert_frame_equal(parts, whole, atol=1e-5)


@pytest.mark.parametrize("how", ["mean_logit", "median", "top_third"])
def test_video_of_one_person_scores_as_all_its_crops_pooled(judge, tmp_path, how):
    ruled = replace(judge, decision=replace(DECISION, aggregation=how))
    write_video(tmp_path / "one.mp4", [scene(LEFT)] * 6, fps=8)
    answer = judge_file(ruled, str(tmp_path / "one.mp4"), frames_per_video=0)
    crops = answer.faces.assign(video="one", source="one", label="REAL", split="test")
    expected = ruled.decision.judge_videos(crops.drop(columns=["track", "side", "focus"]))
    assert answer.score == pytest.approx(expected["score"].item(), abs=1e-9)


def test_two_people_are_judged_as_the_evaluation_judges_them(judge, media):
    answer = judge_file(judge, str(media / "clip.mp4"), frames_per_video=0)
    crops = answer.faces.assign(video="clip", source="clip", label="REAL", split="test")
    (video,) = judge.decision.judge_videos(crops).to_dict("records")
    assert answer.score == pytest.approx(video["score"], abs=1e-9)
    assert (answer.decision, len(answer.people)) == (video["decision"], 2)
    people = answer.faces.groupby("track")["logit"].agg(judge.decision.pool)
    deciding = answer.people.loc[answer.people["decides"], "track"]
    assert answer.score == pytest.approx(people[deciding].max(), abs=1e-9)


def test_answer_tells_the_row_of_verdicts_and_reads_well(judge, media):
    answer, nothing = (judge_file(judge, str(media / name)) for name in ("pair.png", "wall.png"))
    verdicts = answer_tables([answer, nothing])[1]
    row = verdicts.iloc[0]
    assert verdicts.columns.tolist() == [*ARTIFACTS["verdicts.csv"].columns, "prior", "model"]
    assert row["input"] == "pair.png" and row["n_faces"] == 2
    assert row["n_people"] == answer.n_people == answer.people["decides"].sum()
    assert (row["score"], row["decision"]) == (answer.score, answer.decision)
    assert str(nothing).endswith("wall.png: UNSURE. Not judged: no face found")
    told = ("wall.png", 0, 0, PRIOR, "UNSURE", "no face found", PRIOR, judge.model)
    assert tuple(verdicts.iloc[1]) == told


def test_a_model_of_whole_images_is_shown_whole_images(judge, model_folder, media, tmp_path):
    whole = retold(model_folder, tmp_path, crop_recipe=None)
    answer = judge_file(whole, str(media / "clip.mp4"), frames_per_video=4)
    assert answer.faces[["x1", "y1", "x2", "y2"]].to_numpy().tolist() == [[0, 0, 640, 360]] * 4
    assert judge_file(whole, str(media / "wall.png")).decision != ""
    with Image.open(media / "wall.png") as wall:
        logit = whole.scorer.score_crops([wall.convert("RGB")])
    assert judge_file(whole, str(media / "wall.png")).faces["logit"].tolist() == logit.tolist()
    [again] = recut(whole, answer, answer.faces[:1], frames_per_video=4)
    assert again.size == (640, 360)


def test_a_model_tells_what_it_is_for_and_drawn_faces_come_with_a_caution(
    judge, model_folder, tmp_path
):
    digest = hashlib.sha256((model_folder / "model.safetensors").read_bytes()).hexdigest()[:12]
    assert judge.model == f"model ({digest})"
    facts = {"name": "lite", "version": "1.2", "datasets": ["a", "b\x1b[2J"], "split_by": "group"}
    told = retold(model_folder, tmp_path, **facts, cut="squares").about
    expected = f"lite 1.2 ({digest}): trained on faces of a, b\N{REPLACEMENT CHARACTER}[2J; "
    assert told == f"{expected}split by group; squares."
    odd = retold(model_folder, tmp_path, datasets=7, cut=["x"], name="a\x1b[2J")
    assert odd.about and odd.model.startswith("a\N{REPLACEMENT CHARACTER}[2J (")
    drawn = retold(model_folder, tmp_path, faces="drawn", datasets=["demo"]).about
    assert drawn.startswith(
        "CAUTION: this model has seen drawn faces only; its answers say nothing"
    )
    assert drawn.count("\n") == 1 and "trained on drawn faces of demo" in drawn.splitlines()[1]


def retold(model_folder, tmp_path, **facts):
    """A judge by the same weights, of which other facts are told."""
    shutil.copytree(model_folder, tmp_path / "retold", dirs_exist_ok=True)
    config = json.loads((model_folder / "config.json").read_text())
    config[EXTRA] |= facts
    (tmp_path / "retold" / "config.json").write_text(json.dumps(config))
    return load_judge(tmp_path / "retold", device=CPU)


def test_another_prior_moves_every_score_and_is_told(judge, model_folder, media):
    """0.8 is the model's own: at 0.2 all odds are a sixteenth."""
    path = str(media / "pair.png")
    own, rare = judge, load_judge(model_folder, device=CPU, prior=0.2)
    before, after = judge_file(own, path), judge_file(rare, path)
    scores = before.people["score"].to_numpy()
    odds = scores / (1 - scores) / 16
    assert after.people["score"].tolist() == pytest.approx((odds / (1 + odds)).tolist())
    assert after.faces["logit"].tolist() == before.faces["logit"].tolist()
    assert "where 20% are FAKE" in str(after) and "where" not in str(before)
    assert answer_tables([before, after])[1]["prior"].tolist() == [PRIOR, 0.2]
    assert judge_file(rare, str(media / "wall.png")).score == 0.2
    apart = judge_files(rare, [path], workers=2, progress=False)
    assert apart[0].score == pytest.approx(after.score) and str(apart[0]) == str(after)
    with pytest.raises(ValueError, match="PRIOR is 20"):
        load_judge(model_folder, device=CPU, prior=20)


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
def test_score_inside_the_band_is_unsure(judge, tmp_path, score, expected, crop):
    network = Constant(2 * np.log(score / (1 - score)))  # temperature 2
    sure = replace(judge, scorer=Scorer(network, device=CPU))
    answer = judge_file(sure, crop(tmp_path / "a.png"), cropped=True)
    assert answer.score == pytest.approx(score, abs=1e-6)
    assert answer.decision == expected
    inside = "lies between 0.40 and 0.60" if expected == "UNSURE" else ""
    assert inside in answer.reason and bool(answer.reason) == bool(inside)


def test_model_without_a_decision_is_judged_by_the_plain_rule(judge, model_folder, tmp_path, crop):
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


def test_a_logit_that_is_no_number_costs_its_own_file_only(judge, tmp_path, crop):
    class Broken(Constant):
        def forward(self, images):
            grey = images.mean(dim=(1, 2, 3))
            return torch.stack([grey * 0, torch.where(grey > 0.5, torch.nan, grey)], dim=1)

    broken = replace(judge, scorer=Scorer(Broken(0.0), device=CPU))
    Image.new("RGB", (160, 160), "white").save(tmp_path / "white.png")
    good = crop(tmp_path / "good.png")
    paths = [str(tmp_path / "white.png"), good]
    odd, fine = judge_files(broken, [], crops=paths, progress=False)
    assert (odd.decision, odd.score) == ("UNSURE", broken.prior)
    assert odd.reason == "the model gives no finite number for 1 of 1 faces"
    assert len(fine.faces) == 1


def test_damaged_decision_is_refused(model_folder, judge, tmp_path):
    (tmp_path / "model").mkdir()
    for path in model_folder.iterdir():
        (tmp_path / "model" / path.name).write_bytes(path.read_bytes())
    (tmp_path / "model" / "decision.json").write_text('{"threshold": 0.5}')
    with pytest.raises(ValueError, match=r"temperature.*04_evaluate"):
        load_judge(tmp_path / "model", device=CPU)


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
        logits = judge.scorer.score_crops(crops)
        assert logits.tolist() == pytest.approx(rows["logit"].tolist(), abs=1e-5)


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

    monkeypatch.setattr("utils.inference.judging.open_media", frames)
    monkeypatch.setattr("utils.inference.judging.cut_faces", lambda *_: [])
    assert judge_file(judge, "long.mp4", frames_per_video=0).reason == "no face found"
    assert most <= 8
