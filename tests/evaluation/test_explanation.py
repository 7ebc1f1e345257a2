"""Heat maps that are known by construction, and which faces are shown with what words."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.special import logit

from utils.evaluation import showing
from utils.evaluation.showing import explain, surest, worst_errors
from utils.model.network import build_model, save_model
from utils.model.scoring import Scorer, load_scorer
from utils.stats.decisions import Decision

CPU = torch.device("cpu")
PIXELS = {"input_size": (3, 64, 64), "mean": (0, 0, 0), "std": (1, 1, 1)}


class Corner(torch.nn.Module):
    """FAKE is how bright the lower right quarter of the image is."""

    pretrained_cfg = PIXELS

    def forward(self, images):
        half = images.shape[-1] // 2
        bright = images[:, :, half:, half:].mean(dim=(1, 2, 3))
        return torch.stack([torch.zeros_like(bright), bright], dim=1)


class ConvCorner(torch.nn.Module):
    """The same through a convolution, which Grad-CAM can read."""

    pretrained_cfg = PIXELS
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


def quarters(heat):
    half = heat.shape[0] // 2
    return [float(part.mean()) for rows in (heat[:half], heat[half:])
            for part in (rows[:, :half], rows[:, half:])]  # fmt: skip


@pytest.fixture(scope="module")
def scorer():
    torch.manual_seed(0)
    network = build_model("tf_efficientnetv2_b0.in1k", image_size=64, pretrained=False)
    return Scorer(network, device=CPU)


@pytest.fixture
def corner_crop():
    pixels = np.zeros((64, 64, 3), np.uint8)
    pixels[32:, 32:] = 255
    return Image.fromarray(pixels)


@pytest.mark.parametrize("model", [Corner(), ConvCorner()], ids=["occlusion", "grad-cam"])
def test_the_map_is_hot_where_the_answer_comes_from(model, corner_crop):
    scorer = Scorer(model, device=CPU)
    heat = showing.heat_maps(scorer, [corner_crop], progress=False)[0]
    assert heat.shape == (64, 64)
    *others, corner = quarters(heat)
    assert corner > 0 and max(others) < corner / 2


def test_maps_of_a_real_network_have_its_side_and_leave_it_as_it_was(scorer):
    rng = np.random.default_rng(0)
    crops = [Image.fromarray(rng.integers(0, 255, (80, 80, 3), np.uint8)) for _ in range(2)]
    before = {name: value.clone() for name, value in scorer.network.state_dict().items()}
    maps = showing.heat_maps(scorer, crops, progress=False)
    assert maps.shape == (2, 64, 64) and np.isfinite(maps).all() and np.ptp(maps) > 0
    after = scorer.network.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert len(showing.heat_maps(scorer, [])) == 0


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A small network that was loaded from its folder."""
    torch.manual_seed(0)
    network = build_model("test_efficientnet", image_size=32, pretrained=False)
    folder = save_model(network, tmp_path_factory.mktemp("o") / "model", extra={}, card="")
    return load_scorer(folder, device=CPU)


def test_agreement_is_one_with_itself_minus_one_upside_down_and_nothing_when_flat(
    saved, monkeypatch
):
    maps = np.random.default_rng(0).normal(size=(3, 8, 8))
    monkeypatch.setattr(showing, "heat_maps", lambda *_: maps)
    assert showing.map_agreement(saved, [], 2 * maps + 1) == pytest.approx(1)
    assert showing.map_agreement(saved, [], -maps) == pytest.approx(-1)
    assert np.isnan(showing.map_agreement(saved, [], np.zeros_like(maps)))


def test_maps_are_checked_against_random_weights_that_are_the_same_each_time(saved, monkeypatch):
    networks = []

    def remember(scorer, crops):
        networks.append(scorer.network.conv_stem.weight)
        return np.zeros((0, 8, 8))

    monkeypatch.setattr(showing, "heat_maps", remember)
    for seed in range(2):
        torch.manual_seed(seed)
        showing.map_agreement(saved, [], np.zeros((0, 8, 8)))
    assert torch.equal(*networks) and not torch.equal(networks[0], saved.network.conv_stem.weight)


