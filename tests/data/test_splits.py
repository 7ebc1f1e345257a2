"""No scene on two sides: sources, the split, its proof, the index, and the control's labels."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from utils.data.audit import (
    INDEX,
    describe_split,
    ensure_index,
    fingerprint,
    split_summary,
)
from utils.data.splits import (
    LeakageError,
    check_splits,
    control_labels,
    source_groups,
    split_by_source,
)
from utils.run import artifacts, machine

SPLITS = ["train", "val", "test"]


def table(*videos, dataset="d", crops=1):
    """Rows for videos given as (video, label, original) or (video, label, original, official)."""
    rows = [
        {
            **{"dataset": dataset, "video": video, "label": label, "original": original},
            **{"official": (*official, "")[0], "frame": frame},
        }
        for video, label, original, *official in videos
        for frame in range(crops)
    ]
    return pd.DataFrame(rows)


def families(n, *, fakes=2, prefix="", dataset="d", official=("",), crops=1):
    """n originals with `fakes` fakes each; official splits are dealt out in turn."""
    videos = []
    for i in range(n):
        split = official[i % len(official)]
        videos.append((f"{prefix}r{i:04}", "REAL", "", split))
        videos += [
            (f"{prefix}f{i:04}-{k}", "FAKE", f"{prefix}r{i:04}", split) for k in range(fakes)
        ]
    return table(*videos, dataset=dataset, crops=crops)


def with_split(crops, **options):
    crops = crops.assign(source=source_groups(crops))
    return crops.assign(split=split_by_source(crops, **options))


def shares(index):
    return index.drop_duplicates(["dataset", "video"])["split"].value_counts(normalize=True)


# --- sources ------------------------------------------------------------------------------------


def test_an_original_and_everything_made_from_it_is_one_source():
    crops = table(
        *[("a", "REAL", ""), ("b", "FAKE", "a"), ("c", "FAKE", "a"), ("d", "REAL", "")],
        *[("e", "FAKE", "gone"), ("f", "FAKE", "gone"), ("g", "FAKE", "")],
    )
    assert source_groups(crops).tolist() == ["a", "a", "a", "d", "gone", "gone", "g"]


def test_links_are_followed_to_their_end():
    crops = table(
        ("z", "REAL", ""), ("y", "REAL", "z"), ("x", "FAKE", "y"), ("a", "FAKE", "x"),
    )  # fmt: skip
    assert source_groups(crops).nunique() == 1
    assert set(source_groups(crops)) == {"x"}  # the smallest name that something was made from


def test_an_original_in_another_part_is_the_same_source():
    crops = pd.concat(
        [table(("a", "REAL", ""), dataset="one"), table(("b", "FAKE", "a"), dataset="two")]
    )
    assert source_groups(crops).tolist() == ["a", "a"]


def test_a_byte_identical_crop_merges_two_sources():
    crops = table(("a", "REAL", ""), ("b", "REAL", ""), ("c", "FAKE", "b"), ("d", "REAL", ""))
    apart = source_groups(crops.assign(digest=["1", "2", "3", "4"]))
    merged = source_groups(crops.assign(digest=["1", "2", "1", "4"]))
    assert apart.tolist() == ["a", "b", "b", "d"]
    assert merged.tolist() == ["a", "a", "a", "d"]


def test_sources_do_not_depend_on_the_order_of_rows():
    crops = families(9).assign(digest=lambda t: np.arange(len(t)) % 20)
    shuffled = crops.sample(frac=1, random_state=3)
    pd.testing.assert_series_equal(source_groups(shuffled).sort_index(), source_groups(crops))


# --- the split ----------------------------------------------------------------------------------


def test_the_shares_are_70_15_15_and_every_split_holds_both_classes():
    index = with_split(families(200, crops=2))
    assert shares(index).to_dict() == pytest.approx(
        {"train": 0.70, "val": 0.15, "test": 0.15}, abs=0.01
    )
    table = split_summary(index)
    assert table["sources"].sum() == 200 and table["crops"].sum() == 1200
    assert (table[["REAL", "FAKE"]] > 0).all(axis=None)


def test_data_sets_and_classes_are_spread_alike():
    crops = pd.concat(
        [
            families(60, fakes=5, prefix="big-", dataset="big"),
            families(40, fakes=1, prefix="small-", dataset="small"),
            table(*[(f"x{i}", "REAL", "") for i in range(40)], dataset="real only"),
        ]
    )
    index = with_split(crops.reset_index(drop=True))
    for _, rows in index.groupby(["dataset", "label"]):
        found = shares(rows)
        assert [found[split] for split in SPLITS] == pytest.approx([0.70, 0.15, 0.15], abs=0.06)


def test_families_of_very_different_size_keep_the_shares():
    rng = np.random.default_rng(1)
    parts = [families(1, fakes=int(k), prefix=f"{i}-") for i, k in enumerate(rng.zipf(1.6, 150))]
    parts = [part for part in parts if len(part) < 60]
    found = shares(with_split(pd.concat(parts, ignore_index=True)))
    assert [found[split] for split in SPLITS] == pytest.approx([0.70, 0.15, 0.15], abs=0.03)


def test_no_source_stands_in_two_splits():
    index = with_split(families(50, crops=3))
    assert (index.groupby("source")["split"].nunique() == 1).all()
    assert (index.groupby("video")["split"].nunique() == 1).all()


def test_the_split_repeats_with_its_seed_and_changes_with_another():
    crops = families(40)
    first = with_split(crops, seed=1)["split"]
    assert first.equals(with_split(crops, seed=1)["split"])
    assert not first.equals(with_split(crops, seed=2)["split"])


def test_the_split_does_not_depend_on_the_order_of_rows():
    crops = pd.concat(
        [families(30, crops=2), families(9, prefix="x", dataset="e", official=SPLITS)]
    )
    crops = crops.reset_index(drop=True)
    shuffled = with_split(crops.sample(frac=1, random_state=5))["split"].sort_index()
    assert shuffled.equals(with_split(crops)["split"])


@pytest.mark.parametrize("label", ["REAL", "FAKE"])
@pytest.mark.parametrize("n", [1, 2])
def test_fewer_than_three_sources_of_a_class_are_refused(label, n):
    other = "FAKE" if label == "REAL" else "REAL"
    crops = table(
        *[(f"few{i}", label, "") for i in range(n)], *[(f"x{i}", other, "") for i in range(20)]
    )
    with pytest.raises(ValueError, match=rf"{n} sources? of {label} videos \(few0.* at least 3"):
        with_split(crops)


def test_three_sources_of_each_class_are_enough():
    separate = table(*[(f"{label}{i}", label, "") for label in ("REAL", "FAKE") for i in range(3)])
    for crops in (families(3), separate):
        assert (split_summary(with_split(crops))[["REAL", "FAKE"]] >= 1).all(axis=None)


@pytest.mark.parametrize("seed", range(8))
def test_a_rare_class_reaches_every_split(seed):
    crops = table(
        *[(f"r{i}", "REAL", "") for i in range(3)], *[(f"f{i:03}", "FAKE", "") for i in range(90)]
    )
    assert (split_summary(with_split(crops, seed=seed))["REAL"] == 1).all()


def test_a_split_that_would_lack_a_class_is_given_the_smallest_source_that_can_be_spared():
    listed = table(*[(f"t{i}", "FAKE", "", "test") for i in range(5)])
    larger = families(8, fakes=3)
    single = table(("alone", "REAL", ""))
    index = with_split(pd.concat([listed, larger, single], ignore_index=True))
    test = index[index["split"] == "test"]
    assert set(test.loc[test["label"] == "REAL", "video"]) == {"alone"}


# --- official splits ----------------------------------------------------------------------------


def test_official_splits_stand():
    index = with_split(families(12, official=["train", "train", "val", "test"]))
    assert (index["split"] == index["official"]).all()


def test_what_is_linked_to_an_official_test_video_unlisted_is_left_out():
    crops = pd.concat([families(30), families(4, prefix="t", official=["test"])])
    crops = crops.reset_index(drop=True)
    crops.loc[crops["video"] == "tf0000-0", "official"] = ""
    index = with_split(crops)
    assert index.loc[index["split"] == "", "video"].tolist() == ["tf0000-0"]
    assert (index.loc[index["official"] == "test", "split"] == "test").all()
    check_splits(index[index["split"] != ""])


def test_a_source_in_two_official_lists_goes_to_the_stricter_one():
    crops = families(12, official=SPLITS)
    crops.loc[crops["video"] == "f0002-0", "official"] = "train"  # its original is a test video
    index = with_split(crops).set_index("video")
    assert index.loc["r0002", "split"] == "test"
    assert index.loc["f0002-0", "split"] == ""


def test_an_official_test_list_is_joined_by_nothing_else_of_its_data_set():
    listed = families(4, prefix="t", official=["test"])  # 4 of 84 sources: well below 15%
    index = with_split(pd.concat([listed, families(80)], ignore_index=True))
    assert set(index.loc[index["split"] == "test", "official"]) == {"test"}
    found = shares(index)
    assert found["val"] / found["train"] == pytest.approx(0.15 / 0.70, abs=0.03)


def test_another_data_set_is_split_as_usual_beside_an_official_one():
    official = families(40, prefix="o", dataset="celeb", official=["test", *[""] * 9])
    other = families(100, dataset="own")
    index = with_split(pd.concat([official, other], ignore_index=True))
    own = shares(index[index["dataset"] == "own"])
    assert [own[split] for split in SPLITS] == pytest.approx([0.70, 0.15, 0.15], abs=0.06)
    celeb = index[index["dataset"] == "celeb"]
    assert set(celeb.loc[celeb["split"] == "test", "official"]) == {"test"}


def test_official_train_and_test_without_val_give_val_a_share_of_train():
    index = with_split(families(60, official=["train", "train", "test"]))
    held_out = index["official"] == "test"
    assert (index.loc[held_out, "split"] == "test").all()
    assert set(index.loc[~held_out, "split"]) == {"train", "val"}


# --- the proof, and a broken twin for each check ------------------------------------------------


@pytest.fixture
def sound():
    index = with_split(families(20, crops=2))
    return index.assign(digest=[str(n) for n in range(len(index))])


def move(index, rows, column="split"):
    """Put rows into another split than the one they are in."""
    broken = index.copy()
    for i in broken.index[rows]:
        broken.loc[i, column] = "test" if broken.loc[i, column] != "test" else "train"
    return broken


def test_a_sound_index_passes_every_check(sound):
    assert check_splits(sound) == {
        **{"sources_disjoint": True, "videos_in_one_split": True},
        **{"fakes_with_their_original": True, "no_identical_crop_across_splits": True},
    }


def test_a_source_in_two_splits_is_caught(sound):
    broken = move(sound, sound["video"] == "f0003-1").drop(columns=["original", "digest"])
    with pytest.raises(LeakageError, match=r"sources_disjoint fails\): r0003 "):
        check_splits(broken)


def test_a_fake_apart_from_its_original_is_caught(sound):
    broken = move(sound, sound["video"] == "f0003-1").assign(source=sound["video"])
    with pytest.raises(LeakageError, match=r"fakes_with_their_original fails\): f0003-1 "):
        check_splits(broken)


def test_a_video_in_two_splits_is_caught(sound):
    one_crop = (sound["video"] == "r0003") & (sound["frame"] == 1)
    broken = move(sound, one_crop).drop(columns=["original", "digest"])
    broken = broken.assign(source=[str(n) for n in range(len(broken))])
    with pytest.raises(LeakageError, match=r"videos_in_one_split fails\): d/r0003 "):
        check_splits(broken)


def test_a_byte_identical_crop_across_splits_is_caught(sound):
    first = {split: sound.index[sound["split"] == split][0] for split in ("train", "test")}
    broken = sound.copy()
    broken.loc[first["test"], "digest"] = broken.loc[first["train"], "digest"]
    with pytest.raises(LeakageError, match="no_identical_crop_across_splits fails"):
        check_splits(broken)
    # The same table is sound again once its sources are grouped by digest too.
    check_splits(with_split(broken))


def test_a_random_split_by_frame_is_caught(sound):
    rng = np.random.default_rng(0)
    with pytest.raises(LeakageError):
        check_splits(sound.assign(split=rng.choice(SPLITS, len(sound))))


def test_a_leak_is_a_value_error():
    assert issubclass(LeakageError, ValueError)


# --- the control --------------------------------------------------------------------------------


@pytest.fixture
def control():
    index = with_split(families(100, fakes=4, crops=3))
    return index.assign(shuffled=control_labels(index, seed=0))


def test_the_test_split_keeps_its_labels(control):
    test = control[control["split"] == "test"]
    assert (test["shuffled"] == test["label"]).all()
    assert (control["shuffled"] != control["label"]).any()


@pytest.mark.parametrize("split", ["train", "val"])
def test_shuffled_labels_are_as_frequent_among_true_fakes_as_among_true_reals(control, split):
    videos = control[control["split"] == split].drop_duplicates("video")
    share = (videos["label"] == "FAKE").mean()
    for _, rows in videos.groupby("label"):
        assert (rows["shuffled"] == "FAKE").sum() == round(share * len(rows))


def test_all_crops_of_a_video_share_the_shuffled_label(control):
    assert (control.groupby("video")["shuffled"].nunique() == 1).all()


def test_the_shuffle_repeats_with_its_seed_in_any_order_of_rows(control):
    index = control.drop(columns="shuffled")
    assert control_labels(index, seed=0).equals(control["shuffled"])
    shuffled = control_labels(index.sample(frac=1, random_state=2), seed=0)
    assert shuffled.sort_index().equals(control["shuffled"])
    assert not control_labels(index, seed=1).equals(control["shuffled"])


def test_the_summary_counts_sources_videos_and_crops():
    index = families(3, fakes=2, crops=5)
    index = index.assign(source=source_groups(index))
    index["split"] = index["source"].map({"r0000": "train", "r0001": "train", "r0002": "test"})
    assert split_summary(index).to_dict("index") == {
        "train": {"sources": 2, "videos": 6, "crops": 30, "REAL": 2, "FAKE": 4},
        "val": {"sources": 0, "videos": 0, "crops": 0, "REAL": 0, "FAKE": 0},
        "test": {"sources": 1, "videos": 3, "crops": 15, "REAL": 1, "FAKE": 2},
    }


def test_the_split_is_described_by_what_was_proved_and_by_what_is_not_known():
    index = with_split(families(6, fakes=1))
    index = index.assign(person="", group="", word="REAL", layout="faces", unit="listed", root="x")
    assert describe_split(index, "source").splitlines() == [
        "- d (faces): 12 videos told by a table or by names; faces, squeezed, from frames shrunk "
        "to 0.25, 160 pixels",
        "- sources disjoint: holds",
        "- videos in one split: holds",
        "- fakes with their original: holds",
        "",
        "6 sources, 12 videos. The split is by source, so no scene is on two sides; whether test "
        "videos show people who were trained on is not known.",
    ]
    with pytest.raises(LeakageError):
        describe_split(move(index, index["video"] == "f0003-0"), "source")


# --- the index ----------------------------------------------------------------------------------


@pytest.fixture
def attached(tmp_path, monkeypatch):
    """Kaggle's inputs, empty."""
    monkeypatch.setattr(machine, "KAGGLE_INPUT", tmp_path / "input")
    (tmp_path / "input").mkdir()
    return tmp_path / "input"


