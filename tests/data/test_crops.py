"""Crops of every layout are listed, opened once and found again; what is left out is counted."""

import io
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from utils.data.crops import (
    STATISTICS,
    crop_paths,
    face_facts,
    find_pairs,
    image_statistics,
    inspect_crops,
    read_crops,
    scan_crops,
)
from utils.data.layouts import parse_frame_name
from utils.data.splits import split_crops
from utils.faces.detection import CropRecipe
from utils.run import machine

HEADER = "filename,label,split,original"
BUFFER = io.BytesIO()
Image.new("RGB", (1, 1)).save(BUFFER, "PNG")
PIXEL = BUFFER.getvalue()


def make_part(root, rows, crops=(), header=HEADER):
    """A data set in the layout of the main one."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "metadata.csv").write_text("\n".join([header, *rows]) + "\n")
    return touch(root, *crops)


def touch(root, *names):
    """Write real images, so that one outside the data set would be read if it were reached."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(PIXEL)
    return root


def reasons(left_out):
    return Counter(left_out["reason"])


ROWS = ["real.mp4,REAL,train,", "fake.mp4,FAKE,train,real.mp4"]
CROPS = ["real/0.png", "real/10.png", "fake/0.png", "fake/0_2.png"]


@pytest.fixture
def part(tmp_path):
    return make_part(tmp_path / "part", ROWS, CROPS)


def with_rows(part, *rows):
    return make_part(part, [*ROWS, *rows])


# --- layouts ------------------------------------------------------------------------------------


def test_the_main_layout_gives_a_row_a_crop(part):
    crops, left_out = scan_crops(part)
    assert left_out.empty
    assert crops.drop(columns="root").to_dict("records") == [
        {
            **{"path": path, "dataset": "part", "video": video, "frame": frame, "face": face},
            **{"label": label, "method": method, "original": original, "official": ""},
            **{"person": "", "group": "", "layout": "faces", "unit": "listed", "word": label},
        }
        for path, video, frame, face, label, method, original in [
            ("fake/0.png", "fake", 0, 1, "FAKE", "unknown", "real"),
            ("fake/0_2.png", "fake", 0, 2, "FAKE", "unknown", "real"),
            ("real/0.png", "real", 0, 1, "REAL", "original", ""),
            ("real/10.png", "real", 10, 1, "REAL", "original", ""),
        ]
    ]
    assert set(crops["root"]) == {str(part)}


def test_several_parts_stand_side_by_side(tmp_path):
    make_part(tmp_path / "part-0-0", ["a.mp4,REAL,train,"], ["a/1.png"])
    make_part(tmp_path / "part-0-1", ["b.mp4,FAKE,train,a.mp4"], ["b/1.png"])
    crops, _ = scan_crops(tmp_path)
    assert list(zip(crops["dataset"], crops["video"], crops["label"])) == [
        ("part-0-0", "a", "REAL"),
        ("part-0-1", "b", "FAKE"),
    ]


def test_a_part_without_crops_blurs_no_types_of_the_others(part):
    make_part(part.parent / "another", ["c.mp4,REAL,train,"])
    crops, left_out = scan_crops(part.parent)
    assert crops["frame"].dtype == crops["face"].dtype == "int64"
    assert reasons(left_out) == {"listed but absent": 1}


def test_deepfake_faces_has_a_crop_a_video(tmp_path):
    header = "videoname,original_width,original_height,label,original"
    rows = ["a.mp4,1920,1080,REAL,", "b.mp4,1920,1080,FAKE,a.mp4", "c.mp4,1920,1080,FAKE,a.mp4"]
    crops = ["faces_224/a.jpg", "faces_224/b.jpg", "faces_224/x.jpg", "faces_224/notes.txt"]
    make_part(tmp_path, rows, [*crops, "faces_224/b.png"], header)
    crops, left_out = scan_crops(tmp_path)
    assert crops["path"].tolist() == ["faces_224/a.jpg", "faces_224/b.jpg"]
    assert crops["original"].tolist() == ["", "a"]
    assert set(crops["frame"]) == {0} and set(crops["face"]) == {1}
    assert dict(zip(left_out["reason"], left_out["name"])) == {
        "listed but absent": "c.mp4",
        "file name is no image": "faces_224/notes.txt",
        "not listed in metadata.csv": "faces_224/x.jpg",
    }
    assert "faces_224/b.png" in left_out["name"].tolist()  # the second image of a video


def test_the_output_of_notebook_00_keeps_its_data_set_and_method(tmp_path):
    header = f"{HEADER},dataset,method,fps,width,height"
    rows = ["a.mp4,REAL,,,dfdc_0,original,30,9,9", "b.mp4,FAKE,,a.mp4,dfdc_1,swap,30,9,9"]
    make_part(tmp_path / "faces", rows, ["a/0.png", "b/0.png", "boxes.csv"], header)
    crops, left_out = scan_crops(tmp_path)
    assert crops["dataset"].tolist() == ["dfdc_0", "dfdc_1"]
    assert crops["method"].tolist() == ["original", "swap"]
    assert left_out.empty