def test_overlay_is_vermilion_for_fake_blue_for_real_and_grey_between():
    heat = np.zeros((160, 160))
    heat[:, :40], heat[:, 120:] = 1, -1
    shown = showing.overlay(Image.new("RGB", (160, 160), (100,) * 3), heat, limit=1).astype(int)
    red, grey, blue = shown[80, 10], shown[80, 80], shown[80, 150]
    assert red[0] > red[2] + 50 and blue[2] > blue[0] + 50
    assert grey.tolist() == [100, 100, 100]


def test_features_have_length_one_and_find_the_crop_itself(scorer, tmp_path):
    rng, paths = np.random.default_rng(0), []
    for i in range(4):
        paths.append(str(tmp_path / f"{i}.png"))
        pixels = np.kron(rng.integers(0, 255, (4, 4, 3)), np.ones((16, 16, 1)))
        Image.fromarray(pixels.astype(np.uint8)).save(paths[-1])
    pool = showing.embed(scorer, paths, batch_size=3)
    np.testing.assert_allclose(np.linalg.norm(pool, axis=1), 1, rtol=1e-5)
    query = showing.embed(scorer, paths[2:3])
    assert (pool @ query[0]).argmax() == 2 and (pool @ query[0]).max() == pytest.approx(1)


# which faces


def rows(*facts):
    return pd.DataFrame(facts, columns=["dataset", "video", "frame", "label", "score"])


CROPS = rows(
    ("d", "a", 0, "FAKE", 0.9),
    ("d", "a", 1, "FAKE", 0.8),
    ("d", "b", 0, "FAKE", 0.1),
    ("d", "c", 0, "REAL", 0.2),
    ("d", "e", 0, "REAL", 0.5),  # on the threshold: called FAKE
    ("d", "f", 0, "REAL", 0.05),
)


def grey_file(folder, level):
    path = folder / f"{level}.png"
    Image.new("RGB", (32, 32), (level,) * 3).save(path)
    return str(path)


def test_surest_answers_of_each_kind_one_a_video():
    chosen = surest(CROPS, threshold=0.5, n=1)
    found = {kind: these.index.tolist() for kind, these in chosen.items()}
    assert found == {
        "FAKE, found": [0],
        "REAL, kept": [5],
        "REAL, called FAKE": [4],
        "FAKE, missed": [2],
    }
    assert len(surest(CROPS, threshold=0.5, n=9)["FAKE, found"]) == 1
    assert not any(map(len, surest(CROPS, threshold=0.5, n=0).values()))


@pytest.fixture
def shown(evaluate, tmp_path):
    """An `Evaluation` of CROPS; each is as grey as ten times its row."""
    crops = CROPS.drop(columns="score").assign(source=CROPS["video"], split="test")
    crops["logit"] = logit(CROPS["score"])
    crops["file"] = [grey_file(tmp_path, 10 * row) for row in range(len(CROPS))]
    return evaluate(crops, decision=Decision())


@pytest.mark.skipif(not showing.can_explain(), reason="captum is not installed")
def test_each_face_stands_beside_its_own_map(shown, monkeypatch):
    def maps_of(_, faces, **__):
        """The whole map is how bright the face is."""
        return np.stack([np.full((8, 8), face.getpixel((0, 0))[0] / 50) for face in faces])

    monkeypatch.setattr(showing, "heat_maps", maps_of)
    monkeypatch.setattr(showing, "map_agreement", lambda *_: 0.25)
    explained, drawn = explain(shown, n=1)
    assert explained == {"explanation": {"n": 4, "agreement_with_random": 0.25}}
    greys = {kind: face.getpixel((0, 0))[0] for kind, ((face, *_),) in drawn.items()}
    assert greys == {
        "FAKE, found": 0,
        "REAL, kept": 50,
        "REAL, called FAKE": 40,
        "FAKE, missed": 20,
    }
    words = {kind: these[0][2:] for kind, these in drawn.items()}
    assert words["FAKE, missed"] == ("FAKE", "0.10") and words["REAL, kept"] == ("REAL", "0.05")
    limit = np.quantile(np.repeat([0, 20, 40, 50], 64) / 50, showing.FULL)
    for ((face, over, *_),) in drawn.values():
        heat = np.full((8, 8), face.getpixel((0, 0))[0] / 50)
        expected = showing.overlay(face, heat, limit=limit)
        np.testing.assert_allclose(over.astype(int), expected, atol=1)