@pytest.fixture
def data(tmp_path):
    """Crops in the main layout: twelve sources of one real and one fake video, two frames each."""
    rng = np.random.default_rng(0)
    rows = []
    for source in range(12):
        for label, video in (("REAL", f"r{source:02}"), ("FAKE", f"f{source:02}")):
            original = f"r{source:02}.mp4" if label == "FAKE" else ""
            rows.append([f"{video}.mp4", label, "train", original])
            folder = tmp_path / "part" / video
            folder.mkdir(parents=True)
            for frame in (0, 10):
                pixels = rng.integers(0, 255, (24, 24, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{frame}.png")
    columns = ["filename", "label", "split", "original"]
    pd.DataFrame(rows, columns=columns).to_csv(tmp_path / "part" / "metadata.csv", index=False)
    return tmp_path / "part"


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_text(f"{name} of {folder.name}")


def test_an_index_that_is_nowhere_is_made_with_its_audit(data, tmp_path, attached):
    said = ensure_index(data, tmp_path / "out")
    assert "made as 01_explore_data makes it" in said
    index = artifacts.read_table(tmp_path / "out", "index.csv")
    audit = artifacts.read_json(tmp_path / "out", "data_audit.json")
    assert len(index) == 48 and all(audit["checks"].values())
    assert set(index["split"]) == set(artifacts.SPLITS)
    assert audit["zero_pixel"] and len(audit["leakage_ladder"]) == 3


def test_made_again_it_is_the_same(data, tmp_path, attached):
    for name in ("a", "b"):
        ensure_index(data, tmp_path / name)
    for name in INDEX:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_an_index_in_output_is_left_as_it_is(data, tmp_path, attached):
    touch(tmp_path / "out", *INDEX)
    touch(attached / "run", *INDEX)
    assert "in OUTPUT" in ensure_index(data, tmp_path / "out")
    assert (tmp_path / "out" / "index.csv").read_text() == "index.csv of out"


def test_an_attached_index_is_brought_along_with_its_own_audit(data, tmp_path, attached):
    touch(attached / "a-half", "index.csv")  # without its audit it is of no use
    touch(attached / "run", *INDEX)
    assert str(attached / "run") in ensure_index(data, tmp_path / "out")
    for name in INDEX:
        assert (tmp_path / "out" / name).read_text() == f"{name} of run"


def test_the_audit_counts_each_reason_with_examples(data, tmp_path, attached):
    with (data / "metadata.csv").open("a") as listing:
        listing.writelines(f"{name}.mp4,REAL,train,\n" for name in "gfedcb")
        listing.write("z.mp4,MAYBE,train,\n")
    ensure_index(data, tmp_path / "out")
    assert artifacts.read_json(tmp_path / "out", "data_audit.json")["left_out"] == {
        "listed but absent": {"count": 6, "examples": [f"{name}.mp4" for name in "bcdef"]},
        "unknown label 'MAYBE'": {"count": 1, "examples": ["z.mp4"]},
    }


def test_the_fingerprint_is_blind_to_the_order_of_rows_and_sees_every_name_label_and_byte():
    crops = pd.DataFrame(
        {
            **{"dataset": "d", "path": ["a/0.png", "b/0.png"], "label": ["REAL", "FAKE"]},
            **{"digest": ["00", "01"], "width": 9},
        }
    )
    assert len(fingerprint(crops)) == 16
    assert fingerprint(crops.iloc[::-1]) == fingerprint(crops) == fingerprint(crops.assign(width=8))
    for column in ("dataset", "path", "label", "digest"):
        changed = crops.copy()
        changed.loc[0, column] = "another"
        assert fingerprint(changed) != fingerprint(crops)