@pytest.mark.parametrize("names", [("real", "fake"), ("REAL", "FAKE"), ("Real", "Fake")])
def test_real_and_fake_folders_make_every_image_its_own_video(tmp_path, names):
    real, fake = names
    touch(tmp_path, f"{real}/1.jpg", f"{real}/1.PNG", f"{real}/deep/1.jpg", f"{fake}/1.jpg")
    touch(tmp_path, f"{fake}/notes.txt", "other/2.jpg")
    crops, left_out = scan_crops(tmp_path)
    labels = dict(zip(crops["path"], crops["label"]))
    assert labels == {
        **{f"{real}/{name}": "REAL" for name in ("1.jpg", "1.PNG", "deep/1.jpg")},
        f"{fake}/1.jpg": "FAKE",
    }
    assert crops["video"].nunique() == 4 and not crops["video"].str.contains("/").any()
    assert set(crops["original"]) == {""}
    assert left_out["name"].tolist() == [f"{fake}/notes.txt"]


def test_kaggle_mounts_of_both_forms_are_read_together(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "KAGGLE_INPUT", tmp_path)
    make_part(tmp_path / "old-slug", ["a.mp4,REAL,train,"], ["a/1.png"])
    make_part(tmp_path / "datasets/owner/new-slug", ["b.mp4,FAKE,train,a.mp4"], ["b/1.png"])
    crops, _ = scan_crops()
    assert sorted(crops["dataset"]) == ["new-slug", "old-slug"]
    assert all(Path(path).is_file() for path in crop_paths(crops))


def test_raw_videos_send_the_reader_to_notebook_00(tmp_path):
    touch(tmp_path, "metadata.json", "a.mp4")
    with pytest.raises(FileNotFoundError, match="run 00_extract_faces on it first"):
        scan_crops(tmp_path)


def test_two_data_sets_of_one_name_are_refused(tmp_path):
    for top in "ab":
        header = f"{HEADER},dataset"
        rows = ["r.mp4,REAL,,,dfdc_0", "f.mp4,FAKE,,r.mp4,dfdc_0"]
        make_part(tmp_path / top / "faces", rows, ["r/0.png", "f/0.png"], header)
    with pytest.raises(ValueError, match=r"two data sets are called 'dfdc_0': .*a/faces and "):
        scan_crops(tmp_path)


# --- names of frames ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "frame"),
    [
        *[("10.png", (10, 1)), ("10_2.png", (10, 2)), ("100.png", (100, 1)), ("0.jpg", (0, 1))],
        *[("10_12.jpeg", (10, 12)), ("007.png", (7, 1))],
        *[("frame_0012.png", (12, 1)), ("12.PNG", (12, 1)), ("Img12-3.webp", (12, 3))],
        *[("10_1.png", (10, 1)), ("12_0.png", (12, 0)), ("10_02.png", (10, 2))],
        *[("x.png", None), ("10.txt", None), ("10_2_3.png", None), ("a_b_1.png", None)],
        *[("-1.png", None), ("1.5.png", None)],
        *[("10.png.tmp", None), ("10", None), (".png", None), ("١٠.png", None), ("10.png\n", None)],
    ],
)
def test_a_frame_name_is_a_number_and_perhaps_a_face(name, frame):
    assert parse_frame_name(name) == frame


def test_frames_are_in_the_order_of_their_numbers(part):
    touch(part, "real/100.png", "real/9.png")
    crops, _ = scan_crops(part)
    assert crops.loc[crops["video"] == "real", "frame"].tolist() == [0, 9, 10, 100]


def test_files_that_are_no_frames_are_counted_and_not_used(part):
    touch(part, "real/10_1.png", "real/x.png", "real/10.txt", "fake/10_2_3.png")
    crops, left_out = scan_crops(part)
    assert len(crops) == len(CROPS)
    assert reasons(left_out) == {"file name is no frame": 3, "file name is no image": 1}
    assert "fake/10_2_3.png" in left_out["name"].tolist()


# --- audit --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "reason", "name"),
    [
        (["gone.mp4,FAKE,train,real.mp4"], "listed but absent", "gone.mp4"),
        (["empty.mp4,FAKE,train,real.mp4"], "listed but absent", "empty.mp4"),
        (["real.mp4,REAL,train,"], "duplicate row", "real.mp4"),
        (["odd.mp4,spoof,train,"], "unknown label 'spoof'", "odd.mp4"),
        (["odd.mp4,,train,"], "unknown label ''", "odd.mp4"),
        ([",FAKE,train,"], "name is not a plain file name", ""),
    ],
)
def test_a_row_that_cannot_be_used_is_counted_with_its_reason(part, rows, reason, name):
    with_rows(part, *rows)
    if "empty" in rows[0]:
        (part / "empty").mkdir()
    crops, left_out = scan_crops(part)
    assert left_out.to_dict("records") == [{"dataset": "part", "reason": reason, "name": name}]
    assert len(crops) == len(CROPS)


def test_a_video_of_two_labels_is_not_used_at_all(part):
    with_rows(part, "v.mp4,REAL,train,", "v.mp4,FAKE,train,real.mp4")
    touch(part, "v/0.png")
    crops, left_out = scan_crops(part)
    assert "v" not in crops["video"].tolist()
    assert reasons(left_out) == {"conflicting label": 2}


