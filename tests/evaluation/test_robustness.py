"""Corruptions against references made by hand, and the way from crops to a table."""

import io

import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from utils.evaluation import robustness
from utils.evaluation.robustness import CORRUPTIONS, choose_crops, column, conditions, corrupt
from utils.stats.decisions import choose_decision

IMAGES = ("jpeg", "blur", "downscale", "noise", "darker", "brighter", "contrast")


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
    for severity in CORRUPTIONS[name]:
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


def test_logits_come_back_to_the_rows_and_conditions_that_they_belong_to(tmp_path):
    rows = draw_rows(sources=2, frames=3).sample(frac=1, random_state=0)
    paths = []
    for i, name in enumerate(rows["path"]):
        Image.new("RGB", (32, 32), (10 * (i + 1),) * 3).save(tmp_path / name)
        paths.append(str(tmp_path / name))

    def mean_grey(image):
        return torch.full((3, 1, 1), float(np.asarray(image).mean()))

    loader, order = robustness.corrupted_loader(rows, paths, mean_grey)
    found = torch.cat([images[:, 0, 0, 0] for images, _, _ in loader]).numpy()
    table = robustness.logits_by_condition(found, rows, order).loc[rows.index]
    assert list(table.columns) == [column(*condition) for condition in conditions()]
    grey = 10.0 * np.arange(1, len(rows) + 1)
    np.testing.assert_allclose(table["logit_darker_0.5"], grey / 2, atol=0.51)
    np.testing.assert_allclose(table["logit_blur_2"], grey, atol=0.01)
    np.testing.assert_allclose(table["logit_h264_23"], grey, atol=5)


def test_summary_is_flat_for_harmless_conditions_and_falls_to_chance_for_a_fatal_one():
    rng = np.random.default_rng(0)
    rows = draw_rows(sources=40, frames=2)
    rows["logit"] = np.where(rows["label"] == "FAKE", 1.0, -1.0) + rng.normal(0, 0.5, len(rows))
    decision = choose_decision(rows.assign(split="val"))
    for name, severity in conditions():
        rows[column(name, severity)] = 0.0 if name == "noise" else rows["logit"]
    table = robustness.summarise(rows, decision, n_resamples=100)
    assert table["clean"]["n"] == 80 and table["clean"]["sources"] == 40
    assert table["jpeg"]["90"]["roc_auc"] == table["clean"]["roc_auc"]
    assert table["jpeg"]["90"]["drop"] == {"value": 0.0, "low": 0.0, "high": 0.0}
    assert table["noise"]["20"]["roc_auc"]["value"] == 0.5
    clean = table["clean"]["balanced_accuracy"]["value"]
    assert table["noise"]["20"]["drop"]["value"] == pytest.approx(clean - 0.5)


def test_blur_agrees_with_opencv_at_the_reference_side():
    crop = draw_crop()
    np.testing.assert_array_equal(
        corrupt([crop], "blur", 3)[0], cv2.GaussianBlur(crop, (0, 0), 3.0)
    )
