"""Heat maps that are known by construction, and the checks of them."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from utils.evaluation import explanation
from utils.model.network import build_model
from utils.model.scoring import model_transform

CPU = torch.device("cpu")


class Corner(torch.nn.Module):
    """FAKE is how bright the lower right quarter of the image is."""

    def forward(self, images):
        half = images.shape[-1] // 2
        bright = images[:, :, half:, half:].mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(bright), bright], dim=1)


class ConvCorner(torch.nn.Module):
    """The same through a convolution, which Grad-CAM can read."""

    feature_info = ({"module": "stage", "num_chs": 1},)

    def __init__(self):
        super().__init__()
        self.stage = torch.nn.Conv2d(3, 1, 4, stride=4, bias=False)
        torch.nn.init.ones_(self.stage.weight)

    def forward(self, images):
        found = self.stage(images)
        half = found.shape[-1] // 2
        bright = found[:, 0, half:, half:].sum(dim=(1, 2))
        return torch.stack([-found[:, 0, :half, :half].sum(dim=(1, 2)), bright], dim=1)


def to_tensor(crop):
    return torch.from_numpy(np.asarray(crop, dtype=np.float32).transpose(2, 0, 1) / 255)


def quarters(heat):
    half = heat.shape[0] // 2
    return [float(part.mean()) for rows in (heat[:half], heat[half:])
            for part in (rows[:, :half], rows[:, half:])]  # fmt: skip


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_model("tf_efficientnetv2_b0.in1k", image_size=64, pretrained=False).eval()


@pytest.fixture
def corner_crop():
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[32:, 32:] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("model", [Corner(), ConvCorner()], ids=["occlusion", "grad-cam"])
def test_the_map_is_hot_where_the_answer_comes_from(model, corner_crop):
    heat = explanation.heat_maps(model, [corner_crop], to_tensor, device=CPU, progress=False)[0]
    assert heat.shape == (64, 64)
    *others, corner = quarters(heat)
    assert corner > 0 and max(others) < corner / 2


def test_maps_of_a_real_network_have_its_side_and_leave_it_as_it_was(network):
    rng = np.random.default_rng(0)
    crops = [Image.fromarray(rng.integers(0, 255, (80, 80, 3), np.uint8)) for _ in range(2)]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    maps = explanation.heat_maps(
        network, crops, model_transform(network), device=CPU, progress=False
    )
    assert maps.shape == (2, 64, 64) and np.isfinite(maps).all()
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert len(explanation.heat_maps(network, [], model_transform(network), device=CPU)) == 0


def test_random_weights_are_new_repeatable_and_not_the_models_own(network):
    twin, again = explanation.randomised(network, seed=1), explanation.randomised(network, seed=1)
    weights = [model.conv_stem.weight for model in (network, twin, again)]
    assert not torch.equal(weights[0], weights[1]) and torch.equal(weights[1], weights[2])


def test_agreement_is_one_with_itself_minus_one_upside_down_and_nothing_when_flat():
    maps = np.random.default_rng(0).normal(size=(3, 8, 8))
    assert explanation.map_agreement(maps, 2 * maps + 1) == pytest.approx(1)
    assert explanation.map_agreement(maps, -maps) == pytest.approx(-1)
    assert np.isnan(explanation.map_agreement(maps, np.zeros_like(maps)))


def test_masks_are_cut_at_the_boxes(tmp_path):
    weight = np.zeros((2, 20, 20), np.uint8)
    weight[1, 10:, 10:] = 255  # in pixels of the video: from 20 on
    np.savez(tmp_path / "v.npz", weight=weight)
    boxes = pd.DataFrame({"video": "v", "frame": [0, 1], "face": 1,
                          "x1": 0, "y1": 0, "x2": 40, "y2": 40})  # fmt: skip
    rows = pd.DataFrame({"video": ["v", "v", "w"], "frame": [1, 0, 1], "face": 1})
    found = explanation.crop_masks(rows, boxes, tmp_path, side=8)
    assert found[1] is None and found[2] is None
    assert found[0].mean() == 0.25 and found[0][4:, 4:].all()


def test_pointing_counts_hits_against_the_share_of_the_mask():
    mask = np.zeros((4, 4), bool)
    mask[2:, 2:] = True
    hot, cold = np.zeros((2, 4, 4))
    hot[3, 3] = cold[0, 0] = 1
    index = pd.Index([7, 8, 9])
    hits = explanation.pointing_hits(np.stack([hot, cold, hot]), [mask, mask, None], index=index)
    assert hits["heat_in_mask"].tolist()[:2] == [1, 0] and hits["mask_share"][7] == 0.25
    assert hits.loc[9].isna().all()
    table = explanation.pointing(hits.assign(source=["a", "b", "c"]), n_resamples=50)
    assert table["n"] == 2
    assert [table[k]["value"] for k in ("hit", "chance", "gain")] == [0.5, 0.25, 0.25]
    assert explanation.pointing(hits.iloc[2:].assign(source="c"))["hit"] is None


def test_overlay_is_vermilion_for_fake_blue_for_real_and_grey_between():
    heat = np.zeros((160, 160))
    heat[:, :40], heat[:, 120:] = 1, -1
    shown = explanation.overlay(Image.new("RGB", (160, 160), (100,) * 3), heat, limit=1).astype(int)
    red, grey, blue = shown[80, 10], shown[80, 80], shown[80, 150]
    assert red[0] > red[2] + 50 and blue[2] > blue[0] + 50
    assert grey.tolist() == [100, 100, 100]


def test_features_have_length_one_and_find_the_crop_itself(network, tmp_path):
    rng, paths = np.random.default_rng(0), []
    for i in range(4):
        paths.append(str(tmp_path / f"{i}.png"))
        pixels = np.kron(rng.integers(0, 255, (4, 4, 3)), np.ones((16, 16, 1)))
        Image.fromarray(pixels.astype(np.uint8)).save(paths[-1])
    transform = model_transform(network)
    pool = explanation.embed(network, paths, transform, device=CPU, batch_size=3)
    np.testing.assert_allclose(np.linalg.norm(pool, axis=1), 1, rtol=1e-5)
    query = explanation.embed(network, paths[2:3], transform, device=CPU)
    assert explanation.neighbours(query, pool, k=2)[0][0] == 2


def test_neighbours_by_hand():
    pool = np.array([[1.0, 0], [0, 1], [0.6, 0.8]])
    assert explanation.neighbours(np.array([[0.0, 1]]), pool, k=2).tolist() == [[1, 2]]