def test_a_folder_that_no_row_lists_is_counted_and_not_used(part):
    touch(part, "stranger/0.png", "loose.png")
    crops, left_out = scan_crops(part)
    assert sorted(left_out["name"]) == ["loose.png", "stranger"]
    assert set(left_out["reason"]) == {"not listed in metadata.csv"}
    assert set(crops["video"]) == {"real", "fake"}


def test_the_row_that_names_an_original_wins_in_any_order(part):
    rows = ["fake.mp4,FAKE,train,", "fake.mp4,FAKE,train,real.mp4", "real.mp4,REAL,train,"]
    for order in (rows, rows[::-1]):
        make_part(part, order)
        crops, left_out = scan_crops(part)
        assert set(crops.loc[crops["video"] == "fake", "original"]) == {"real"}
        assert reasons(left_out) == {"duplicate row": 1}


def test_no_row_disappears_silently(part):
    rows = [
        *("gone.mp4,FAKE,train,real.mp4", "gone.mp4,FAKE,train,real.mp4", "../x.mp4,FAKE,train,"),
        *("both.mp4,REAL,train,", "both.mp4,FAKE,train,", "nan,maybe,train,", ",,,"),
        *("none.mp4,REAL,train,", "004,REAL,train,", '"a\nb.mp4",REAL,train,'),
    ]
    with_rows(part, *rows)
    touch(part, "004/1.png", "none/readme.txt")
    crops, left_out = scan_crops(part)
    of_rows = left_out[left_out["reason"] != "file name is no image"]
    assert crops["video"].nunique() == 3
    assert crops["video"].nunique() + len(of_rows) == len(ROWS) + len(rows)


def test_the_order_of_rows_does_not_matter(part):
    first, _ = scan_crops(part)
    make_part(part, ROWS[::-1])
    pd.testing.assert_frame_equal(scan_crops(part)[0], first)


def test_names_like_nan_are_videos_like_any_other(tmp_path):
    rows = ["nan,REAL,train,", "NA.mp4,FAKE,train,nan", "004.mp4,FAKE,train,null"]
    make_part(tmp_path, rows, ["nan/1.png", "NA/1.png", "004/1.png"])
    crops, left_out = scan_crops(tmp_path)
    assert crops["video"].tolist() == ["004", "NA", "nan"]
    assert crops["original"].tolist() == ["null", "nan", ""]
    assert left_out.empty


@pytest.mark.parametrize("rows", [[], ["a.mp4,REAL,train,"], ["a.mp4,none,train,"]])
def test_an_empty_data_set_is_one_clear_error(tmp_path, rows):
    make_part(tmp_path, rows)
    told = r"(nothing is labelled|is empty).*real/ and fake/; or write labels\.csv"
    with pytest.raises((ValueError, FileNotFoundError), match=told):
        scan_crops(tmp_path)


def test_empty_real_and_fake_folders_are_one_clear_error(tmp_path):
    (tmp_path / "real").mkdir()
    with pytest.raises(FileNotFoundError, match=r"is empty\. Two ways to label"):
        scan_crops(tmp_path)


@pytest.mark.parametrize(("label", "other"), [("REAL", "FAKE"), ("FAKE", "REAL")])
def test_one_class_only_names_file_and_what_is_missing(tmp_path, label, other):
    make_part(tmp_path, [f"a.mp4,{label},train,"], ["a/1.png"])
    with pytest.raises(
        ValueError,
        match=rf"metadata\.csv: nothing is labelled {other}, and both classes",
    ):
        scan_crops(tmp_path)


# --- nothing outside the data set ---------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["../secret.mp4", "{tmp}/secret.mp4", "../secret", "..", ".", "a/b.mp4", "a\\b.mp4", "...mp4"],
)
def test_no_listed_name_reaches_a_crop_outside(tmp_path, part, name):
    touch(tmp_path, "secret/0.png", "0.png", "part/a/b/0.png")
    name = name.format(tmp=tmp_path)
    with_rows(part, f"{name},FAKE,train,real.mp4")
    crops, left_out = scan_crops(part)
    assert crops["path"].tolist() == sorted(CROPS)
    counted = left_out[left_out["reason"] == "name is not a plain file name"]
    assert counted["name"].tolist() == [name]


def test_a_folder_linked_out_of_the_data_set_is_not_followed(tmp_path, part):
    with_rows(part, "out.mp4,FAKE,train,real.mp4")
    touch(tmp_path, "secret/0.png")
    (part / "out").symlink_to(tmp_path / "secret")
    crops, left_out = scan_crops(part)
    assert "out" not in crops["video"].tolist()
    assert dict(zip(left_out["reason"], left_out["name"])) == {
        **{"link out of the data set": "out", "listed but absent": "out.mp4"}
    }


def test_a_crop_linked_out_of_the_data_set_is_not_followed(tmp_path, part):
    touch(tmp_path, "secret.png")
    (part / "real" / "20.png").symlink_to(tmp_path / "secret.png")
    (part / "real" / "30.png").symlink_to(part / "real" / "10.png")
    crops, left_out = scan_crops(part)
    assert "real/20.png" not in crops["path"].tolist()
    assert "real/30.png" in crops["path"].tolist()  # a link that stays inside is a crop
    assert dict(zip(left_out["reason"], left_out["name"])) == {
        "link out of the data set": "real/20.png"
    }


