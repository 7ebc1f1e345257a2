"""The eval transform, number formats, and the loss before training."""

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from utils.model.network import build_model, load_model, save_model
from utils.model.scoring import (
    eval_transform,
    loss_of,
    mixed_precision,
    model_transform,
)

HALF = [0.5, 0.5, 0.5]
CPU, GPU = torch.device("cpu"), torch.device("cuda")
PLAIN = eval_transform(image_size=32, mean=HALF, std=HALF)
Y_TRUE = [0, 1] * 10
gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def network():
    """A network that has seen some batches and says something."""
    torch.manual_seed(0)
    model = build_model("test_efficientnet", image_size=32, pretrained=False)
    torch.nn.init.normal_(model.get_classifier().weight)
    for _ in range(3):
        model.train()(torch.randn(8, 3, 32, 32))
    return model.eval()


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Twenty noisy crops."""
    folder, rng = tmp_path_factory.mktemp("crops"), np.random.default_rng(0)
    made = [str(folder / f"{row}.png") for row in range(20)]
    for path in made:
        Image.fromarray(rng.integers(60, 190, (32, 32, 3), dtype=np.uint8)).save(path)
    return made


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


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), "fp16"), ((8, 0), "bf16"), ((9, 0), "bf16")]
)
def test_gpu_computes_in_what_it_has_in_hardware(monkeypatch, capability, expected):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    assert mixed_precision(torch.device("cuda")) == expected
    assert mixed_precision(torch.device("cuda"), "float32") == "no"


def test_cpu_computes_in_float32_unless_told_otherwise():
    assert mixed_precision(torch.device("cpu")) == "no"
    assert mixed_precision(torch.device("cpu"), "bfloat16") == "bf16"


def test_loss_of_a_new_network_is_that_of_not_knowing():
    torch.manual_seed(0)
    model = build_model("test_efficientnet", image_size=32, pretrained=False)
    images = torch.randint(0, 256, (8, 32, 32, 3), dtype=torch.uint8)
    targets = torch.tensor([0, 1] * 4)
    loss = loss_of(model, images, targets)
    assert loss == pytest.approx(np.log(2), abs=0.05)
    inputs = torch.stack([model_transform(model)(Image.fromarray(i.numpy())) for i in images])
    with torch.inference_mode():
        by_hand = torch.nn.functional.cross_entropy(model.eval()(inputs), targets).item()
    assert loss == pytest.approx(by_hand, abs=1e-5)


class Brightness(torch.nn.Module):
    """Logits (-m, 2 m) of the mean brightness m; training would crash it."""

    def forward(self, images):
        assert not self.training
        mean = images.mean((1, 2, 3))
        return torch.stack([-mean, 2 * mean], 1)
