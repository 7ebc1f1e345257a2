"""Groups of the test videos: who is in which, and what is too small to say."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from sklearn.metrics import roc_auc_score

from utils.evaluation.judging import SMALL, describe_crops, face_sizes, slice_videos, video_facts

SETTINGS = {"threshold": 0.5, "n_resamples": 50}


def draw_videos(n=60):
    """Half REAL, half FAKE by two methods; all else as given by the number of the video."""
    i = np.arange(n)
    rng = np.random.default_rng(0)
    return pd.DataFrame(
        {
            "video": [f"v{k}" for k in i],
            "dataset": "one",
            "source": [f"s{k // 2}" for k in i],
            "label": np.where(i % 2, "FAKE", "REAL"),
            "method": np.where(i % 2, np.where(i % 4 == 1, "swap", "reenact"), ""),
            "score": rng.random(n),
            "faces": np.where(i < 6, "2 or more", "1"),
            "face_size": i.astype(float),
            "brightness": 0.5,
            "sharpness": np.where(i < 30, 1.0, 2.0),
        }
    )


def test_a_method_is_its_fakes_against_all_real_videos():
    videos = draw_videos()
    group = slice_videos(videos, **SETTINGS)["method"]["swap"]
    rows = videos[(videos["label"] == "REAL") | (videos["method"] == "swap")]
    auc = roc_auc_score(rows["label"] == "FAKE", rows["score"])
    assert group["roc_auc"]["value"] == pytest.approx(auc, abs=1e-12)
    assert (group["n"], group["REAL"], group["FAKE"], group["sources"]) == (15, 30, 15, 30)


def test_numbers_are_cut_into_thirds_that_hold_each_video_once():
    groups = slice_videos(draw_videos(), **SETTINGS)["face_size"]
    assert list(groups) == ["small: 0 to 19", "middle: 20 to 39", "large: 40 to 59"]
    assert [group["n"] for group in groups.values()] == [20, 20, 20]


def test_what_is_the_same_for_all_makes_no_groups_and_two_values_make_two():
    groups = slice_videos(draw_videos(), **SETTINGS)
    assert "brightness" not in groups and "dataset" not in groups
    assert list(groups["sharpness"]) == ["blurred: 1.00 to 1.00", "sharp: 2.00 to 2.00"]


def test_few_videos_of_a_class_are_marked_and_one_class_is_not_defined():
    videos = draw_videos()
    groups = slice_videos(videos, **SETTINGS)["faces"]
    assert groups["2 or more"]["small"] and not groups["1"]["small"]
    assert groups["2 or more"]["REAL"] == 3 < SMALL
    one = videos.assign(faces=np.where(videos["label"] == "REAL", "1", "2 or more"))
    group = slice_videos(one, **SETTINGS)["faces"]["1"]
    assert group["roc_auc"] == {"value": None, "low": None, "high": None} and group["small"]


def test_face_size_is_that_in_the_video_where_boxes_tell():
    index = pd.DataFrame({"video": ["a", "a", "b"], "frame": [0, 1, 0], "face": [1, 1, 1],
                          "width": [160, 160, 90], "height": [160, 160, 100]})  # fmt: skip
    boxes = pd.DataFrame({"video": ["a"], "frame": [1], "face": [1],
                          "x1": [10], "y1": [20], "x2": [40], "y2": [70]})  # fmt: skip
    assert face_sizes(index).tolist() == [160, 160, 100]
    assert face_sizes(index, boxes).tolist() == [160, 50, 100]


def test_a_video_is_described_by_medians_and_its_fullest_frame():
    crops = pd.DataFrame(
        {"dataset": "one", "video": ["b", "b", "b", "a"], "frame": [0, 0, 4, 0], "method": "swap",
         "face_size": [1.0, 2.0, 9.0, 5.0], "brightness": 0.1, "sharpness": 3.0}
    )  # fmt: skip
    facts = video_facts(crops)
    assert facts["video"].tolist() == ["b", "a"]
    assert facts["face_size"].tolist() == [2.0, 5.0]
    assert facts["faces"].tolist() == ["2 or more", "1"]


def test_crops_are_described_in_their_order(tmp_path):
    paths = []
    for grey in (0, 255, 51):
        paths.append(str(tmp_path / f"{grey}.png"))
        Image.new("RGB", (8, 8), (grey,) * 3).save(paths[-1])
    found = describe_crops(paths * 50, progress=False)
    assert found["brightness"].iloc[:3].tolist() == pytest.approx([0, 1, 0.2])
    assert (found["brightness"].iloc[3:6].to_numpy() == found["brightness"].iloc[:3]).all()
    assert len(found) == 150