def test_a_linked_folder_of_single_images_is_not_followed(tmp_path):
    touch(tmp_path / "secret", "a.jpg", "b.jpg")
    header = "videoname,original_width,original_height,label,original"
    data = make_part(tmp_path / "data", ["a.mp4,9,9,REAL,", "b.mp4,9,9,FAKE,a.mp4"], (), header)
    (data / "faces_224").symlink_to(tmp_path / "secret")
    way_out = (
        "2 listed but absent; 1 link out of the data set. Name the target of such a link as DATA"
    )
    with pytest.raises(ValueError, match=way_out):
        scan_crops(data)
    (data / "faces_224").unlink()
    touch(data, "faces_224/a.jpg", "faces_224/b.jpg")
    (data / "faces_224" / "c.jpg").symlink_to(tmp_path / "secret" / "a.jpg")
    crops, left_out = scan_crops(data)
    assert crops["video"].tolist() == ["a", "b"]
    assert reasons(left_out) == {"link out of the data set": 1}


def test_links_out_of_real_and_fake_folders_are_not_followed(tmp_path):
    touch(tmp_path / "secret", "s.jpg", "more/s.jpg")
    data = touch(tmp_path / "data", "real/1.jpg", "fake/1.jpg")
    (data / "REAL").symlink_to(tmp_path / "secret")
    (data / "real" / "deep").symlink_to(tmp_path / "secret" / "more")
    (data / "fake" / "2.jpg").symlink_to(tmp_path / "secret" / "s.jpg")
    crops, left_out = scan_crops(data)
    assert crops["path"].tolist() == ["fake/1.jpg", "real/1.jpg"]
    assert set(left_out["reason"]) == {"link out of the data set"}
    assert sorted(left_out["name"]) == ["REAL", "fake/2.jpg", "real/deep"]


def test_a_link_to_itself_stops_nothing(part):
    (part / "loop").symlink_to("loop")
    (part / "real" / "5.png").symlink_to("5.png")
    crops, _ = scan_crops(part)
    assert {"real", "fake"} == set(crops["video"])


# --- MAX_VIDEOS ---------------------------------------------------------------------------------


@pytest.fixture
def families(tmp_path):
    """Twelve originals with none to three fakes each: 12 + 18 videos."""
    rows, crops = [], []
    for n in range(12):
        rows.append(f"r{n}.mp4,REAL,train,")
        rows += [f"f{n}-{k}.mp4,FAKE,train,r{n}.mp4" for k in range(n % 4)]
    crops = [f"{row.partition('.')[0]}/{frame}.png" for row in rows for frame in (0, 1)]
    return make_part(tmp_path / "families", rows, crops)


@pytest.mark.parametrize("max_videos", [5, 9, 17, 29, 30, 1000])
def test_max_videos_keeps_families_whole_and_never_exceeds(families, max_videos):
    everything, _ = scan_crops(families)
    crops, left_out = scan_crops(families, max_videos=max_videos)
    kept = set(crops["video"])
    assert 0 < len(kept) <= max_videos
    assert reasons(left_out)["beyond MAX_VIDEOS"] == 30 - len(kept)
    fakes = everything[everything["label"] == "FAKE"].drop_duplicates("video")
    for video, original in zip(fakes["video"], fakes["original"]):
        assert (video in kept) == (original in kept)
    assert (crops.groupby("video").size() == 2).all()


def test_a_family_that_is_too_large_does_not_end_the_draw(tmp_path):
    rows = ["r.mp4,REAL,,", *(f"f{n}.mp4,FAKE,,r.mp4" for n in range(9))]
    rows += [f"s{n}.mp4,{label},," for label in ("REAL", "FAKE") for n in (label[0], label[1])]
    make_part(tmp_path, rows, [f"{row.partition('.')[0]}/0.png" for row in rows])
    for seed in range(5):
        crops, _ = scan_crops(tmp_path, max_videos=4, seed=seed)
        assert sorted(crops["video"]) == ["sA", "sE", "sF", "sR"]


def test_the_draw_depends_on_the_seed_alone(families):
    def draw(seed):
        return scan_crops(families, max_videos=9, seed=seed)[0]["video"].unique().tolist()

    first = draw(0)
    path = families / "metadata.csv"
    header, *rows = path.read_text().splitlines()
    path.write_text("\n".join([header, *rows[::-1]]))
    assert draw(0) == first
    assert any(draw(seed) != first for seed in range(1, 4))


def test_a_draw_that_leaves_one_class_says_so(families):
    with pytest.raises(ValueError, match="MAX_VIDEOS=1 leaves 1 videos and not both classes"):
        scan_crops(families, max_videos=1)


def test_a_copy_of_an_original_stays_with_its_family(tmp_path):
    rows = [
        *("r.mp4,REAL,,", "r40.mp4,REAL,,r.mp4", "f40.mp4,FAKE,,r40.mp4"),
        *("s.mp4,REAL,,", "s40.mp4,REAL,,s.mp4", "g40.mp4,FAKE,,s40.mp4"),
    ]
    make_part(tmp_path, rows, [f"{row.partition('.')[0]}/0.png" for row in rows])
    crops, _ = scan_crops(tmp_path, max_videos=4)
    assert set(crops["video"]) in ({"r", "r40", "f40"}, {"s", "s40", "g40"})