def test_no_faces_or_no_captum_gives_no_maps(shown, monkeypatch):
    assert explain(shown, n=0) == ({"explanation": {}}, {})
    monkeypatch.setattr(showing, "can_explain", lambda: False)
    assert explain(shown, n=2) == ({"explanation": {}}, {})


@pytest.mark.skipif(not showing.can_explain(), reason="captum is not installed")
def test_a_loaded_model_is_explained_and_checked(evaluate, saved, tmp_path):
    rng, crops = np.random.default_rng(0), CROPS.drop(columns="score")
    crops = crops.assign(source=crops["video"], split="test", logit=logit(CROPS["score"]))
    crops["file"] = [str(tmp_path / f"{row}.png") for row in range(len(crops))]
    for path in crops["file"]:
        Image.fromarray(rng.integers(0, 255, (40, 40, 3), np.uint8)).save(path)
    explained, drawn = explain(evaluate(crops, decision=Decision(), scorer=saved), n=2)
    assert explained["explanation"]["n"] == sum(map(len, drawn.values())) == 5
    assert -1 <= explained["explanation"]["agreement_with_random"] < 0.9


# the worst errors


def test_wrong_videos_are_those_beyond_the_threshold_the_farthest_first():
    videos = rows(
        ("d", "right", 0, "FAKE", 0.5), ("d", "near", 0, "REAL", 0.6), ("d", "far", 0, "FAKE", 0.1),
        ("d", "at", 0, "REAL", 0.5), ("d", "low", 0, "REAL", 0.4),
    )  # fmt: skip
    wrong, gallery = worst_errors(SimpleNamespace(test=videos, decision=Decision()), n=0)
    assert wrong["video"].tolist() == ["far", "near", "at"] and gallery == []


@pytest.fixture
def erring(evaluate, saved, tmp_path, monkeypatch):
    """One fake, of five ever brighter faces, is missed; of train a grey face is like it."""
    scores = (0.05, 0.1, 0.2, 0.3, 0.4)
    crops = rows(
        *[("d", "grey", n, "FAKE", score) for n, score in enumerate(scores)],
        ("x", "grey", 0, "REAL", 0.02),
    )
    crops = crops.assign(source=crops["dataset"], split="test", logit=logit(crops.pop("score")))
    crops["method"] = np.where(crops["label"] == "FAKE", "unknown", "original")
    crops["file"] = [grey_file(tmp_path, 25 * level) for level in (0, 1, 2, 3, 4, 6)]
    # Paths as they are in the index, of a data set that needs not be known.
    monkeypatch.setattr(showing, "crop_paths", lambda table, data: table["path"].tolist())
    train = rows(("d", "t1", 0, "REAL", 0), ("d", "t2", 0, "FAKE", 0), ("d", "t3", 0, "REAL", 0))
    train = train.assign(source=train["video"], split="train")
    train["path"] = [grey_file(tmp_path, level) for level in (200, 50, 175)]
    return evaluate(crops, decision=Decision(), scorer=saved, index=train)


def test_an_error_shows_frames_over_its_whole_length_and_the_nearest_of_training(erring):
    wrong, (entry,) = worst_errors(erring, n=6)
    assert wrong[["dataset", "video"]].to_numpy().tolist() == [["d", "grey"]]
    score = wrong["score"].item()
    assert entry["title"] == f"FAKE (method unknown), judged {score:.2f}"
    assert [text for _, text in entry["crops"]] == ["P(FAKE) 0.05", "P(FAKE) 0.20", "P(FAKE) 0.40"]
    assert [image.getpixel((0, 0))[0] for image, _ in entry["crops"]] == [0, 50, 100]
    assert sorted(label for *_, label in entry["neighbours"]) == ["FAKE", "REAL", "REAL"]
    image, text, label = entry["neighbours"][0]
    assert (image.getpixel((0, 0))[0], text, label) == (50, "train: FAKE", "FAKE")


def test_errors_are_counted_also_where_none_is_looked_at_or_there_is_none(erring, evaluate):
    wrong, gallery = worst_errors(erring, n=0)
    assert len(wrong) == 1 and gallery == []
    right = rows(("d", "a", 0, "FAKE", 0)).assign(source="a", split="test", logit=3.0)
    wrong, gallery = worst_errors(evaluate(right, decision=Decision()), n=6)
    assert len(wrong) == 0 and gallery == []
