import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from tools.parameters import notebook_parameters
from utils.model.network import build_model, load_model, save_model
from utils.model.scoring import eval_transform, model_transform
from utils.training.augmentation import (
    PARAMETERS,
    POLICIES,
    Policy,
    make_policy,
    policy_from_dict,
    policy_to_dict,
)

HALF = [0.5, 0.5, 0.5]
NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "02_augment.ipynb"


@pytest.fixture
def crop():
    """A crop of 40 x 30 pixels in which no two neighbours are alike."""
    pixels = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


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


@pytest.mark.parametrize("name", POLICIES)
def test_policy_survives_json(name):
    policy = make_policy(name, crop_scale=[0.5, 0.9], jpeg_quality=[30, 60], rotation=3.0)
    assert (policy.crop_scale, policy.jpeg_quality) == ((0.5, 0.9), (30, 60))
    assert policy_from_dict(json.loads(json.dumps(policy_to_dict(policy)))) == policy


def test_augment_json_of_an_earlier_version_loads():
    old = {"crop_scale": [0.7, 1.0], "flip": 0.5, "rotation": 5.0}
    policy = policy_from_dict({"policy": "reference", "parameters": old})
    assert policy == Policy("reference", crop_scale=(0.7, 1.0), flip=0.5, rotation=5.0)


def test_reference_is_crop_flip_and_rotation_alone():
    parameters = policy_to_dict(POLICIES["reference"])["parameters"]
    changed = {name for name in PARAMETERS if parameters[name] != getattr(Policy("x"), name)}
    assert changed == {"crop_scale", "flip", "rotation"}
    assert POLICIES["reference"].crop_scale == (0.8, 1.0)
    assert (POLICIES["reference"].flip, POLICIES["reference"].rotation) == (0.5, 10.0)


def test_notebook_offers_every_parameter_and_changes_none():
    offered = notebook_parameters(NOTEBOOK)
    assert {offered[name.upper()] == -1 or offered[name.upper()] == [] for name in PARAMETERS} == {
        True
    }


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
        {"rotation": float("nan")},
        {"colour": 1.5},
        {"jpeg": "often"},
        {"jpeg_quality": (0, 50)},
        {"jpeg_quality": (50, 101)},
        {"blur_sigma": (0, 1)},
        {"downscale_factor": (0.5, 1.2)},
        {"noise_std": 4},
        {"noise_std": ("2", "4")},
        {"cutout_scale": (0.1, 0.2, 0.3)},
        {"self_blend": 2},
    ],
)
def test_bad_value_is_refused_and_named(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        Policy("x", **values)


def test_unknown_policy_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'strong'.*none, reference, robust"):
        make_policy("strong")


def test_unknown_parameter_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'flips'.*flip"):
        make_policy("none", flips=0.5)