# --- reading an index again ---------------------------------------------------------------------


def write_split_table(path, *rows, header="video,part,split"):
    pd.DataFrame([row.split(",") for row in rows], columns=header.split(",")).to_csv(
        path, index=False
    )
    return path


def test_a_model_s_table_of_videos_is_an_official_split_with_parts(tmp_path):
    listed, names = [], []
    for number, split in enumerate(["train", "train", "val", "test", ""]):
        for kind in "ab":
            real, fake = f"real{number}{kind}", f"fake{number}{kind}"
            listed += [f"{real}.mp4,REAL,train,", f"{fake}.mp4,FAKE,train,{real}.mp4"]
            names += [(video, number, split) for video in (real, fake)]
    part = make_part(tmp_path / "part", listed, [f"{video}/0.png" for video, *_ in names])
    for k, (video, *_) in enumerate(names):  # else all crops are one source
        Image.new("RGB", (4, 4), (k, 0, 0)).save(part / video / "0.png")
    rows = [f"{video},{number},{split}" for video, number, split in names if split]
    path = write_split_table(tmp_path / "videos.csv.gz", *rows)
    crops, left_out = read_crops(tmp_path / "part", split_table=path)
    assert reasons(left_out) == {"not in videos.csv.gz": 4}
    assert set(left_out["name"].str[:5]) == {"real4", "fake4"}
    index, unplaced, by = split_crops(crops)
    assert by == "official" and unplaced.empty
    told = {video: (f"part_{number}", split) for video, number, split in names if split}
    assert {row.video: (row.group, row.split) for row in index.itertuples()} == told


@pytest.mark.parametrize(
    ("header", "rows", "said"),
    [
        ("video,part", ["a,1"], "column split missing"),
        ("video,part,split", ["other,1,test"], "lists none of these videos, such as 'fake'"),
        ("video,part,split", ["fake,1,perhaps"], "lists none of these videos"),
    ],
)
def test_a_table_that_splits_nothing_says_so(tmp_path, part, header, rows, said):
    path = write_split_table(tmp_path / "videos.csv.gz", *rows, header=header)
    with pytest.raises(ValueError, match=said):
        read_crops(part, split_table=path)


def test_a_table_that_is_not_there_says_so(part):
    with pytest.raises(FileNotFoundError, match=r"SPLIT_TABLE 'nowhere\.csv' is no file"):
        read_crops(part, split_table="nowhere.csv")


def test_crop_paths_are_in_the_order_of_the_rows(part):
    crops, _ = scan_crops(part)
    shuffled = crops.sample(frac=1, random_state=1)
    expected = [os.path.join(part, path) for path in shuffled["path"]]
    assert crop_paths(shuffled[["dataset", "path"]], part.parent) == expected


def test_crop_paths_find_the_data_sets_that_00_named(tmp_path):
    header = f"{HEADER},dataset"
    rows = ["a.mp4,REAL,,,dfdc_0", "b.mp4,FAKE,,a.mp4,"]
    root = make_part(tmp_path / "faces", rows, ["a/0.png", "b/0.png"], header)
    crops, _ = scan_crops(tmp_path)
    assert sorted(crops["dataset"]) == ["dfdc_0", "faces"]
    assert sorted(crop_paths(crops, tmp_path)) == [f"{root}/a/0.png", f"{root}/b/0.png"]


def test_crops_that_are_elsewhere_now_are_a_clear_error(tmp_path, part):
    crops, _ = scan_crops(part)
    other = make_part(tmp_path / "other", ROWS, CROPS)
    with pytest.raises(FileNotFoundError, match=r"data set 'part' in index\.csv are not below"):
        crop_paths(crops, other)
    for path in CROPS:
        (part / path).unlink()
    with pytest.raises(FileNotFoundError, match="set DATA to the folder that 01_explore_data read"):
        crop_paths(crops, part)


@pytest.mark.parametrize(
    "path",
    ["/{}/private/0.png", "../private/0.png", "a/../../private/0.png", "link/0.png", "a/9.png"],
)
def test_path_in_an_index_that_leads_out_of_its_data_set_is_refused(tmp_path, part, path):
    private = make_part(tmp_path / "private", ROWS, CROPS)
    (part / "link").symlink_to(private / Path(CROPS[0]).parent)
    (part / "a").mkdir(exist_ok=True)
    (part / "a" / "9.png").symlink_to(private / CROPS[0])
    crops, _ = scan_crops(part)
    crops.loc[len(crops) - 1, "path"] = path.format(tmp_path)
    with pytest.raises(ValueError, match=r"index\.csv: .*0\.png' leads out|9\.png' leads out"):
        crop_paths(crops, part)


def test_links_within_a_data_set_are_followed(part):
    crops, _ = scan_crops(part)
    first = part / crops["path"][0]
    first.rename(part / "kept.png")
    first.symlink_to(part / "kept.png")
    assert len(crop_paths(crops, part)) == len(crops)


