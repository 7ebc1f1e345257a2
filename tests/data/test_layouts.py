"""Every known layout is found where it lies, and raw videos are listed with what is known."""

import json

import pytest

from utils.data import datasets
from utils.data.datasets import find_datasets, index_videos
from utils.data.layouts import Dataset, read_crop_metadata
from utils.run import machine


def touch(root, *names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"video")
    return root


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
    return path


def faces_part(root):
    write(root / "metadata.csv", "filename,label,split,original\na.mp4,REAL,train,\n")
    return root


def by_video(table):
    assert table["video"].is_unique
    return table.set_index("video").to_dict("index")


@pytest.fixture
def ff(tmp_path):
    return touch(
        tmp_path / "ff",
        "original_sequences/youtube/c23/videos/004.mp4",
        "original_sequences/youtube/c23/videos/982.mp4",
        "manipulated_sequences/Deepfakes/c23/videos/004_982.mp4",
        "manipulated_sequences/FaceSwap/c23/videos/982_004.mp4",
    )


# --- finding ------------------------------------------------------------------------------------


def test_every_layout_is_recognised_by_its_marker(tmp_path):
    faces_part(tmp_path / "part-0-0")
    write(tmp_path / "second" / "metadata.csv", "videoname,label,original\n")
    (tmp_path / "loose" / "REAL").mkdir(parents=True)
    touch(tmp_path / "dfdc", "metadata.json", "a.mp4")
    (tmp_path / "ff" / "original_sequences").mkdir(parents=True)
    (tmp_path / "celeb" / "Celeb-synthesis").mkdir(parents=True)
    assert {dataset.name: dataset.layout for dataset in find_datasets(tmp_path)} == {
        **{"part-0-0": "faces", "second": "deepfake_faces", "loose": "folders"},
        **{"dfdc": "dfdc", "ff": "faceforensics", "celeb": "celebdf"},
    }


def test_a_metadata_json_without_videos_is_no_data_set(tmp_path):
    touch(tmp_path, "metadata.json", "notes.txt")
    with pytest.raises(FileNotFoundError, match="no known data set"):
        find_datasets(tmp_path)


def test_the_folder_itself_may_be_the_data_set(tmp_path):
    root = faces_part(tmp_path / "part")
    assert find_datasets(root) == [Dataset("part", root, "faces")]


def test_parts_of_one_name_get_names_of_their_own(tmp_path):
    for top in "ab":
        faces_part(tmp_path / top / "part")
    assert [dataset.name for dataset in find_datasets(tmp_path)] == ["part", "b-part"]


def test_both_kaggle_mount_forms_are_searched(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "KAGGLE_INPUT", tmp_path)
    places = ["old-slug", "datasets/owner/new-slug", "notebooks/owner/run/faces"]
    roots = [faces_part(tmp_path / place) for place in places]
    assert {dataset.root for dataset in find_datasets("")} == set(roots)


def test_the_mount_folder_may_be_named_too(tmp_path):
    root = faces_part(tmp_path / "datasets" / "owner" / "slug" / "inner")
    assert [dataset.root for dataset in find_datasets(tmp_path)] == [root]


def test_nothing_attached_says_what_is_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "KAGGLE_INPUT", tmp_path)
    with pytest.raises(FileNotFoundError, match="attached Kaggle inputs: looked for metadata"):
        find_datasets("")


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"DATA or EXTRA_DATA '.*absent' is not a folder"):
        find_datasets(tmp_path / "absent")


def test_a_folder_that_holds_itself_by_a_link_ends_and_counts_once(tmp_path):
    root = faces_part(tmp_path / "top" / "part")
    (tmp_path / "top" / "again").symlink_to(tmp_path / "top")
    (tmp_path / "top" / "other-name").symlink_to(root)
    assert [dataset.root for dataset in find_datasets(tmp_path)] == [root]


def test_no_folder_is_judged_twice_however_many_links_lead_to_it(tmp_path, monkeypatch):
    judged = []
    layout = datasets.layout_of
    monkeypatch.setattr(datasets, "layout_of", lambda *folder: judged.append(1) or layout(*folder))
    faces_part(tmp_path / "top" / "part")
    for n in range(3):
        (tmp_path / "top" / f"again-{n}").symlink_to(tmp_path)
    find_datasets(tmp_path)
    assert len(judged) == 3


