"""Raw videos become crops in the layout of the main data set, once, whatever happens meanwhile."""

import filecmp
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from tests.faces.test_detection import LEFT, RIGHT, scene
from utils.faces.detection import CropRecipe, find_faces, read_about
from utils.faces.extraction import RECORDS, extract_faces, find_example, one_face_a_video
from utils.faces.media import load_crop, write_video
from utils.inference.answers import judge_file, load_judge
from utils.model.network import build_model, save_model
from utils.run.artifacts import read_json, read_table

TABLES = ["boxes.csv", "metadata.csv", "recipe.json"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Four videos: one person, two people, nobody, and a file that is no video."""
    folder = tmp_path_factory.mktemp("raw")

    def film(name, *faces):
        moved = ([(x + 3 * i, y, size) for x, y, size in faces] for i in range(12))
        write_video(folder / name, (scene(*where) for where in moved), fps=12)

    film("519.mp4", LEFT)
    film("519_515.mp4", LEFT, RIGHT)
    film("empty.mp4")
    (folder / "broken.mp4").write_bytes(b"no video" * 50)
    rows = [
        ("519.mp4", "519", "REAL", "", "original"),
        ("519_515.mp4", "Deepfakes_519_515", "FAKE", "519.mp4", "Deepfakes"),
        ("empty.mp4", "empty", "FAKE", "elsewhere.mp4", "Deepfakes"),
        ("broken.mp4", "broken", "REAL", "", "original"),
    ]
    table = pd.DataFrame(rows, columns=["filename", "video", "label", "original", "method"])
    table["path"] = [str(folder / name) for name in table["filename"]]
    return table.assign(dataset="demo", split="train")


@pytest.fixture(scope="module")
def extracted(videos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("output") / "faces"
    return folder, extract_faces(videos, folder, frames_per_video=4, progress=False)


def names(folder):
    return sorted(path.name for path in folder.iterdir() if path.name[0] != ".")


def test_crops_lie_in_the_layout_of_the_main_data_set(extracted):
    folder, _ = extracted
    assert names(folder) == ["519", "Deepfakes_519_515", *TABLES]
    assert names(folder / "519") == ["1.png", "10.png", "4.png", "7.png"]
    two = [f"{frame}{suffix}.png" for frame in (1, 4, 7, 10) for suffix in ("", "_2")]
    assert names(folder / "Deepfakes_519_515") == sorted(two)
    with Image.open(folder / "519" / "1.png") as crop:
        assert (crop.size, crop.mode) == ((160, 160), "RGB")


def test_report_says_why_a_video_gave_nothing(extracted, videos):
    report = extracted[1].set_index("video")
    assert report.index.tolist() == videos["video"].tolist()
    assert report["n_frames"].tolist() == [4, 4, 4, 0]
    assert report["n_faces"].tolist() == [4, 8, 0, 0]
    assert report["reason"].tolist()[:3] == ["", "", "no face found in 4 frames"]
    assert "broken.mp4 is not a readable image or video" in report.loc["broken", "reason"]
    assert (report["seconds"] > 0).all()


def test_metadata_lists_every_video_and_names_originals_by_folder(extracted):
    table = read_table(extracted[0].parent, "faces/metadata.csv").set_index("filename")
    assert table.index.tolist() == ["519.mp4", "Deepfakes_519_515.mp4", "empty.mp4", "broken.mp4"]
    assert table["original"].tolist() == ["", "519.mp4", "elsewhere.mp4", ""]
    assert table["label"].tolist() == ["REAL", "FAKE", "FAKE", "REAL"]
    assert table.loc["519.mp4", ["fps", "width", "height"]].tolist() == [12, 640, 360]
    assert table.loc["broken.mp4", ["fps", "width", "height"]].isna().all()


def test_original_follows_the_name_of_its_folder(videos, tmp_path):
    renamed = videos[:2].assign(video=["youtube_519", "Deepfakes_519_515"])
    extract_faces(renamed, tmp_path / "faces", frames_per_video=1, progress=False)
    table = read_table(tmp_path, "faces/metadata.csv")
    assert table["original"].tolist() == ["", "youtube_519.mp4"]


def test_boxes_give_two_people_two_tracks(extracted):
    boxes = read_table(extracted[0].parent, "faces/boxes.csv")
    both = boxes[boxes["video"] == "Deepfakes_519_515"]
    assert both["frame"].tolist() == [1, 1, 4, 4, 7, 7, 10, 10]
    assert both["face"].tolist() == [1, 2] * 4
    middle = (both["x1"] + both["x2"]) / 2
    assert (both["track"] == np.where(middle < 320, 1, 2)).all()
    assert set(both["track"]) == {1, 2}
    assert set(boxes.loc[boxes["video"] == "519", "track"]) == {1}


def two_people_change_places(path):
    """Half way the person on the left is on the right: only the light on their faces tells."""
    x = np.arange(640)
    side = np.where(x < 320, np.tanh((x - LEFT[0]) / 30), np.tanh((RIGHT[0] - x) / 30))
    light = [0.75 + 0.4 * sign * side[None, :, None] for sign in (1, -1)]
    frames = [np.clip(scene(LEFT, RIGHT) * light[n // 4], 0, 255) for n in range(8)]
    return write_video(path, [frame.astype(np.uint8) for frame in frames], fps=8, crf=10)


def test_people_are_linked_as_05_links_them(tmp_path):
    """By their places they would keep their tracks over the cut; by their looks they swap them."""
    path = two_people_change_places(tmp_path / "pair.mp4")
    row = (str(path), "demo", "pair", "pair.mp4", "REAL", "", "original", "")
    columns = ["path", "dataset", "video", "filename", "label", "original", "method", "split"]
    extract_faces(pd.DataFrame([row], columns=columns), tmp_path / "faces", progress=False)
    ours = read_table(tmp_path, "faces/boxes.csv")
    save_model(build_model("test_efficientnet", image_size=32, pretrained=False),
               tmp_path / "model", extra={}, card="")  # fmt: skip
    judge = load_judge(tmp_path / "model", device=torch.device("cpu"))
    theirs = judge_file(judge, str(path), frames_per_video=0).faces
    assert ours["track"].tolist() == theirs["track"].tolist()
    assert ours["frame"].tolist() == theirs["frame"].tolist()
    sides = ["x1", "y1", "x2", "y2"]
    np.testing.assert_allclose(ours[sides], theirs[sides], atol=0.01)
    on_the_left = ours.loc[ours["x2"] < 320, "track"].tolist()
    assert on_the_left == [1] * 4 + [2] * 4


def test_example_is_the_frame_with_most_faces_and_a_dead_video_stops_nothing(videos):
    frame, faces = find_example(videos, CropRecipe())
    assert frame.size == (640, 360) and len(faces) == 2
    assert len(find_example(videos[::-1], CropRecipe(), seed=1)[1]) == 2
    with pytest.raises(ValueError, match=r"none of 1 videos .*broken\.mp4"):
        find_example(videos[3:], CropRecipe())


def test_sheet_shows_one_face_a_video(extracted):
    folder, _ = extracted
    boxes = read_table(folder.parent, "faces/boxes.csv")
    sheet = one_face_a_video(boxes, folder, seed=3)
    assert sorted(sheet["video"]) == ["519", "Deepfakes_519_515"]
    assert all(load_crop(path).size == (160, 160) for path in sheet["crop"])
    assert sheet.equals(one_face_a_video(boxes, folder, seed=3))
    drawn = pd.concat([one_face_a_video(boxes, folder, seed=seed) for seed in range(20)])
    assert set(drawn["frame"]) == set(boxes["frame"])


def same_tree(a: Path, b: Path) -> bool:
    found = [{path.relative_to(top) for path in top.rglob("*")} for top in (a, b)]
    files = [{path for path in paths if path.parts[0] != RECORDS} for paths in found]
    return files[0] == files[1] and all(
        filecmp.cmp(a / name, b / name, shallow=False) for name in files[0] if (a / name).is_file()
    )


def test_second_run_is_identical_and_drops_what_left_the_table(extracted, videos, tmp_path):
    folder = tmp_path / "faces"
    extract_faces(videos, folder, frames_per_video=2, progress=False)
    (folder / "notes").mkdir()  # somebody else's
    extract_faces(videos, folder, frames_per_video=4, progress=False)
    (folder / "notes").rmdir()
    assert same_tree(folder, extracted[0])
    extract_faces(videos[:1], folder, frames_per_video=4, progress=False)
    assert names(folder) == ["519", *TABLES]


def test_aborted_run_leaves_no_half_video_and_the_next_one_cleans_up(videos, tmp_path, monkeypatch):
    folder = tmp_path / "faces"
    extract_faces(videos[:2], folder, frames_per_video=2, progress=False)
    calls = []

    def fail_at_fourth(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return find_faces(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("utils.faces.extraction.find_faces", fail_at_fourth)
        with pytest.raises(KeyboardInterrupt):
            extract_faces(videos[:2], folder, frames_per_video=3, progress=False)
    assert len(names(folder / "519")) == 3  # made anew
    assert len(names(folder / "Deepfakes_519_515")) == 4  # still the whole former one
    assert not (folder / "metadata.csv").exists()  # unfinished
    extract_faces(videos[2:3], folder, frames_per_video=1, progress=False)
    assert names(folder) == TABLES


def test_foreign_folders_and_data_sets_are_never_replaced(videos, tmp_path):
    (tmp_path / "519").mkdir()
    (tmp_path / "519" / "holiday.png").touch()
    with pytest.raises(ValueError, match="519 was not made by an extraction"):
        extract_faces(videos, tmp_path, progress=False)
    (tmp_path / "metadata.csv").write_text("filename,label,split,original\n519.mp4,REAL,train,\n")
    with pytest.raises(ValueError, match="data set from elsewhere"):
        extract_faces(videos, tmp_path, progress=False)
    assert (tmp_path / "519" / "holiday.png").exists()


@pytest.mark.parametrize(
    "name",
    ["../up", "a/b", "a\\b", "..", ".hidden", "", " x", "n\n", "\x1b[2J", "\udcff", "x" * 251],
)
def test_names_that_cannot_name_a_folder_are_left_out_and_stop_nothing(videos, tmp_path, name):
    table = videos[:2].copy()
    table.loc[1, "video"] = name
    report = run(table, tmp_path / "faces")
    assert report["n_faces"].iloc[0] == 2
    assert "cannot name a folder" in report["reason"].iloc[1]
    assert names(tmp_path) == ["faces"] and names(tmp_path / "faces") == ["519", *TABLES]
    assert len(read_table(tmp_path, "faces/metadata.csv")) == 2


@pytest.mark.parametrize("name", ["x" * 250, "顔" * 80, "12:30:05", "a..b"])
def test_unusual_names_are_cut_and_kept(videos, tmp_path, name):
    table = videos[:1].assign(video=name)
    assert run(table, tmp_path / "faces")["n_faces"].tolist() == [2]
    assert run(table, tmp_path / "faces")["kept"].all()


def test_names_are_unique_and_columns_are_there(videos, tmp_path):
    with pytest.raises(ValueError, match="'519' is in the table twice"):
        extract_faces(videos.assign(video="519"), tmp_path, progress=False)
    with pytest.raises(ValueError, match="lacks: label, split"):
        extract_faces(videos.drop(columns=["label", "split"]), tmp_path, progress=False)


# --- once, and only once --------------------------------------------------------------------------


def run(videos, folder, **options):
    report = extract_faces(videos, folder, progress=False, **{"frames_per_video": 2, **options})
    return report.set_index("video")


def test_a_second_run_redoes_no_finished_video(videos, tmp_path, monkeypatch):
    first = run(videos, tmp_path / "faces")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "faces").rglob("*.png")}
    monkeypatch.setattr("utils.faces.extraction.find_faces", None)  # would fail if it were called
    second = run(videos, tmp_path / "faces")
    assert first["kept"].tolist() == [False] * 4
    assert second["kept"].tolist() == [True, True, True, False]  # what is unreadable is tried again
    assert {path: path.stat().st_mtime_ns for path in before} == before
    columns = ["n_frames", "n_faces", "reason"]
    assert second[columns].equals(first[columns])
    assert len(read_table(tmp_path, "faces/boxes.csv")) == first["n_faces"].sum()


@pytest.mark.parametrize(
    "change",
    [{"frames_per_video": 3}, {"recipe": CropRecipe(margin=20)}],
)
def test_other_parameters_redo_every_video(videos, tmp_path, change):
    run(videos, tmp_path / "faces")
    assert not run(videos, tmp_path / "faces", **change)["kept"].any()
    fresh = run(videos, tmp_path / "fresh", **change)
    assert same_tree(tmp_path / "faces", tmp_path / "fresh")
    assert fresh["n_faces"].sum() > 0


@pytest.mark.parametrize("damage", ["crop", "folder", "record", "source"])
def test_what_is_not_whole_any_more_is_redone(videos, tmp_path, damage):
    source = tmp_path / "519.mp4"
    source.write_bytes(Path(videos["path"][0]).read_bytes())
    table, folder = videos[:2].copy(), tmp_path / "faces"
    table.loc[0, "path"] = str(source)
    run(table, folder)
    if damage == "crop":
        next((folder / "519").iterdir()).unlink()
    elif damage == "folder":
        (folder / "519").rename(tmp_path / "gone")
    elif damage == "record":
        (folder / RECORDS / "519.json").write_text('{"key": ')
    else:
        source.write_bytes(source.read_bytes())
    assert run(table, folder)["kept"].tolist() == [False, True]
    assert len(names(folder / "519")) == 2


def test_a_stopped_run_goes_on_where_it_was(videos, tmp_path, monkeypatch):
    def stop(*arguments):
        raise KeyboardInterrupt

    folder = tmp_path / "faces"
    run(videos[:1], folder)
    with monkeypatch.context() as patch:
        patch.setattr("utils.faces.extraction.find_faces", stop)
        with pytest.raises(KeyboardInterrupt):
            run(videos, folder)
    for name in (".519-half", "."):  # as of a process that was killed, or worse: "." and ".."
        (folder / RECORDS / f"{name}.json").touch()
    assert run(videos, folder)["kept"].tolist() == [True, False, False, False]
    fresh = tmp_path / "fresh"
    run(videos, fresh)
    assert same_tree(folder, fresh)


def test_a_video_that_kills_every_process_leaves_no_crops_of_another_run(
    videos, tmp_path, monkeypatch
):
    run(videos[:1], tmp_path / "faces")
    monkeypatch.setattr(
        "utils.faces.extraction.run_jobs", lambda function, jobs, lost, **_: map(lost, jobs)
    )
    report = run(videos[:1], tmp_path / "faces", frames_per_video=3)
    assert "died again and again" in report.loc["519", "reason"]
    assert names(tmp_path / "faces") == TABLES
    assert len(read_table(tmp_path, "faces/metadata.csv")) == 1


def test_processes_write_what_one_process_writes(videos, extracted, tmp_path):
    report = run(videos, tmp_path / "faces", frames_per_video=4, workers=2)
    assert same_tree(tmp_path / "faces", extracted[0])
    assert report.index.tolist() == videos["video"].tolist()


def test_crops_of_drawn_faces_are_known_as_such(videos, tmp_path):
    table = videos[:1].assign(path=str(tmp_path / "raw" / "519.mp4"))
    (tmp_path / "raw").mkdir()
    shutil.copy(videos["path"].iloc[0], tmp_path / "raw")
    (tmp_path / "raw" / "about.json").write_text('{"faces": "drawn"}')
    run(table, tmp_path / "faces")
    assert read_about(tmp_path / "faces") == "drawn"
    run(pd.concat([table, videos[1:2]]), tmp_path / "faces")  # people's beside them
    assert read_about(tmp_path / "faces") == ""


def test_the_recipe_lies_beside_the_crops(videos, tmp_path):
    recipe = CropRecipe(image_size=96, margin=10, scale=0.5)
    run(videos[:1], tmp_path / "faces", recipe=recipe)
    told = read_json(tmp_path, "faces/recipe.json")
    assert CropRecipe.from_dict(told) == recipe
    with Image.open(next((tmp_path / "faces" / "519").glob("*.png"))) as crop:
        assert crop.size == (96, 96)