def test_pipe_among_the_crops_is_left_out(part):
    crops, _ = scan_crops(part)
    path = part / crops["path"][0]
    path.unlink()
    os.mkfifo(path)  # opening it would wait for ever
    _, left_out = inspect_crops(crops)
    assert left_out["name"].tolist() == [crops["path"][0]]


# --- opening ------------------------------------------------------------------------------------


def encoded(pixels, kind):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def noise(seed, size=16):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def table(root, files):
    """Write files {name: bytes} and list them as scan_crops would; r... is REAL, f... FAKE."""
    for name, content in files.items():
        (root / name).write_bytes(content)
    names = list(files)
    return pd.DataFrame(
        {
            **{"path": names, "dataset": "d", "video": names, "root": str(root)},
            "label": ["REAL" if name[0] == "r" else "FAKE" for name in names],
        }
    )


def inspect(crops):
    return inspect_crops(crops)


@pytest.fixture
def good():
    return {"r.png": encoded(noise(0), "PNG"), "f.jpg": encoded(noise(1, 24), "JPEG")}


def test_readable_crops_keep_their_rows_and_get_their_facts(tmp_path, good):
    crops, left_out = inspect(table(tmp_path, good))
    assert left_out.empty and list(left_out) == ["dataset", "reason", "name"]
    assert crops["path"].tolist() == ["r.png", "f.jpg"]
    assert crops[["width", "height"]].to_numpy().tolist() == [[16, 16], [24, 24]]
    assert crops["file_bytes"].tolist() == [len(content) for content in good.values()]
    expected = pd.Series(image_statistics(noise(0)))
    pd.testing.assert_series_equal(crops.loc[0, STATISTICS].astype(float), expected, check_names=0)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("f2.png", encoded(noise(2), "PNG")[:-400], "truncated image"),
        ("f2.png", encoded(noise(2), "PNG")[:45], "truncated image"),
        ("f2.jpg", encoded(noise(2, 64), "JPEG")[:-1500], "truncated image"),
        ("f2.jpg", encoded(noise(2), "JPEG")[:12], "truncated image"),
        ("f2.png", b"", "unreadable image"),
        ("f2.jpg", b"no image at all", "unreadable image"),
    ],
)
def test_a_damaged_crop_is_counted_and_the_others_stay(tmp_path, good, name, content, reason):
    crops, left_out = inspect(table(tmp_path, good | {name: content}))
    assert crops["path"].tolist() == ["r.png", "f.jpg"]
    assert left_out.to_dict("records") == [{"dataset": "d", "reason": reason, "name": name}]


def test_a_folder_or_a_missing_file_is_an_unreadable_crop(tmp_path, good):
    rows = table(tmp_path, good | {"f2.png": b"", "f3.png": b""})
    for name in ("f2.png", "f3.png"):
        (tmp_path / name).unlink()
    (tmp_path / "f2.png").mkdir()
    crops, left_out = inspect(rows)
    assert len(crops) == 2
    assert left_out["reason"].tolist() == ["unreadable image"] * 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP"])
def test_no_damage_to_a_file_stops_the_inspection(tmp_path, good, kind):
    rng = np.random.default_rng(5)
    whole = np.frombuffer(encoded(noise(3, 8), kind), dtype=np.uint8)
    files = dict(good)
    for n in range(150):
        broken = whole.copy()[: rng.integers(1, len(whole) + 1)]
        broken[rng.integers(0, len(broken), 3)] = rng.integers(0, 256, 3)
        files[f"f{n}.{kind.lower()}"] = broken.tobytes()
    crops, left_out = inspect(table(tmp_path, files))
    assert len(crops) + len(left_out) == len(files)
    assert len(left_out) > 50
    assert set(left_out["reason"]) <= {"truncated image", "unreadable image"}


def test_many_crops_come_back_in_their_order(tmp_path):
    files = {f"{'rf'[n % 2]}{n}.png": encoded(noise(n, 4 + n), "PNG") for n in range(150)}
    crops, _ = inspect(table(tmp_path, files))
    assert crops["path"].tolist() == list(files)
    assert crops["width"].tolist() == [4 + n for n in range(150)]


def test_the_index_of_the_rows_does_not_matter(tmp_path, good):
    rows = table(tmp_path, good | {"f2.png": b""}).set_axis([7, 3, 5])
    crops, left_out = inspect(rows)
    assert crops["path"].tolist() == ["r.png", "f.jpg"]
    assert left_out["name"].tolist() == ["f2.png"]


def test_a_class_without_one_readable_crop_is_an_error_with_an_example(tmp_path, good):
    with pytest.raises(ValueError, match=r"both classes are needed; 1 cannot .*\(such as .*f\.jpg"):
        inspect(table(tmp_path, good | {"f.jpg": b"broken"}))


def test_the_digest_of_a_crop_changes_with_one_byte_of_its_file(tmp_path, good):
    before, _ = inspect(table(tmp_path, good))
    after, _ = inspect(table(tmp_path, good | {"r.png": good["r.png"] + b"\0"}))
    assert (before["digest"] != after["digest"]).tolist() == [True, False]


