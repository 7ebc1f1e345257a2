"""Corruptions against references made by hand, and the way from crops to a table."""

import io

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from utils.evaluation import robustness
from utils.evaluation.robustness import (
    CORRUPTIONS,
    choose_crops,
    column,
    conditions,
    corrupt,
    stress,
)
from utils.model.scoring import Scorer
from utils.stats.decisions import Decision, choose_decision


def draw_crop(side=160, seed=0):
    """A smooth picture with an edge."""
    y, x = np.mgrid[:side, :side] / side
    crop = np.stack([255 * x, 255 * y, 120 + 60 * np.sin(9 * x + seed)], axis=-1)
    crop[side // 3 : side // 2] = 30
    return crop.astype(np.uint8)


def mean_change(a, b):
    return float(np.abs(a.astype(int) - b.astype(int)).mean())


def test_jpeg_is_pillows_own():
    crop, buffer = draw_crop(), io.BytesIO()
    Image.fromarray(crop).save(buffer, "JPEG", quality=30)
    np.testing.assert_array_equal(corrupt([crop], "jpeg", 30)[0], np.asarray(Image.open(buffer)))


def test_blur_of_a_point_is_a_gaussian_and_grows_with_the_crop():
    for side, deviation in ((160, 2.0), (320, 4.0)):
        crop = np.zeros((side, side, 3), np.uint8)
        crop[side // 2, :] = 255  # a line: its profile is the kernel
        profile = corrupt([crop], "blur", 2)[0][:, side // 2, 0].astype(float)
        at = np.arange(side) - side // 2
        reference = 255 * np.exp(-(at**2) / (2 * deviation**2)) / (deviation * np.sqrt(2 * np.pi))
        np.testing.assert_allclose(profile, reference, atol=1.5)


def test_downscale_keeps_blocks_of_the_factor():
    crop = np.zeros((16, 16, 3), np.uint8)
    crop[:, ::2] = 200  # stripes of one pixel: their mean is left
    assert (corrupt([crop], "downscale", 0.5)[0] == 100).all()


def test_noise_has_its_deviation_and_differs_between_frames_alone():
    crops = [np.full((160, 160, 3), 128, np.uint8)] * 2
    first, second = corrupt(crops, "noise", 10, seed=3)
    assert np.std(first.astype(float)) == pytest.approx(10, rel=0.03)
    assert (first != second).any()
    np.testing.assert_array_equal(first, corrupt(crops, "noise", 10, seed=3)[0])


def test_brightness_and_contrast_by_hand():
    crop = np.array([[[10, 100, 250], [30, 100, 150]]], np.uint8)
    assert corrupt([crop], "darker", 0.5)[0].tolist() == [[[5, 50, 125], [15, 50, 75]]]
    assert corrupt([crop], "brighter", 2)[0].tolist() == [[[20, 200, 255], [60, 200, 255]]]
    assert corrupt([crop], "contrast", 0.5)[0].tolist() == [[[15, 100, 225], [25, 100, 175]]]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_a_severer_corruption_changes_more_and_keeps_the_size(name):
    crops = [draw_crop(seed=k) for k in range(3)]
    changes = []
    _, severities = CORRUPTIONS[name]
    for severity in severities:
        found = corrupt(crops, name, severity)
        assert [image.shape for image in found] == [crop.shape for crop in crops]
        assert all(image.dtype == np.uint8 for image in found)
        changes.append(np.mean([mean_change(a, b) for a, b in zip(crops, found, strict=True)]))
    assert changes[0] > 0 and changes == sorted(changes)


def test_h264_keeps_the_order_of_crops_of_different_and_odd_sizes():
    crops = [np.full((side, side + 1, 3), grey, np.uint8) for side, grey in ((95, 40), (60, 200))]
    found = corrupt(crops, "h264", 23)
    assert [image.shape for image in found] == [crop.shape for crop in crops]
    assert [float(image.mean()) for image in found] == pytest.approx([40, 200], abs=4)


def test_unknown_corruption_names_the_known():
    with pytest.raises(ValueError, match="jpeg, blur"):
        corrupt([draw_crop()], "rain", 1)


def draw_rows(sources=4, frames=5):
    rows = [
        {"dataset": "one", "video": f"{source}_{label}", "frame": frame, "face": 1, "label": label,
         "source": f"{source}", "split": "test", "path": f"{source}_{label}_{frame}.png"}
        for source in range(sources) for label in ("REAL", "FAKE") for frame in range(frames)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_crops_are_chosen_by_whole_sources_within_the_limit():
    rows = draw_rows()
    kept = choose_crops(rows, max_crops=25, frames=3, seed=0)
    assert len(kept) == 24 and kept["source"].nunique() == 4
    kept = choose_crops(rows, max_crops=13, frames=3, seed=0)
    assert (kept.groupby("source").size() == 6).all() and kept["source"].nunique() == 2
    assert choose_crops(rows, max_crops=0, frames=3, seed=0).empty
    assert choose_crops(rows, max_crops=1, frames=3, seed=0)["source"].nunique() == 1


class MeanGrey(torch.nn.Module):
    """The logit of FAKE is the mean grey, 0 to 255."""

    pretrained_cfg = {"input_size": (3, 8, 8), "mean": (0, 0, 0), "std": (1, 1, 1)}  # noqa: RUF012

    def forward(self, images):
        grey = 255 * images.mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(grey), grey], dim=1)


@pytest.mark.parametrize("num_workers", [0, 1])
def test_logits_come_back_to_the_rows_and_conditions_that_they_belong_to(
    evaluate, tmp_path, num_workers
):
    rows = draw_rows(sources=2, frames=3).sample(frac=1, random_state=0)
    for i, name in enumerate(rows["path"]):
        Image.new("RGB", (32, 32), (10 * (i + 1),) * 3).save(tmp_path / name)
    rows["file"] = [str(tmp_path / name) for name in rows["path"]]
    rows["logit"] = 10.0 * np.arange(1, len(rows) + 1)
    scorer = Scorer(MeanGrey(), device=torch.device("cpu"))
    decision = Decision(temperature=100.0, threshold=0.65)  # a mean grey of 62
    ev = evaluate(rows, decision=decision, scorer=scorer)
    result, table = stress(ev, max_crops=100, frames=0, num_workers=num_workers)
    table = table.loc[rows.index]
    assert list(table.columns) == [column(*condition) for condition in conditions()]
    grey = rows["logit"].to_numpy()
    np.testing.assert_allclose(table["logit_darker_0.5"], grey / 2, atol=0.51)
    np.testing.assert_allclose(table["logit_blur_2"], grey, atol=0.01)
    np.testing.assert_allclose(table["logit_h264_23"], grey, atol=5)
    # Half as bright, all are called REAL: the rule that was chosen on clean crops stands.
    assert result["robustness"]["darker"]["0.5"]["balanced_accuracy"]["value"] == 0.5
    assert result["robustness"]["clean"]["n"] == 4


def test_crops_that_are_not_corrupted_have_no_logits(evaluate, monkeypatch):
    monkeypatch.setattr(robustness, "_score_corrupted", flat_scores)
    rows = draw_rows(sources=4, frames=3).assign(logit=0.5)
    ev = evaluate(rows, decision=Decision())
    result, table = stress(ev, max_crops=12, frames=2)
    assert result["robustness"]["clean"] == {**result["robustness"]["clean"], "n": 6, "sources": 3}
    joined = ev.crops.join(table)
    assert joined["logit_jpeg_90"].notna().sum() == 12


def flat_scores(ev, chosen, num_workers):
    """Noise takes all that was known, nothing else does anything."""
    return pd.DataFrame(
        {
            column(name, severity): 0.0 if name == "noise" else chosen["logit"]
            for name, severity in conditions()
        },
        index=chosen.index,
    )


def test_nothing_to_corrupt_gives_nothing(evaluate):
    result, table = stress(evaluate(draw_rows().assign(logit=0.5), decision=Decision()),
                           max_crops=0, frames=2)  # fmt: skip
    assert result == {"robustness": {}} and table.empty
    assert list(table) == [column(*condition) for condition in conditions()]


def test_stress_is_flat_for_harmless_conditions_and_falls_to_chance_for_a_fatal_one(
    evaluate, monkeypatch
):
    monkeypatch.setattr(robustness, "_score_corrupted", flat_scores)
    rng = np.random.default_rng(0)
    rows = draw_rows(sources=40, frames=2)
    rows["logit"] = np.where(rows["label"] == "FAKE", 1.0, -1.0) + rng.normal(0, 0.5, len(rows))
    ev = evaluate(rows, decision=choose_decision(rows.assign(split="val")), n_resamples=100)
    table = stress(ev, max_crops=1000, frames=0)[0]["robustness"]
    assert table["clean"]["n"] == 80 and table["clean"]["sources"] == 40
    assert table["jpeg"]["90"]["roc_auc"] == table["clean"]["roc_auc"]
    assert table["jpeg"]["90"]["drop"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert table["noise"]["20"]["roc_auc"]["value"] == 0.5
    clean = table["clean"]["balanced_accuracy"]["value"]
    assert table["noise"]["20"]["drop"]["value"] == pytest.approx(clean - 0.5)


def test_who_counts_is_that_of_the_clean_videos_also_where_few_frames_are_left(
    evaluate, monkeypatch
):
    monkeypatch.setattr(robustness, "_score_corrupted", flat_scores)
    rows = draw_rows(sources=6, frames=11).assign(track=1.0)
    rows["logit"] = np.where(rows["label"] == "FAKE", 2.0, -2.0)
    # A visitor passes the middle of every real video and looks most fake.
    visit = rows[(rows["label"] == "REAL") & (rows["frame"] == 5)]
    rows = pd.concat([rows, visit.assign(face=2, track=2.0, logit=9.0)], ignore_index=True)
    ev = evaluate(rows, decision=Decision())
    table = stress(ev, max_crops=1000, frames=1)[0]["robustness"]
    assert table["clean"]["roc_auc"]["value"] == 1
    assert table["jpeg"]["30"]["roc_auc"]["value"] == 1


def test_blur_agrees_with_opencv_at_the_reference_side():
    crop = draw_crop()
    np.testing.assert_array_equal(
        corrupt([crop], "blur", 3)[0], cv2.GaussianBlur(crop, (0, 0), 3.0)
    )