def test_a_link_deep_down_does_not_hide_what_lies_higher(tmp_path):
    root = faces_part(tmp_path / "z" / "1" / "2" / "part")
    (tmp_path / "a" / "1" / "2" / "3").mkdir(parents=True)
    (tmp_path / "a" / "1" / "2" / "3" / "link").symlink_to(tmp_path / "z")
    faces_part(tmp_path / "deep" / "2" / "3" / "4" / "5" / "6")  # one folder too deep
    assert [dataset.root for dataset in find_datasets(tmp_path)] == [root]


def test_a_link_to_itself_does_not_hide_the_data_set_beside_it(tmp_path):
    root = faces_part(tmp_path / "part")
    (tmp_path / "loop").symlink_to("loop")
    assert [dataset.root for dataset in find_datasets(tmp_path)] == [root]


# --- metadata.csv -------------------------------------------------------------------------------


def read(root, text, layout="faces"):
    root.mkdir(exist_ok=True)
    (root / "metadata.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_crop_metadata(Dataset("part", root, layout))


def test_names_like_nan_or_numbers_keep_their_text(tmp_path):
    table = read(tmp_path, "filename,label,original\nnan,REAL,\nNA,FAKE,004\n004,REAL,null\n")
    assert table["filename"].tolist() == ["nan", "NA", "004"]
    assert table["original"].tolist() == ["", "004", "null"]


def test_a_bom_and_quoted_newlines_are_read(tmp_path):
    table = read(tmp_path, b'\xef\xbb\xbf"filename","label","original"\r\n"a\nb.mp4",REAL,""\r\n')
    assert table["filename"].tolist() == ["a\nb.mp4"]


@pytest.mark.filterwarnings("ignore::pandas.errors.ParserWarning")  # newer pandas tell of it
def test_a_comma_at_the_end_of_each_line_shifts_no_column(tmp_path):
    table = read(tmp_path, "filename,label,original\na.mp4,REAL,,\nb.mp4,FAKE,a.mp4,\n")
    assert table["filename"].tolist() == ["a.mp4", "b.mp4"]
    assert table["label"].tolist() == ["REAL", "FAKE"]


def test_a_line_that_ends_early_has_empty_cells(tmp_path):
    table = read(tmp_path, "filename,label,original\na.mp4,REAL\nb.mp4\n")
    assert table["label"].tolist() == ["REAL", ""]
    assert table["original"].tolist() == ["", ""]


@pytest.mark.parametrize(
    ("header", "layout", "missing"),
    [
        ("filename,label,split", "faces", "original"),
        ("filename,original", "faces", "label"),
        ("name,label,original", "faces", "filename"),
        ("filename,label,original", "deepfake_faces", "videoname"),
        ("x", "faces", "filename, label, original"),
    ],
)
def test_missing_columns_name_the_file_and_the_columns(tmp_path, header, layout, missing):
    with pytest.raises(ValueError, match=rf"metadata\.csv: column {missing} missing"):
        read(tmp_path, header + "\n", layout)


def test_the_columns_of_notebook_00_are_used_and_gaps_filled(tmp_path):
    table = read(
        tmp_path,
        "filename,label,split,original,dataset,method,fps,width,height\n"
        "a.mp4,FAKE,test,o.mp4,dfdc_train_part_0,swap,30,640,480\n"
        "b.mp4,REAL,train,,,,30,640,480\n",
    )
    assert table["dataset"].tolist() == ["dfdc_train_part_0", "part"]
    assert table["method"].tolist() == ["swap", ""]
    assert table["split"].tolist() == ["test", "train"]


def test_a_split_column_that_only_says_train_is_no_official_split(tmp_path):
    table = read(tmp_path, "filename,label,split,original\na,REAL,train,\nb,FAKE,train,a\n")
    assert table["split"].tolist() == ["", ""]


# --- raw videos: DFDC ---------------------------------------------------------------------------


def test_dfdc_videos_are_listed_from_metadata_json(tmp_path):
    part = touch(tmp_path / "dfdc_train_part_3", "real.mp4", "fake.mp4", "own.mp4", "extra.MP4")
    metadata = {
        "real.mp4": {"label": "REAL", "split": "train", "original": None},
        "fake.mp4": {"label": "FAKE", "split": "train", "original": "real.mp4"},
        "own.mp4": {"label": "FAKE", "split": "train", "original": "real.mp4", "method": "warp"},
        "gone.mp4": {"label": "REAL", "split": "train", "original": None},
    }
    write(part / "metadata.json", metadata)
    videos = by_video(index_videos(tmp_path))
    assert {name: (v["label"], v["original"], v["method"]) for name, v in videos.items()} == {
        "real": ("REAL", "", "original"),
        "fake": ("FAKE", "real.mp4", "unknown"),
        "own": ("FAKE", "real.mp4", "warp"),
        "gone": ("REAL", "", "original"),
        "extra": ("", "", "unknown"),
    }
    assert {name: v["reason"] for name, v in videos.items() if v["reason"]} == {
        "gone": "listed but absent",
        "extra": "not listed in metadata.json",
    }
    assert {v["split"] for v in videos.values()} == {""}
    assert videos["real"]["path"] == str(part / "real.mp4")
    assert {v["dataset"] for v in videos.values()} == {"dfdc_train_part_3"}


def test_several_dfdc_parts_stand_side_by_side(tmp_path):
    for n in (0, 1):
        part = touch(tmp_path / f"dfdc_train_part_{n}", f"v{n}.mp4")
        write(part / "metadata.json", {f"v{n}.mp4": {"label": "REAL"}})
    assert index_videos(tmp_path)["dataset"].tolist() == ["dfdc_train_part_0", "dfdc_train_part_1"]


@pytest.mark.parametrize("name", ["../x.mp4", "{outside}/x.mp4", "a/b.mp4", "", "..", "linked.mp4"])
def test_no_dfdc_name_reaches_a_video_outside(tmp_path, name):
    outside = touch(tmp_path, "x.mp4")
    part = touch(tmp_path / "part", "good.mp4", "a/b.mp4")
    (part / "linked.mp4").symlink_to(outside / "x.mp4")
    name = name.format(outside=outside)
    write(part / "metadata.json", {"good.mp4": {"label": "REAL"}, name: {"label": "FAKE"}})
    videos = index_videos(part)
    usable = videos[videos["reason"] == ""]
    assert usable["filename"].tolist() == ["good.mp4"]
    assert name in videos["filename"].tolist()


def test_an_unknown_dfdc_label_is_counted(tmp_path):
    write(touch(tmp_path, "a.mp4") / "metadata.json", {"a.mp4": {"label": "bonafide"}})
    (reason,) = index_videos(tmp_path)["reason"]
    assert reason == "unknown label 'bonafide'"


@pytest.mark.parametrize("content", ["{", "[]", '{"a.mp4": "FAKE"}'])
def test_a_damaged_metadata_json_is_named(tmp_path, content):
    write(touch(tmp_path, "a.mp4") / "metadata.json", content)
    with pytest.raises(ValueError, match=r"metadata\.json (is not valid JSON|does not hold)"):
        index_videos(tmp_path)


def test_two_videos_of_one_id_are_refused(tmp_path):
    for part in ("one", "two"):
        write(touch(tmp_path / part, "v.mp4") / "metadata.json", {"v.mp4": {"label": "REAL"}})
    with pytest.raises(ValueError, match=r"share the id 'v': .*one/v\.mp4 and .*two/v\.mp4"):
        index_videos(tmp_path)


def test_crops_alone_are_no_videos(tmp_path):
    faces_part(tmp_path / "part")
    with pytest.raises(FileNotFoundError, match=r"no raw videos .*start with 01_explore_data"):
        index_videos(tmp_path)


def test_a_video_data_set_without_a_video_is_refused(tmp_path):
    (tmp_path / "Celeb-real").mkdir()
    with pytest.raises(FileNotFoundError, match="no raw videos"):
        index_videos(tmp_path)


# --- raw videos: FaceForensics++ ----------------------------------------------------------------


def test_faceforensics_gives_method_and_original(ff):
    videos = by_video(index_videos(ff))
    assert {name: (v["label"], v["original"], v["method"]) for name, v in videos.items()} == {
        "004": ("REAL", "", "original"),
        "982": ("REAL", "", "original"),
        "Deepfakes_004_982": ("FAKE", "004.mp4", "Deepfakes"),
        "FaceSwap_982_004": ("FAKE", "982.mp4", "FaceSwap"),
    }
    assert {v["split"] for v in videos.values()} == {""}


def test_faceforensics_uses_its_official_pairs(ff):
    write(ff / "splits" / "test.json", [["004", "982"]])
    write(ff / "splits" / "train.json", [["071", "054"]])
    touch(ff, "original_sequences/youtube/c23/videos/071.mp4")
    touch(ff, "original_sequences/youtube/c23/videos/500.mp4")
    split = index_videos(ff).set_index("video")["split"]
    assert split.to_dict() == {
        **{"004": "test", "982": "test", "Deepfakes_004_982": "test", "FaceSwap_982_004": "test"},
        **{"071": "train", "500": ""},
    }


def test_a_damaged_official_list_is_named(ff):
    write(ff / "splits" / "val.json", "[[")
    with pytest.raises(ValueError, match=r"val\.json is not valid JSON"):
        index_videos(ff)


def test_compressions_are_kept_apart_and_linked_to_the_first(ff):
    touch(ff, "original_sequences/youtube/c40/videos/004.mp4")
    touch(ff, "manipulated_sequences/Deepfakes/c40/videos/004_982.mp4")
    videos = by_video(index_videos(ff))
    assert videos["004_c23"]["original"] == ""
    assert videos["004_c40"]["original"] == "004_c23.mp4"
    assert videos["Deepfakes_004_982_c40"]["original"] == "004_c40.mp4"
    assert videos["Deepfakes_004_982_c23"]["original"] == "004_c23.mp4"
    assert videos["004_c40"]["label"] == "REAL" and videos["004_c40"]["method"] == "original"
    assert {v["dataset"] for v in videos.values()} == {"ff-c23", "ff-c40"}


def test_the_masks_beside_the_fakes_are_no_fakes(ff):
    before = len(index_videos(ff))
    touch(ff, "manipulated_sequences/Deepfakes/masks/videos/004_982.mp4")
    assert len(index_videos(ff)) == before


def test_actors_of_deepfakedetection_are_linked_by_actor_and_scene(ff):
    touch(ff, "original_sequences/actors/c23/videos/01__exit.mp4")
    touch(ff, "manipulated_sequences/DeepFakeDetection/c23/videos/01_02__exit__YVGY8LOK.mp4")
    fake = by_video(index_videos(ff))["DeepFakeDetection_01_02__exit__YVGY8LOK"]
    assert (fake["original"], fake["label"]) == ("01__exit.mp4", "FAKE")


# --- raw videos: Celeb-DF v2 --------------------------------------------------------------------


def test_celebdf_links_fakes_and_reads_its_list_where_1_means_real(tmp_path):
    touch(tmp_path, "Celeb-real/id0_0000.mp4", "Celeb-real/id1_0000.mp4", "YouTube-real/00170.mp4")
    touch(tmp_path, "Celeb-synthesis/id0_id1_0000.mp4", "Celeb-synthesis/id1_id0_0002.mp4")
    listing = "1 YouTube-real/00170.mp4\n1 Celeb-real/id0_0000.mp4\n"
    listing += "0 Celeb-synthesis/id0_id1_0000.mp4\n\n"
    write(tmp_path / "List_of_testing_videos.txt", listing)
    videos = by_video(index_videos(tmp_path))
    assert {name: (v["label"], v["original"], v["split"]) for name, v in videos.items()} == {
        "00170": ("REAL", "", "test"),
        "id0_0000": ("REAL", "", "test"),
        "id1_0000": ("REAL", "", ""),
        "id0_id1_0000": ("FAKE", "id0_0000.mp4", "test"),
        "id1_id0_0002": ("FAKE", "id1_0002.mp4", ""),
    }
    assert videos["id0_id1_0000"]["method"] == "Celeb-synthesis"


def test_celebdf_with_a_list_in_another_encoding_is_not_split_without_it(tmp_path):
    touch(tmp_path, "Celeb-real/id0_0000.mp4")
    listing = tmp_path / "List_of_testing_videos.txt"
    listing.write_text("1 Celeb-real/id0_0000.mp4\n", encoding="utf-8-sig")
    assert set(index_videos(tmp_path)["split"]) == {"test"}
    listing.write_text("1 Celeb-real/id0_0000.mp4\n", encoding="utf-16")
    with pytest.raises(ValueError, match=r"List_of_testing_videos\.txt is not UTF-8"):
        index_videos(tmp_path)


def test_celebdf_without_its_list_has_no_official_split(tmp_path):
    touch(tmp_path, "Celeb-real/id0_0000.mp4", "Celeb-synthesis/id0_id1_0000.mp4")
    assert set(index_videos(tmp_path)["split"]) == {""}


# --- raw videos: any folder with a table of labels ------------------------------------------------


def labelled(root, text, *films, name="labels.csv"):
    write(touch(root, *films) / name, text)
    return root


def test_any_folder_of_videos_with_labels_is_a_data_set(tmp_path):
    text = (
        "Filename, Label ,original,method,split,comment\n"
        "real/a.mp4,real,,,train,x\n"
        "b.MOV,FAKE,a.mp4,swap,test,\n"
        "c,Fake,real/a.mp4,,dev,\n"
        "gone.mp4,REAL,,,,\n"
        "odd.mp4,maybe,,,,\n"
        "blank.mp4,,,,,\n"
    )
    films = ["real/a.mp4", "fake/deep/b.MOV", "fake/c.mkv", "odd.mp4", "blank.mp4", "extra.avi"]
    root = labelled(tmp_path / "mine", text, *films)
    assert find_datasets(tmp_path) == [Dataset("mine", root, "labelled")]
    videos = by_video(index_videos(tmp_path))
    assert {name: (v["filename"], v["label"], v["original"]) for name, v in videos.items()} == {
        "a": ("real/a.mp4", "REAL", ""),
        "b": ("fake/deep/b.MOV", "FAKE", "real/a.mp4"),
        "c": ("fake/c.mkv", "FAKE", "real/a.mp4"),
        "gone": ("gone.mp4", "REAL", ""),
        "odd": ("odd.mp4", "maybe", ""),
        "blank": ("blank.mp4", "(none)", ""),
        "extra": ("extra.avi", "", ""),
    }
    assert [videos[name]["method"] for name in "abc"] == ["original", "swap", "unknown"]
    assert [videos[name]["split"] for name in "abc"] == ["train", "test", "val"]
    assert videos["b"]["path"] == str(root / "fake" / "deep" / "b.MOV")
    assert {name: v["reason"] for name, v in videos.items() if v["reason"]} == {
        "gone": "listed but absent",
        "odd": "unknown label 'maybe'",
        "blank": "unknown label '(none)'",
        "extra": "not listed in the table of labels",
    }


def test_the_table_may_have_any_name_and_labels_csv_comes_first(tmp_path):
    labelled(tmp_path, "filename,label\na.mp4,FAKE\n", "a.mp4", name="clips.csv")
    write(tmp_path / "another.csv", "filename,width\na.mp4,640\n")
    assert index_videos(tmp_path)["label"].tolist() == ["FAKE"]
    write(tmp_path / "labels.csv", "filename,label\na.mp4,REAL\n")
    assert index_videos(tmp_path)["label"].tolist() == ["REAL"]


def test_a_metadata_csv_beside_its_videos_lists_videos_and_otherwise_crops(tmp_path):
    text = "filename,label,split,original\na.mp4,REAL,train,\n"
    labelled(tmp_path / "videos", text, "a.mp4", name="metadata.csv")
    labelled(tmp_path / "crops", text, "a/0.png", name="metadata.csv")
    layouts = {dataset.name: dataset.layout for dataset in find_datasets(tmp_path)}
    assert layouts == {"videos": "labelled", "crops": "faces"}


@pytest.mark.parametrize(
    "text",
    [
        "filename,label\na.mp4,0.731\n",  # a submission
        "filename,label\na.png,FAKE\n",
        "filename,score\na.mp4,FAKE\n",
        "filename,label\n",
        "",
        'filename,label\n"a.mp4,FAKE\n',
    ],
)
def test_other_tables_make_no_data_set(tmp_path, text):
    labelled(tmp_path, text, "a.mp4", name="table.csv")
    with pytest.raises(FileNotFoundError, match="no known data set"):
        find_datasets(tmp_path)


@pytest.mark.parametrize("name", ["../x.mp4", "{outside}/x.mp4", "in/../../x.mp4", "linked.mp4"])
def test_no_label_reaches_a_video_outside(tmp_path, name):
    outside = touch(tmp_path, "x.mp4")
    name = name.format(outside=outside)
    root = labelled(tmp_path / "in", f"filename,label\na.mp4,REAL\n{name},FAKE\n", "a.mp4")
    (root / "linked.mp4").symlink_to(outside / "x.mp4")
    videos = index_videos(root)
    assert videos.loc[videos["reason"] == "", "filename"].tolist() == ["a.mp4"]
    assert videos.set_index("filename").loc[name, "reason"].endswith("out of the data set")
    assert not videos["video"].str.contains(r"/|\.\.").any()


def test_videos_of_one_name_in_two_folders_are_kept_apart(tmp_path):
    films = ["one/a.mp4", "two/a.mp4"]
    root = labelled(tmp_path, "filename,label\none/a.mp4,REAL\ntwo/a.mp4,FAKE\n", *films)
    assert set(index_videos(root)["video"]) == {"one__a.mp4", "two__a.mp4"}
    write(root / "labels.csv", "filename,label\na.mp4,REAL\n")
    with pytest.raises(ValueError, match=r"labels\.csv: 'a\.mp4' is there more than once"):
        index_videos(root)


def test_two_labels_for_one_video_are_no_label(tmp_path):
    labelled(tmp_path, "filename,label\na.mp4,REAL\na.mp4,FAKE\na.mp4,FAKE\n", "a.mp4")
    assert index_videos(tmp_path)["reason"].tolist() == ["unknown label 'FAKE and REAL'"]


@pytest.mark.parametrize("text", ["filename,label\n\xff", 'filename,label\n"a.mp4,REAL\n'])
def test_a_damaged_table_of_labels_is_named(tmp_path, text):
    touch(tmp_path, "a.mp4")
    (tmp_path / "labels.csv").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=r"labels\.csv cannot be read"):
        find_datasets(tmp_path)