def test_sixteen_bits_and_transparency_are_measured_as_a_viewer_shows_them(tmp_path, good):
    deep = io.BytesIO()
    Image.fromarray(np.full((8, 8), 32768, dtype=np.uint16)).save(deep, "PNG")
    glass = io.BytesIO()
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(glass, "PNG")
    files = good | {"f16.png": deep.getvalue(), "fglass.png": glass.getvalue()}
    crops, _ = inspect(table(tmp_path, files))
    assert crops["brightness"].tolist()[2:] == pytest.approx([0.5, 1.0], abs=0.01)


def test_read_crops_lists_opens_and_tells_of_both(part):
    touch(part, "real/x.png")
    (part / "fake" / "0_2.png").write_bytes(b"no image")
    crops, left_out = read_crops(part)
    assert crops["path"].tolist() == ["fake/0.png", "real/0.png", "real/10.png"]
    assert set(crops["width"]) == {1}
    assert reasons(left_out) == {"file name is no frame": 1, "unreadable image": 1}


# --- statistics ---------------------------------------------------------------------------------


def test_black_and_white_have_no_contrast_and_no_edges():
    for value in (0, 255):
        found = image_statistics(np.full((8, 8, 3), value, dtype=np.uint8))
        level = value / 255
        assert list(found) == STATISTICS
        assert list(found.values()) == pytest.approx([level, 0, 0, level, level, level])


def test_a_checkerboard_is_half_bright_with_the_greatest_contrast():
    board = (np.indices((8, 8)).sum(axis=0) % 2 * 255).astype(np.uint8)
    found = image_statistics(np.repeat(board[..., None], 3, axis=2))
    assert found["brightness"] == pytest.approx(0.5)
    assert found["contrast"] == pytest.approx(0.5)
    # The Laplacian is the sum of four neighbours less four times the centre: +-4 * 255 everywhere.
    assert found["sharpness"] == pytest.approx(np.log10((4 * 255) ** 2 + 1))


def test_colours_are_told_apart():
    red = np.zeros((4, 4, 3), dtype=np.uint8)
    red[..., 0] = 255
    found = image_statistics(red)
    assert (found["red"], found["green"], found["blue"]) == (1, 0, 0)
    assert found["brightness"] == pytest.approx(0.299, abs=0.005)


def test_a_single_pixel_is_described_too():
    assert image_statistics(np.full((1, 1, 3), 255, dtype=np.uint8))["brightness"] == 1


# --- a fake beside its original -----------------------------------------------------------------


def test_a_pair_shows_one_frame_where_both_have_it_and_near_ones_else(tmp_path):
    rows = [
        "r.mp4,REAL,,",
        "s.mp4,REAL,,",
        "f.mp4,FAKE,,r.mp4",
        "g.mp4,FAKE,,s.mp4",
        "h.mp4,FAKE,,",
    ]
    crops = ["r/0.png", "r/20.png", "f/8.png", "f/20.png", "f/20_2.png", "h/0.png"]
    crops += ["s/0.png", "s/50.png", "g/30.png"]
    make_part(tmp_path, rows, crops)
    pairs = find_pairs(scan_crops(tmp_path)[0])
    found = {tuple(Path(path).relative_to(tmp_path).as_posix() for path in pair)
             for pair in zip(pairs["real"], pairs["fake"])}  # fmt: skip
    assert found == {("r/20.png", "f/20.png"), ("s/50.png", "g/30.png")}
    assert set(pairs["method"]) == {"unknown"}


def test_the_order_of_pairs_is_drawn(families):
    scanned, _ = scan_crops(families)
    first = find_pairs(scanned, seed=0)
    assert len(first) == 9  # of twelve originals, three have no fake
    assert find_pairs(scanned, seed=0).equals(first)
    other = find_pairs(scanned, seed=1)
    assert not other.equals(first) and set(other["real"]) == set(first["real"])


def test_without_originals_there_is_no_pair(tmp_path):
    touch(tmp_path, "real/1.jpg", "fake/1.jpg")
    assert find_pairs(scan_crops(tmp_path)[0]).empty


# --- what 00 knew of each face ------------------------------------------------------------------

BOXES = "video,frame,face,track,x1,y1,x2,y2,probability"


def cut_by_00(root, boxes, films=("v.mp4,d,1280,720",)):
    """A folder as 00 leaves it, but for the crops."""
    root.mkdir(parents=True, exist_ok=True)
    (root / "boxes.csv").write_text("\n".join([BOXES, *boxes]) + "\n")
    header = "filename,dataset,width,height,label,original"
    lines = [header, *(f"{film},REAL," for film in films)]
    (root / "metadata.csv").write_text("\n".join(lines) + "\n")
    return root


def index_of(*faces, dataset="d", side=160):
    """Rows of an index for faces given as (video, frame, face)."""
    rows = pd.DataFrame(faces, columns=["video", "frame", "face"])
    return rows.assign(dataset=dataset, width=side, height=side - 10)


def test_boxes_beside_the_crops_tell_track_probability_and_sizes(tmp_path):
    root = cut_by_00(tmp_path, ["v,0,1,3,100,50,180,170,0.99", "v,10,1,3,100,50,140,70,0.9"])
    index = index_of(("v", 10, 1), ("v", 0, 1)).set_axis([7, 3])
    facts = face_facts(index, root, tmp_path / "out")
    assert facts.index.tolist() == [7, 3]
    assert facts["track"].tolist() == [3, 3]
    assert facts["probability"].tolist() == [0.9, 0.99]
    # A frame of 1280 x 720 is searched at a quarter; `side` counts pixels there.
    assert facts["side"].tolist() == [20 / 4, 80 / 4]
    assert facts["face_size"].tolist() == [40, 120]


