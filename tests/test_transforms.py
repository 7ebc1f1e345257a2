import json

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from utils.models import build_model, load_model, model_transform, save_model
from utils.transforms import (
    POLICIES,
    Policy,
    augmentation,
    eval_transform,
    make_policy,
    policy_from_dict,
    policy_to_dict,
    train_transform,
)

HALF = [0.5, 0.5, 0.5]


@pytest.fixture
def crop():
    """A crop of 40 x 30 pixels in which no two neighbours are alike."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def half_black(left=0, right=255):
    pixels = np.full((8, 8, 3), left, dtype=np.uint8)
    pixels[:, 4:] = right
    return Image.fromarray(pixels)


def draws(policy, crop, seed, n=4):
    change = train_transform(policy, image_size=16, mean=HALF, std=HALF)
    torch.manual_seed(seed)
    return [change(crop) for _ in range(n)]


def test_eval_transform_is_not_random(crop):
    change = eval_transform(image_size=16, mean=HALF, std=HALF)
    first = change(crop)
    torch.manual_seed(99)
    assert torch.equal(change(crop), first)
    assert first.shape == (3, 16, 16)
    assert first.dtype == torch.float32


def test_eval_transform_normalises_by_mean_and_std():
    change = eval_transform(image_size=4, mean=[0.5, 0.25, 0.0], std=[0.5, 0.25, 1.0])
    image = change(Image.new("RGB", (9, 7), (255, 0, 51)))
    assert image.flatten(1).mean(1).tolist() == pytest.approx([1.0, -1.0, 0.2], abs=1e-6)


def test_eval_transform_keeps_the_whole_crop():
    change = eval_transform(image_size=8, mean=[0, 0, 0], std=[1, 1, 1])
    image = Image.new("RGB", (80, 40))
    image.paste((255, 255, 255), (76, 0, 80, 40))  # the last twentieth: gone after a centre crop
    assert change(image)[:, :, -1].min() > 0.3


@pytest.mark.parametrize("name", ["test_efficientnet.r160_in1k", "test_resnet.r160_in1k"])
def test_eval_transform_is_timms_own_for_the_saved_model(tmp_path, crop, name):
    model = build_model(name, image_size=24, pretrained=False)
    save_model(model, tmp_path / "model", extra={}, card="")
    saved, _ = load_model(tmp_path / "model")
    theirs = timm.data.create_transform(**timm.data.resolve_model_data_config(saved))
    assert torch.allclose(model_transform(saved)(crop), theirs(crop), atol=1e-5)
    assert torch.equal(model_transform(saved)(crop), model_transform(model)(crop))


def test_efficientnetv2_is_normalised_with_half_and_not_with_imagenets_mean(crop):
    model = build_model("tf_efficientnetv2_s.in1k", image_size=32, pretrained=False)
    half = eval_transform(image_size=32, mean=HALF, std=HALF)
    assert torch.equal(model_transform(model)(crop), half(crop))


def test_train_transform_differs_between_draws(crop):
    first, second, *_ = draws(POLICIES["reference"], crop, seed=0)
    assert first.shape == (3, 16, 16)
    assert not torch.equal(first, second)


def test_train_transform_repeats_by_seed(crop):
    again = draws(POLICIES["reference"], crop, seed=3)
    for one, two in zip(draws(POLICIES["reference"], crop, seed=3), again):
        assert torch.equal(one, two)
    other = draws(POLICIES["reference"], crop, seed=4)
    assert not torch.equal(torch.stack(again), torch.stack(other))


def test_policy_none_has_no_random_part(crop):
    fixed = eval_transform(image_size=16, mean=HALF, std=HALF)(crop)
    assert all(torch.equal(image, fixed) for image in draws(POLICIES["none"], crop, seed=0))


def test_flip_flips():
    always = augmentation(make_policy("none", flip=1.0), 8)(half_black())
    assert np.array_equal(np.asarray(always), np.asarray(half_black(255, 0)))


def test_flip_has_its_probability():
    change = augmentation(make_policy("none", flip=0.25), 8)
    torch.manual_seed(0)
    flipped = sum(np.asarray(change(half_black()))[0, 0, 0] == 255 for _ in range(400))
    assert flipped == pytest.approx(100, abs=35)  # four standard deviations


def test_rotation_fills_with_grey_that_normalises_to_zero():
    change = train_transform(make_policy("none", rotation=45), image_size=32, mean=HALF, std=HALF)
    torch.manual_seed(1)
    corners = torch.stack([change(Image.new("RGB", (32, 32), "white"))[:, 0, 0] for _ in range(8)])
    assert corners.abs().min() < 0.01


def test_random_crop_keeps_the_share_that_it_was_told():
    ramp = Image.fromarray(np.tile(np.arange(200, dtype=np.uint8), (200, 1))).convert("RGB")
    change = augmentation(make_policy("none", crop_scale=[0.25, 0.25]), 64)
    torch.manual_seed(0)
    for _ in range(10):
        row = np.asarray(change(ramp))[0, :, 0].astype(int)
        # a quarter of the area at a ratio of 0.9 to 1.1: 95 to 105 of the 200 columns
        assert 85 <= row[-1] - row[0] <= 106


def test_policy_survives_json():
    policy = make_policy("reference", crop_scale=[0.5, 0.9], rotation=3.0)
    assert policy.crop_scale == (0.5, 0.9)
    assert policy_from_dict(json.loads(json.dumps(policy_to_dict(policy)))) == policy


def test_none_leaves_a_parameter_of_the_policy_as_it_is():
    assert make_policy("reference", flip=None, rotation=None) == POLICIES["reference"]


@pytest.mark.parametrize(
    "values",
    [
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.9, 0.8)},
        {"crop_scale": (0.5, 1.5)},
        {"flip": -0.1},
        {"flip": 1.1},
        {"rotation": -1},
        {"rotation": 181},
    ],
)
def test_bad_value_is_refused_and_named(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        Policy("x", **values)


def test_unknown_policy_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'strong'.*none, reference"):
        make_policy("strong")


def test_unknown_parameter_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'flips'.*flip"):
        make_policy("none", flips=0.5)
