"""Which single faces are shown, and with what words."""

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from utils.evaluation.explanation import heat_rows, surest, worst_errors, wrong_answers
from utils.model.network import build_model
from utils.model.scoring import model_transform


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


def test_each_face_stands_beside_its_own_map():
    chosen = surest(CROPS, threshold=0.5, n=1)
    faces = [Image.new("RGB", (8, 8), (40 * i, 0, 0)) for i in range(4)]
    maps = np.zeros((4, 8, 8))
    maps[2] = 1.0
    drawn = heat_rows(chosen, faces, maps)
    assert [face for group in drawn.values() for face, *_ in group] == faces
    assert drawn["FAKE, missed"][0][2:] == ("FAKE", "0.10")
    blank, hot = drawn["REAL, kept"][0][1], drawn["REAL, called FAKE"][0][1]
    assert not np.array_equal(blank, hot)


@pytest.fixture
def gallery(tmp_path):
    """The worst error is a grey video; of the pool a grey face and a white one are like it."""
    paths = [str(tmp_path / f"{n}.png") for n in range(9)]
    for n, path in enumerate(paths):
        Image.new("RGB", (32, 32), (25 * n, 25 * n, 25 * n)).save(path)
    crops = rows(
        *[("d", "grey", n, "FAKE", 0.1 * n) for n in range(5)], ("x", "grey", 0, "REAL", 1)
    )
    wrong = pd.DataFrame(
        [("d", "grey", "FAKE", "unknown", 0.25)],
        columns=["dataset", "video", "label", "method", "score"],
    )
    torch.manual_seed(0)
    model = build_model("test_efficientnet", image_size=32, pretrained=False).eval()
    pool = pd.DataFrame({"label": ["REAL", "FAKE", "REAL"]}, index=[7, 8, 9])
    return worst_errors(
        *(wrong, crops, paths, pool, [paths[8], paths[2], paths[7]]),
        model=model, transform=model_transform(model), device=torch.device("cpu"),
    )  # fmt: skip


def test_wrong_answers_are_those_beyond_the_threshold_the_surest_first():
    videos = rows(
        ("d", "right", 0, "FAKE", 0.5), ("d", "near", 0, "REAL", 0.6), ("d", "far", 0, "FAKE", 0.1),
        ("d", "at", 0, "REAL", 0.5), ("d", "low", 0, "REAL", 0.4),
    )  # fmt: skip
    assert wrong_answers(videos, threshold=0.5)["video"].tolist() == ["far", "near", "at"]


def test_an_error_shows_frames_over_its_whole_length_and_the_nearest_of_training(gallery):
    (entry,) = gallery
    assert entry["title"] == "FAKE (method unknown), judged 0.25"
    assert [text for _, text in entry["crops"]] == ["P(FAKE) 0.00", "P(FAKE) 0.20", "P(FAKE) 0.40"]
    assert sorted(label for *_, label in entry["neighbours"]) == ["FAKE", "REAL", "REAL"]
    image, text, label = entry["neighbours"][0]
    assert (image.getpixel((0, 0))[0], text, label) == (50, "train: FAKE", "FAKE")