def test_the_recipe_beside_them_says_how_far_frames_were_shrunk(tmp_path):
    root = cut_by_00(tmp_path, ["v,0,1,0,0,0,80,120,1"])
    recipe = CropRecipe(scale=0.5)
    (root / "recipe.json").write_text(f'{{"scale": {recipe.scale}}}')
    facts = face_facts(index_of(("v", 0, 1)), root, tmp_path / "out")
    assert facts["side"].tolist() == [80 * recipe.shrunk(1280, 720)[0] / 1280] == [40]


def test_crops_that_lie_elsewhere_are_found_again_in_output(tmp_path):
    cut_by_00(tmp_path / "out" / "faces", ["v,0,1,2,0,0,80,120,1"])
    data = make_part(tmp_path / "d", ["v.mp4,REAL,,", "w.mp4,FAKE,,v.mp4"])
    index = index_of(("v", 0, 1), ("w", 0, 1))
    facts = face_facts(index, data, tmp_path / "out")
    assert facts["track"].isna().tolist() == [False, True]
    assert facts["face_size"].tolist() == [120, 160]
    assert facts["probability"].isna().tolist() == [False, True]


def test_where_no_boxes_are_nothing_is_known_but_the_size_of_the_crop(tmp_path, part):
    facts = face_facts(index_of(("real", 0, 1), dataset="part"), part, tmp_path / "out")
    assert facts[["track", "probability", "side"]].isna().all(axis=None)
    assert facts["face_size"].tolist() == [160]


def test_tracks_of_a_video_are_known_of_all_its_crops_or_of_none(tmp_path):
    boxes = ["v,0,1,0,0,0,80,80,1", "v,10,1,0,0,0,80,80,1", "w,0,1,5,0,0,80,80,1"]
    root = cut_by_00(tmp_path, boxes, ["v.mp4,d,1280,720", "w.mp4,d,1280,720"])
    index = index_of(("v", 0, 1), ("v", 10, 1), ("v", 20, 1), ("w", 0, 1))
    facts = face_facts(index, root, tmp_path / "out")
    assert facts["track"].isna().tolist() == [True, True, True, False]
    assert facts["face_size"].tolist() == [80, 80, 160, 80]


def test_a_video_of_the_same_name_in_another_data_set_has_its_own_facts(tmp_path):
    for name, track in (("a", 1), ("b", 2)):
        cut_by_00(tmp_path / name, [f"v,0,1,{track},0,0,80,80,1"], [f"v.mp4,{name},640,360"])
    make_part(tmp_path / "c", ["v.mp4,REAL,,"])
    cut_by_00(tmp_path / "out" / "faces", ["v,0,1,3,0,0,80,80,1"], ["v.mp4,e,640,360"])
    index = pd.concat([index_of(("v", 0, 1), dataset=name) for name in "bca"], ignore_index=True)
    facts = face_facts(index, tmp_path, tmp_path / "out")
    assert facts["track"].fillna(-1).tolist() == [2, -1, 1]


def test_without_sizes_of_frames_the_side_alone_is_unknown(tmp_path):
    faces = cut_by_00(tmp_path / "out" / "faces", ["v,0,1,0,0,0,80,80,1"])
    (faces / "metadata.csv").unlink()
    data = make_part(tmp_path / "d", ["v.mp4,REAL,,"])
    facts = face_facts(index_of(("v", 0, 1)), data, tmp_path / "out")
    assert facts["track"].tolist() == [0] and facts["side"].isna().all()
    cut_by_00(faces, ["v,0,1,0,0,0,80,80,1"], ["v.mp4,d,,720"])
    facts = face_facts(index_of(("v", 0, 1)), data, tmp_path / "out")
    assert facts["track"].tolist() == [0] and facts["side"].isna().all()


def test_a_face_that_is_listed_twice_is_the_first(tmp_path):
    root = cut_by_00(tmp_path, ["v,0,1,4,0,0,80,80,1", "v,0,1,9,0,0,20,20,1", "v,,1,0,0,0,8,8,1"])
    facts = face_facts(index_of(("v", 0, 1)), root, tmp_path / "out")
    assert facts["track"].tolist() == [4]


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (BOXES.replace("track,", "") + "\nv,0,1,0,0,8,8,1\n", "track missing"),
        (BOXES + "\nv,0,1,0,0,0,wide,8,1\n", "is damaged: .*wide"),
        (BOXES + '\nv,0,1,0,"0\n', "cannot be read as CSV"),
        ("", "cannot be read as CSV"),
    ],
)
def test_damaged_boxes_are_named(tmp_path, content, what):
    root = cut_by_00(tmp_path, [])
    (root / "boxes.csv").write_text(content)
    with pytest.raises(ValueError, match=rf"boxes\.csv.*{what}"):
        face_facts(index_of(("v", 0, 1)), root, tmp_path / "out")
