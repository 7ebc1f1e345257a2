"""Data as people have it on their disks: recognised, kept honest, or refused with a way out.

Each test builds the tree that it is about; single pixels of noise are enough.
"""

import io
import json

import numpy as np
import pytest
from PIL import Image

from tools.run import run_pipeline
from utils.data.audit import count_known, describe_split, ensure_index, recognised
from utils.data.crops import crop_paths, read_crops, scan_crops
from utils.data.datasets import describe_videos, find_datasets, holds, index_videos
from utils.data.layouts import list_frames
from utils.data.splits import check_splits, split_crops
from utils.report.words import how_far_apart
from utils.run.artifacts import read_json, read_table

RNG = np.random.default_rng(0)


def picture(suffix="png"):
    buffer = io.BytesIO()
    kind = {"jpg": "JPEG", "jpeg": "JPEG"}.get(suffix.lower(), suffix.upper())
    Image.fromarray(RNG.integers(0, 255, (8, 8, 3), np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def put(root, *names):
    """Write pictures, each of its own pixels, and files that are named like videos."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        suffix = name.rpartition(".")[2]
        path.write_bytes(picture(suffix) if suffix.lower() in ("png", "jpg", "jpeg") else b"film")
    return root


def frames(folder, n=3, form="{:05}.png", first=1):
    return [f"{folder}/{form.format(first + k)}" for k in range(n)]


def by_video(crops):
    return crops.drop_duplicates(["dataset", "video"]).set_index("video")


def sides(index):
    """How many splits each folder of frames stands in."""
    return index.groupby(index["path"].str.rpartition("/")[0])["split"].nunique()


# --- folders of frames ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("real", "fake", "form", "inner"),
    [
        ("real", "fake", "{:05}.png", ""),
        ("Real", "FAKE", "frame_{:04}.jpg", ""),
        ("0_real", "1_fake", "{}_0.PNG", ""),
        ("training_real", "training_fake", "img{}.jpeg", "/faces"),
        ("real/deep", "fake/method", "{}.png", ""),
    ],
)
def test_a_folder_of_frames_is_a_video(tmp_path, real, fake, form, inner):
    for n in range(12):
        put(tmp_path, *frames(f"{real}/r{n}{inner}", form=form))
        put(tmp_path, *frames(f"{fake}/f{n}{inner}", form=form))
    crops, _ = read_crops(tmp_path)
    assert by_video(crops)["label"].value_counts().to_dict() == {"REAL": 12, "FAKE": 12}
    assert set(crops["face"]) == {1} and set(crops["frame"]) == {1, 2, 3}
    index, left_out, _ = split_crops(crops)
    assert left_out.empty and (sides(index) == 1).all()
    (told,) = recognised(index)
    assert told["told_apart"] == "24 videos, each a folder of frames" and not told["loose_images"]


def test_the_leak_of_frames_that_are_dealt_one_by_one_is_seen(tmp_path):
    """Were each image a video of its own, folders would stand on several sides."""
    for n in range(12):
        put(tmp_path, *frames(f"real/r{n}", 6), *frames(f"fake/f{n}", 6))
    crops, _ = scan_crops(tmp_path)
    index, _, _ = split_crops(crops.assign(video=crops["path"]))
    assert (sides(index) > 1).mean() > 0.5


def test_a_folder_of_one_method_is_no_video_and_the_audit_says_what_may_leak(tmp_path):
    put(tmp_path, *frames("fake/stylegan", 30), *frames("real/ffhq", 30))
    put(tmp_path, "real/ffhq/copy.png")
    (tmp_path / "real/ffhq/twin.png").write_bytes((tmp_path / "real/ffhq/copy.png").read_bytes())
    crops, _ = read_crops(tmp_path)
    assert by_video(crops)["method"].value_counts().to_dict() == {"original": 32, "stylegan": 30}
    index, _, by = split_crops(crops)
    assert by == "source" and "62 images say nothing of which belong" in describe_split(index, by)


def test_a_fake_folder_of_the_name_of_a_real_one_stays_with_it(tmp_path):
    for n in range(8):
        put(tmp_path, *frames(f"real/{n:03}"), *frames(f"fake/swap/{n:03}"))
    crops, _ = scan_crops(tmp_path)
    fakes = by_video(crops[crops["label"] == "FAKE"])
    assert (fakes["original"] == [f"real__{n:03}" for n in range(8)]).all()
    assert set(fakes["method"]) == {"swap"}
    index, _, _ = split_crops(crops)
    assert index["source"].nunique() == 8 and check_splits(index)["fakes_with_their_original"]


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "words", [("train", "valid", "test"), ("Training", "Validation", "TESTING")]
)
def test_the_given_split_is_kept(tmp_path, words, nested):
    top = "real_vs_fake/real-vs-fake/" if nested else ""
    for word, n in zip(words, (6, 3, 3)):
        put(tmp_path, *frames(f"{top}{word}/real", n), *frames(f"{top}{word}/fake", n))
    assert len(find_datasets(tmp_path)) == 1
    crops, _ = read_crops(tmp_path)
    index, left_out, by = split_crops(crops)
    assert by == "official" and left_out.empty
    where = index["path"].str.split("/").str[0]
    assert (index["split"] == where.map(dict(zip(words, ("train", "val", "test"))))).all()
    assert recognised(index)[0]["official"] == {"train": 12, "val": 6, "test": 6}


def test_a_given_split_below_the_classes_is_kept_too(tmp_path):
    for label in ("real", "fake"):
        for word, n in (("train", 6), ("test", 3)):
            put(tmp_path, *frames(f"{label}/{word}", n))
    index, _, by = split_crops(read_crops(tmp_path)[0])
    assert by == "official" and set(index.loc[index["path"].str.contains("test"), "split"]) == {
        "test"
    }


# --- tables -------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("Train", "Validation", "Test"), ("training", "dev", "TESTING")])
def test_a_column_of_splits_is_kept_in_any_words(tmp_path, words):
    lines = ["filename,label,split,original"]
    for n in range(12):
        put(tmp_path, f"r{n}/1.png", f"f{n}/1.png")
        lines += [f"r{n}.mp4,REAL,{words[n % 3]},", f"f{n}.mp4,FAKE,{words[n % 3]},r{n}.mp4"]
    (tmp_path / "metadata.csv").write_text("\n".join(lines))
    index, _, by = split_crops(read_crops(tmp_path)[0])
    assert by == "official"
    number = index["video"].str[1:].astype(int) % 3
    assert (index["split"] == number.map({0: "train", 1: "val", 2: "test"})).all()


@pytest.mark.parametrize(("real", "fake"), [("0", "1"), ("real", "Fake"), ("0.0", "1.0")])
def test_labels_are_read_in_their_usual_words(tmp_path, real, fake):
    put(tmp_path / "films", "a.mp4", "b.mp4")
    (tmp_path / "films" / "labels.csv").write_text(f"filename,label\na.mp4,{real}\nb.mp4,{fake}\n")
    put(tmp_path / "dfdc", "c.mp4", "d.mp4")
    table = {"c.mp4": {"label": real}, "d.mp4": {"label": fake, "original": "c.mp4"}}
    (tmp_path / "dfdc" / "metadata.json").write_text(json.dumps(table))
    videos = index_videos(tmp_path).set_index("video")
    assert videos["label"].to_dict() == {"a": "REAL", "b": "FAKE", "c": "REAL", "d": "FAKE"}
    assert videos.loc["d", "method"] == "unknown" and videos.loc["c", "method"] == "original"
    put(tmp_path / "crops", "a/1.png", "b/1.png")
    rows = f"filename,label,original\na.mp4,{real},\nb.mp4,{fake},a.mp4\n"
    (tmp_path / "crops" / "metadata.csv").write_text(rows)
    crops, _ = scan_crops(tmp_path / "crops")
    assert crops["label"].tolist() == ["REAL", "FAKE"]
    (told,) = recognised(crops)
    digits = real[0] == "0"
    assert (f"{fake} read as FAKE: 1 videos" in told["labels"]) == digits


@pytest.mark.parametrize("name", ["labels.csv", "metadata.json", "metadata.csv"])
def test_an_unknown_word_is_counted_and_the_known_ones_are_named(tmp_path, name):
    put(tmp_path, "a/1.png", "b/1.png", "c/1.png")
    if name.endswith("json"):
        content = json.dumps({f"{v}.mp4": {"label": "spoof"} for v in "abc"})
    else:
        content = "filename,label,original\n" + "".join(f"{v}.mp4,spoof,\n" for v in "abc")
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=r"3 unknown label 'spoof'") as caught:
        scan_crops(tmp_path)
    for words in ("real, 0, fake, 1", "real/ and fake/", "labels.csv"):
        assert words in str(caught.value)


def test_labels_may_name_images_and_folders_too(tmp_path):
    put(tmp_path, "x/1.png", "x/2.png", "y/one.png", "y/two.png")
    rows = "filename,label,original,person\nx,real,,ann\ny/one.png,fake,x,ann+bob\ntwo,fake,x,\n"
    (tmp_path / "labels.csv").write_text(rows)
    crops, left_out = scan_crops(tmp_path)
    videos = by_video(crops)
    assert videos["label"].to_dict() == {"x": "REAL", "one": "FAKE", "two": "FAKE"}
    assert videos["original"].to_dict() == {"x": "", "one": "x", "two": "x"}
    name = tmp_path.name
    assert videos.loc["one", "person"] == f"{name}:ann+{name}:bob" and left_out.empty


# --- FaceForensics++ and Celeb-DF ---------------------------------------------------------------


def ff_tree(root, *, kind="frames", deep=False, pairs=6):
    """Twice as many originals as pairs, a fake of each with its pair's other face."""
    for n in range(pairs):
        one, two = f"{2 * n:03}", f"{2 * n + 1:03}"
        below = f"{{}}/{kind}" if deep else f"{kind}/{{}}"
        for number in (one, two):
            put(root, *frames(f"original_sequences/youtube/c23/{below.format(number)}", 2))
        for a, b in ((one, two), (two, one)):
            fake = below.format(f"{a}_{b}")
            put(root, *frames(f"manipulated_sequences/Deepfakes/c23/{fake}", 2))
    return root


@pytest.mark.parametrize("kind", ["frames", "faces", "images", "face_images", "Faces"])
@pytest.mark.parametrize("deep", [False, True])
def test_crops_in_the_tree_of_faceforensics_are_read_like_its_videos(tmp_path, kind, deep):
    ff_tree(tmp_path, kind=kind, deep=deep)
    crops, left_out = read_crops(tmp_path)
    videos = by_video(crops)
    assert left_out.empty and len(videos) == 24
    fake = videos.loc["Deepfakes_004_005"]
    assert (fake["original"], fake["method"], fake["label"]) == ("004", "Deepfakes", "FAKE")
    assert fake["person"] == f"{tmp_path.name}:004+{tmp_path.name}:005"
    index, _, by = split_crops(crops)
    assert by == "person" and count_known(index)["test_videos_known"] == 0
    assert count_known(index)["test_videos_unknown"] == 0
    assert crop_paths(index, tmp_path)[0].endswith(".png")


@pytest.mark.parametrize("where", ["", "splits/"])
def test_lists_of_faceforensics_are_found_beside_its_folders_too(tmp_path, where):
    ff_tree(tmp_path)
    for split, pair in (("train", range(8)), ("val", (8, 9)), ("test", (10, 11))):
        path = tmp_path / f"{where}{split}.json"
        path.parent.mkdir(exist_ok=True)
        numbers = [f"{n:03}" for n in pair]
        path.write_text(json.dumps([numbers[k : k + 2] for k in range(0, len(numbers), 2)]))
    index, _, by = split_crops(read_crops(tmp_path)[0])
    assert by == "official"
    assert set(index.loc[index["video"].str.contains("010|011"), "split"]) == {"test"}
    assert count_known(index)["test_videos_known"] == 0


def test_two_kinds_of_pictures_of_one_video_are_not_two_videos(tmp_path):
    ff_tree(ff_tree(tmp_path, kind="frames"), kind="faces")
    put(tmp_path, "manipulated_sequences/Deepfakes/c23/masks/000_001/1.png")
    crops, _ = scan_crops(tmp_path)
    assert len(by_video(crops)) == 24 and crops["path"].str.contains("/faces/").all()


def test_compressions_of_crops_are_data_sets_and_are_found_again(tmp_path):
    ff_tree(tmp_path)
    put(tmp_path, *frames("original_sequences/youtube/c40/frames/004", 2))
    crops, _ = scan_crops(tmp_path)
    assert set(crops["dataset"]) == {f"{tmp_path.name}-c23", f"{tmp_path.name}-c40"}
    again = by_video(crops).loc["004_c40"]
    assert again["original"] == "004_c23" and again["person"] == f"{tmp_path.name}:004"
    assert len(crop_paths(crops, tmp_path)) == len(crops)


@pytest.mark.parametrize("form", ["{}/{}/", "{}/frames/{}/", "{}/{}/faces/"])
def test_crops_in_the_tree_of_celebdf_are_read_like_its_videos(tmp_path, form):
    for n in range(9):
        put(tmp_path, f"{form.format('Celeb-real', f'id{n}_0000')}045.png")
        fake = f"id{n}_id{(n + 1) % 9}_0000"
        put(tmp_path, f"{form.format('Celeb-synthesis', fake)}045.png")
        put(tmp_path, f"{form.format('Youtube-real', f'{n:05}')}045.png")
    crops, left_out = read_crops(tmp_path)
    videos = by_video(crops)
    assert left_out.empty and len(videos) == 27
    fake, name = videos.loc["id3_id4_0000"], tmp_path.name
    assert (fake["original"], fake["person"]) == ("id3_0000", f"{name}:id3+{name}:id4")
    assert (videos.loc["00003", "label"], videos.loc["00003", "person"]) == ("REAL", "")
    # Donors link all people: the split is by target, and the audit counts who is seen on both.
    index, _, by = split_crops(crops, by="person")
    known = count_known(index)
    assert by == "person" and known["test_videos_known"] > 0 < known["test_videos_unknown"]
    targets = index[index["person"] != ""]
    assert (targets.groupby(targets["person"].str.split("+").str[0])["split"].nunique() == 1).all()


def test_methods_of_celebdf_plus_plus_are_its_folders(tmp_path):
    put(tmp_path, "Celeb-real/videos/id0_0000.mp4", "Youtube-real/videos/00001.mp4")
    for kind, method in (("FaceSwap", "SimSwap"), ("FaceSwap", "BlendFace"), ("TalkingFace", "X")):
        put(tmp_path, f"Celeb-synthesis/{kind}/{method}/id0_id1_0000.mp4")
    videos = index_videos(tmp_path).set_index("video")
    assert set(videos["reason"]) == {""}
    assert videos["label"].value_counts().to_dict() == {"FAKE": 3, "REAL": 2}
    assert videos.loc["SimSwap_id0_id1_0000", "method"] == "SimSwap"
    assert set(videos.loc[videos["label"] == "FAKE", "original"]) == {"id0_0000.mp4"}


# --- videos in folders --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("real", "fake"), [("real", "fake"), ("0_real", "1_fake"), ("test/Real", "test/Fake")]
)
def test_videos_in_folders_of_their_label_start_at_00(tmp_path, real, fake):
    put(tmp_path, f"{real}/a.mp4", f"{real}/deep/b.MOV", f"{fake}/swap/a.mp4", f"{fake}/c.mp4")
    (dataset,) = find_datasets(tmp_path)
    assert holds(dataset) == {"videos"}
    videos = index_videos(tmp_path).set_index("filename")
    assert videos["label"].value_counts().to_dict() == {"REAL": 2, "FAKE": 2}
    twin = videos.loc[f"{fake}/swap/a.mp4"]
    assert (twin["original"], twin["method"]) == (f"{real}/a.mp4", "swap")
    assert videos["video"].is_unique and not videos["video"].str.contains("/").any()
    with pytest.raises(FileNotFoundError, match="run 00_extract_faces on it first"):
        scan_crops(tmp_path)


def test_videos_of_one_class_are_refused_before_any_is_cut(tmp_path):
    put(tmp_path / "data", "Celeb-real/id0_0000.mp4")
    with pytest.raises(
        ValueError, match="nothing is labelled FAKE, and both classes are"
    ) as caught:
        run_pipeline(tmp_path / "data", tmp_path / "out")
    assert "TO=00_extract_faces" in str(caught.value) and not (tmp_path / "out").exists()


def test_00_alone_says_that_01_will_need_the_other_class(tmp_path):
    put(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "labels.csv").write_text("filename,label\na.mp4,1\nb.mp4,<b>*real*\n")
    told = describe_videos(index_videos(tmp_path))
    assert "1 of 2 videos can be used" in told and "1 read as FAKE: 1 videos" in told
    assert "nothing is labelled REAL" in told and "unknown label" in told
    assert "<b>" not in told  # names from the data are no markup
    (tmp_path / "labels.csv").write_text("filename,label\na.mp4,1\nb.mp4,real\n")
    assert "01_explore_data" not in describe_videos(index_videos(tmp_path))


# --- names of frames ----------------------------------------------------------------------------


def test_faces_are_counted_from_one_however_their_names_count():
    found, others = list_frames(["12_0.png", "12_1.png", "13_0.png", "x.png"], "v")
    assert found == [(12, 1, "12_0.png"), (12, 2, "12_1.png"), (13, 1, "13_0.png")]
    assert others == ["x.png"]
    found, _ = list_frames(["v_7.jpg", "v_8.jpg"], "v")
    assert found == [(7, 1, "v_7.jpg"), (8, 1, "v_8.jpg")]
    found, others = list_frames(["7.png", "7_2.png", "7_1.png"], "v")
    assert found == [(7, 1, "7.png"), (7, 2, "7_2.png")] and others == ["7_1.png"]


# --- ways out -----------------------------------------------------------------------------------


def test_no_message_sends_anybody_in_a_circle(tmp_path):
    (tmp_path / "Celeb-real").mkdir()
    for read in (index_videos, scan_crops):
        with pytest.raises(
            FileNotFoundError, match=r"Two ways to label data of your own"
        ) as caught:
            read(tmp_path)
        assert "00_extract" not in str(caught.value) and "01_explore" not in str(caught.value)


@pytest.mark.parametrize("to", ["outside", "/"])
def test_a_linked_folder_that_leads_out_of_data_is_not_followed(tmp_path, to):
    for n in range(4):
        put(tmp_path / "outside", *frames(f"real/r{n}"), *frames(f"fake/f{n}"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / to)
    with pytest.raises(FileNotFoundError, match=r"data/link leads out of it and was not followed"):
        find_datasets(tmp_path / "data")
    put(tmp_path / "data", *frames("real/r9"), *frames("fake/f9"))
    (tmp_path / "data" / "real" / "more").symlink_to(tmp_path / "outside" / "real")
    crops, left_out = scan_crops(tmp_path / "data")
    assert len(crops) == 6 and set(left_out["reason"]) == {"link out of the data set"}


# --- people and groups --------------------------------------------------------------------------


def parted(root, parts, n=6):
    for part in parts:
        folder = root / f"deepfake-detection-faces-part-{part}"
        lines = ["filename,label,split,original"]
        for k in range(n):
            name = f"{part}x{k}".replace("-", "y")
            put(folder, f"r{name}/1.png", f"f{name}/1.png")
            lines += [f"r{name}.mp4,REAL,train,", f"f{name}.mp4,FAKE,train,r{name}.mp4"]
        (folder / "metadata.csv").write_text("\n".join(lines))
    return root


def test_parts_that_are_attached_together_are_groups(tmp_path):
    parted(tmp_path, [f"{a}-{b}" for a in range(10) for b in (0, 1)])
    ensure_index(tmp_path, tmp_path / "out")
    index = read_table(tmp_path / "out", "index.csv")
    audit = read_json(tmp_path / "out", "data_audit.json")
    assert audit["split_by"] == "group" and set(index["group"]) == {f"part_{a}" for a in range(10)}
    assert (index.groupby("group")["split"].nunique() == 1).all()
    assert (audit["known_by"], audit["test_videos_known"]) == ("group", 0)


def test_a_few_parts_give_no_split_and_sources_do(tmp_path):
    index, _, by = split_crops(read_crops(parted(tmp_path, ["0-0", "1-0"], n=8))[0])
    assert by == "source" and count_known(index)["test_videos_known"] > 0
    with pytest.raises(ValueError, match="train, val and test need one each"):
        split_crops(read_crops(tmp_path)[0], by="group")


def index_of_fours(root, columns, value):
    """One crop a video, six times two of either class that share what a column says."""
    lines = [f"videoname,label,original,{columns}"]
    for n in range(24):
        put(root, f"faces_224/v{n}.jpg")
        lines.append(f"v{n}.mp4,{'REAL' if n % 2 else 'FAKE'},,{value.format(n // 4)}")
    (root / "metadata.csv").write_text("\n".join(lines))
    ensure_index(root, root / "out")


def test_a_plus_joins_people_and_is_part_of_the_name_of_a_group(tmp_path):
    index_of_fours(tmp_path, "group", "studio+{}")
    audit = read_json(tmp_path / "out", "data_audit.json")
    assert (audit["split_by"], audit["test_videos_known"]) == ("group", 0)
    assert [rung["split"] for rung in audit["leakage_ladder"]][-1] == "group"


def test_a_column_of_people_keeps_them_apart_and_stays_text(tmp_path):
    index_of_fours(tmp_path, "person,part", "00{},")
    index = read_table(tmp_path / "out", "index.csv")
    assert set(index["person"]) == {f"{tmp_path.name}:00{k}" for k in range(6)}
    assert (index.groupby("person")["split"].nunique() == 1).all()
    assert read_json(tmp_path / "out", "data_audit.json")["split_by"] == "person"


@pytest.mark.parametrize(
    ("by", "says"),
    [
        ("somehow", "accepted: auto, official, person, group, source"),
        ("person", "nothing in the data tells of that; known: source"),
        ("official", "nothing in the data tells of that; known: source"),
    ],
)
def test_a_way_to_split_that_is_not_there_is_refused(tmp_path, by, says):
    put(tmp_path, *frames("real", 4), *frames("fake", 4))
    with pytest.raises(ValueError, match=says):
        split_crops(read_crops(tmp_path)[0], by=by)


def audit_of(**changes):
    plain = {"split_by": "source", "known_by": "", "datasets": [{"loose_images": 0}]}
    counts = {"test_videos": 9, "test_videos_known": 0, "test_videos_unknown": 9}
    return plain | counts | changes


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({}, "whether test videos show people who were trained on is not known"),
        ({"split_by": "official"}, "The official split was kept"),
        (
            {"split_by": "person", "known_by": "person", "test_videos_unknown": 0},
            "The split is by person; 0 of 9 test videos show a person who was trained on.",
        ),
        (
            {"known_by": "group", "test_videos_known": 5, "test_videos_unknown": 2},
            "5 of 9 test videos are of a group, such as DFDC's part, that was trained on; of 2 "
            "that is not known; whether test videos show people who were trained on is not known.",
        ),
        ({"datasets": [{"loose_images": 62}]}, "62 images say nothing of which belong together"),
    ],
)
def test_the_report_says_how_far_apart_the_splits_are(changes, says):
    assert says in how_far_apart(audit_of(**changes))


def test_an_audit_of_before_says_nothing_of_it():
    assert how_far_apart({}) == ""