def test_a_table_of_labels_without_labels_says_what_it_needs(tmp_path):
    labelled(tmp_path, "name,label\na.mp4,REAL\n", "a.mp4")
    with pytest.raises(ValueError, match=r"labels\.csv: columns filename and label .*found: name"):
        find_datasets(tmp_path)


# --- raw videos: FaceForensics++ as a whole -------------------------------------------------------


def test_all_methods_and_compressions_of_faceforensics_keep_to_the_official_split(tmp_path):
    methods = ["Deepfakes", "Face2Face", "FaceSwap", "NeuralTextures", "FaceShifter"]
    for quality in ("c0", "c23", "c40"):
        for number in ("004", "982"):
            touch(tmp_path, f"original_sequences/youtube/{quality}/videos/{number}.mp4")
        for method in methods:
            folder = f"manipulated_sequences/{method}/{quality}/videos"
            touch(tmp_path, f"{folder}/004_982.mp4", f"{folder}/982_004.mp4")
    write(tmp_path / "splits" / "val.json", [["982", "004"]])
    videos = index_videos(tmp_path)
    assert len(videos) == 3 * (2 + 2 * len(methods))
    assert set(videos["split"]) == {"val"}
    assert set(videos["method"]) == {"original", *methods}
    fakes = videos[videos["label"] == "FAKE"]
    reals = set(videos.loc[videos["label"] == "REAL", "video"])
    assert {name.rpartition(".")[0] for name in fakes["original"]} == reals
    same = fakes["video"].str.rpartition("_")[2] == fakes["original"].str.extract(r"_(c\d+)")[0]
    assert same.all()
