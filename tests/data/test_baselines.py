"""The baselines find what leaks, and nothing where nothing leaks."""

import json
import time

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from utils.data import audit
from utils.data.audit import ZERO_PIXEL_FEATURES, leakage_ladder, zero_pixel_baseline

FEATURES = ["brightness", "contrast", "sharpness", "red"]


def draw_index(sources=120, videos=3, crops=4):
    """A REAL video and its fakes a source; sizes that know nothing of the label."""
    rng = np.random.default_rng(0)
    source, video, crop = np.indices((sources, videos, crops)).reshape(3, -1)
    index = pd.DataFrame(
        {
            "path": [f"{s}_{v}/{c}.png" for s, v, c in zip(source, video, crop, strict=True)],
            "dataset": "one",
            "video": [f"{s}_{v}" for s, v in zip(source, video, strict=True)],
            "frame": crop,
            "face": 1,
            "label": np.where(video == 0, "REAL", "FAKE"),
            "source": [f"{s}_0" for s in source],
            "split": np.array(["train", "train", "val", "test"])[source % 4],
            "width": 160,
            "height": 160,
            "file_bytes": rng.integers(20_000, 40_000, len(crop)),
        }
    )
    return index


def is_odd(index):
    """Half of the sources, whatever their split."""
    return (index["source"].str.removesuffix("_0").astype(int) // 4 % 2 == 1).to_numpy()


def with_features(index, *, scene, video, crop, label=0.0):
    """Cheap features whose spread between scenes, videos and crops is given."""
    rng = np.random.default_rng(1)
    values = label * (index["label"] == "FAKE").to_numpy(float)[:, None]
    for spread, column in ((scene, "source"), (video, "video"), (crop, "path")):
        codes, names = pd.factorize(index[column])
        values = values + spread * rng.normal(size=(len(names), len(FEATURES)))[codes]
    return index.assign(**dict(zip(FEATURES, values.T, strict=True)))


# --- zero-pixel baseline ----------------------------------------------------------------------


def test_zero_pixel_is_near_chance_without_a_leak():
    result = zero_pixel_baseline(draw_index(400))
    auc = result["roc_auc"]
    assert auc["low"] < 0.5 < auc["high"] and auc["high"] - auc["low"] < 0.2
    assert result["n_train"] == 600 and result["n_test"] == 300


def test_zero_pixel_finds_a_planted_file_size():
    index = draw_index(400)
    index.loc[index["label"] == "REAL", "file_bytes"] += 8_000
    result = zero_pixel_baseline(index)
    assert result["roc_auc"]["low"] > 0.8
    alone = {feature["name"]: feature["roc_auc"] for feature in result["features"]}
    assert list(alone) == list(ZERO_PIXEL_FEATURES)
    assert alone["file_bytes"] > 0.8  # larger files are REAL: the direction does not matter


def test_zero_pixel_finds_what_no_single_direction_shows():
    index = draw_index(400)
    fake = index["label"] == "FAKE"
    side = np.where(is_odd(index), 9_000, -9_000)
    index.loc[fake, "file_bytes"] += side[fake]
    assert zero_pixel_baseline(index)["roc_auc"]["value"] > 0.8


def test_constant_features_are_listed_not_used():
    features = zero_pixel_baseline(draw_index(crops=1))["features"]
    constant = [feature["name"] for feature in features if feature["constant"]]
    assert constant == ["width", "height", "crops", "frames", "faces_per_frame"]
    assert all((feature["roc_auc"] is None) == feature["constant"] for feature in features)


def test_counts_are_of_crops_frames_and_faces_a_frame():
    # FAKE videos show two faces in each of two frames, REAL ones one face in each of four.
    index = draw_index()
    fake = index["label"] == "FAKE"
    index.loc[fake, "frame"] //= 2
    alone = {f["name"]: f["roc_auc"] for f in zero_pixel_baseline(index)["features"]}
    assert alone["crops"] is None and alone["frames"] == 1 and alone["faces_per_frame"] == 1


def test_direction_of_a_feature_is_taken_from_train_alone():
    index = draw_index()
    wider = index["label"].eq("FAKE") == index["split"].ne("test")  # the reverse holds in test
    index.loc[wider, "width"] = 200
    alone = {f["name"]: f["roc_auc"] for f in zero_pixel_baseline(index)["features"]}
    assert alone["width"] == 0


@pytest.mark.parametrize("split", ["train", "test"])
def test_one_class_in_a_split_is_not_defined(split):
    index = draw_index()
    one_class = index[(index["split"] != split) | (index["label"] == "FAKE")]
    nothing = {"value": None, "low": None, "high": None}
    assert zero_pixel_baseline(one_class)["roc_auc"] == nothing
    result = zero_pixel_baseline(index[index["split"] != split])
    assert result["roc_auc"] == nothing and result[f"n_{split}"] == 0


def test_zero_pixel_interval_resamples_sources():
    index = draw_index()
    one_source = index[(index["split"] != "test") | (index["source"] == "3_0")]
    auc = zero_pixel_baseline(one_source)["roc_auc"]
    assert auc["value"] is not None and auc["low"] is None


def test_same_video_name_in_two_data_sets_is_two_videos():
    index = draw_index()
    both = pd.concat([index, index.assign(dataset="two")], ignore_index=True)
    assert zero_pixel_baseline(both)["n_test"] == 2 * zero_pixel_baseline(index)["n_test"]


def test_zero_pixel_is_repeatable_in_any_row_order_and_fits_json():
    index = draw_index()
    first = zero_pixel_baseline(index, seed=1)
    assert zero_pixel_baseline(index.sample(frac=1, random_state=0), seed=1) == first
    assert json.loads(json.dumps(first)) == first


# --- leakage ladder ---------------------------------------------------------------------------


def by_split(table):
    assert table["split"].tolist() == ["frame", "video", "source"]
    return table.set_index("split")


def test_ladder_shows_that_a_frame_split_flatters():
    table = by_split(
        leakage_ladder(with_features(draw_index(), scene=0, video=1, crop=0.1), FEATURES)
    )
    assert table.loc["frame", "roc_auc"] > 0.95
    assert table.loc["frame", "flatters"] > 0.35
    assert abs(table.loc["video", "flatters"]) < 0.1
    assert table.loc["source", "flatters"] == 0
    assert table.loc["source", "low"] < 0.5 < table.loc["source", "high"]


def test_ladder_shows_that_a_video_split_flatters_where_sources_have_one_label():
    index = with_features(draw_index(), scene=1, video=0.1, crop=0.1)
    labels = np.where(is_odd(index), "REAL", "FAKE")
    table = by_split(leakage_ladder(index.assign(label=labels), FEATURES))
    assert table.loc["video", "flatters"] > 0.25


def test_fakes_alike_to_their_originals_pull_a_video_split_below_chance():
    index = with_features(draw_index(), scene=1, video=0.05, crop=0.05)
    assert by_split(leakage_ladder(index, FEATURES)).loc["video", "roc_auc"] < 0.4


def test_ladder_is_level_where_crops_share_nothing():
    index = with_features(draw_index(), scene=0, video=0, crop=1, label=1.0)
    table = by_split(leakage_ladder(index, FEATURES))
    assert table["roc_auc"].min() > 0.8 and table["flatters"].abs().max() < 0.03
    assert ((table["low"] < table["roc_auc"]) & (table["roc_auc"] < table["high"])).all()


def test_one_crop_a_video_makes_frame_and_video_equal():
    index = with_features(draw_index(crops=1), scene=0, video=1, crop=0.1)
    table = by_split(leakage_ladder(index, FEATURES))
    assert table.loc["frame", "roc_auc"] == table.loc["video", "roc_auc"]


def test_ladder_is_repeatable_in_any_row_order_and_varies_with_the_seed(monkeypatch):
    monkeypatch.setattr(audit, "MAX_ROWS", 300)
    index = with_features(draw_index(60), scene=0.5, video=1, crop=0.5)
    first = leakage_ladder(index, FEATURES, seed=1)
    shuffled = index.sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(leakage_ladder(shuffled, FEATURES, seed=1), first)
    assert not leakage_ladder(index, FEATURES, seed=2).equals(first)


def test_thinned_rows_still_leak_and_stay_within_the_limit(monkeypatch):
    monkeypatch.setattr(audit, "MAX_ROWS", 900)
    index = with_features(draw_index(100, 3, 20), scene=0, video=1, crop=0.1)
    kept = audit._thin(index, seed=0)
    assert 850 < len(kept) <= 900
    assert kept.groupby("video").size().max() == audit.CROPS_PER_VIDEO
    table = by_split(leakage_ladder(index, FEATURES))
    assert table.loc["frame", "flatters"] > 0.3


def test_one_source_or_one_class_is_not_defined():
    index = with_features(draw_index(), scene=0, video=1, crop=0.1)
    table = by_split(leakage_ladder(index[index["source"] == "0_0"], FEATURES))
    assert np.isnan(table.loc["source", "roc_auc"]) and table["flatters"].isna().all()
    real = leakage_ladder(index[index["label"] == "REAL"], FEATURES)
    assert real[["roc_auc", "low", "high"]].isna().to_numpy().all()


def test_ladder_interval_resamples_sources():
    index = with_features(draw_index(2), scene=0, video=1, crop=1)
    table = by_split(leakage_ladder(index, FEATURES))
    assert table["roc_auc"].notna().all()
    assert np.isnan(table.loc["source", "low"]) and not np.isnan(table.loc["frame", "low"])


def test_twenty_thousand_rows_take_seconds():
    index = with_features(draw_index(1000, 4, 5), scene=0.5, video=1, crop=0.3)
    start = time.process_time()
    leakage_ladder(index, FEATURES)
    assert time.process_time() - start < 20  # usually about 3


def test_zero_pixel_scores_are_those_behind_its_auc():
    index = draw_index()
    index["file_bytes"] += 9000 * (index["label"] == "FAKE")
    result = zero_pixel_baseline(index)
    scores = audit.zero_pixel_scores(index)[["dataset", "video", "score"]].dropna()
    truth = index[index["split"] == "test"].drop_duplicates("video")
    found = truth.merge(scores, on=["dataset", "video"], validate="one_to_one")
    assert len(found) == len(scores) == result["n_test"]
    auc = roc_auc_score(found["label"] == "FAKE", found["score"])
    assert result["roc_auc"]["value"] == pytest.approx(auc, abs=1e-12) and auc > 0.7
