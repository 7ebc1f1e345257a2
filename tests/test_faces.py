import filecmp
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from facenet_pytorch import MTCNN
from PIL import Image

from utils.artifacts import read_table
from utils.extraction import extract_faces
from utils.faces import CropRecipe, cut_faces, load_detector
from utils.tracks import link_tracks
from utils.video import write_video

RECIPE = CropRecipe()
LEFT, RIGHT = (200, 170, 150), (450, 180, 110)  # centre x, centre y, height of the face


def draw_face(canvas, x, y, size):
    """Draw a plain face that the detector finds: hair, oval, eyes, brows, nose, mouth."""

    def oval(colour, dx, dy, rx, ry, thickness=-1, arc=(0, 360)):
        centre = (round(x + dx * size), round(y + dy * size))
        axes = (max(1, round(rx * size)), max(1, round(ry * size)))
        cv2.ellipse(canvas, centre, axes, 0, *arc, colour, thickness)

    oval((60, 40, 30), 0, -0.12, 0.48, 0.56)
    oval((224, 172, 140), 0, 0.03, 0.40, 0.52)
    for side in (-0.17, 0.17):
        oval((250, 250, 250), side, -0.08, 0.09, 0.05)
        oval((40, 30, 30), side, -0.08, 0.045, 0.045)
        oval((60, 40, 30), side, -0.18, 0.11, 0.03, round(0.03 * size), (180, 360))
    oval((168, 129, 105), 0, 0.14, 0.07, 0.03, round(0.03 * size), (0, 180))
    oval((170, 70, 70), 0, 0.29, 0.14, 0.05)


def scene(*faces, size=(640, 360)):
    canvas = np.full((size[1], size[0], 3), (120, 150, 120), dtype=np.uint8)
    for face in faces:
        draw_face(canvas, *face)
    return cv2.GaussianBlur(canvas, (0, 0), 1.5)


@pytest.fixture(scope="module")
def detector():
    return load_detector(RECIPE)


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((1920, 1080), (480, 270)),  # the data set's own quarter
        ((1280, 720), (320, 180)),
        ((720, 1280), (180, 320)),
        ((1918, 1078), (479, 269)),  # cut off, not rounded
        ((640, 480), (240, 180)),
        ((640, 360), (320, 180)),
        ((641, 361), (319, 180)),
        ((320, 180), (320, 180)),
        ((200, 120), (200, 120)),  # never enlarged
    ],
)
def test_frames_are_shrunk_by_the_stated_rule(size, expected):
    assert RECIPE.shrunk(*size) == expected


def test_the_short_side_never_falls_below_the_floor():
    for side in range(1, 1200):
        assert min(RECIPE.shrunk(2 * side, side)) >= min(side, RECIPE.min_side)


def test_recipe_survives_json_and_refuses_unknown_names():
    recipe = CropRecipe(image_size=224, margin=20)
    assert CropRecipe.from_dict(recipe.to_dict()) == recipe
    with pytest.raises(ValueError, match="zoom"):
        CropRecipe.from_dict({"zoom": 2})


@pytest.mark.parametrize("size", [(1920, 1080), (1280, 720), (720, 1280), (640, 360)])
def test_crops_have_the_pixels_that_facenet_pytorch_saves(tmp_path, detector, size):
    short = min(size)
    big = (0.3 * size[0], 0.45 * size[1], 0.4 * short)
    image = Image.fromarray(scene(big, (0.75 * size[0], 0.5 * size[1], 0.3 * short), size=size))
    theirs = MTCNN(margin=14, keep_all=True, factor=0.5)
    quarter = max(0.25, 180 / short)
    theirs(
        image.resize([int(side * quarter) for side in image.size]),
        save_path=str(tmp_path / "7.png"),
    )
    saved = [tmp_path / "7.png", *sorted(tmp_path.glob("7_*.png"))]
    faces = cut_faces(detector, image, RECIPE)
    assert len(faces) == len(saved) == 2
    for face, path in zip(faces, saved, strict=True):
        assert np.array_equal(np.asarray(face.crop), np.asarray(Image.open(path)))


def test_the_way_of_shrinking_shows_in_the_pixels(detector):
    """A broken twin: were the parity test blind to the filter, these would be equal."""
    image = Image.fromarray(scene(LEFT))
    small = image.resize(RECIPE.shrunk(*image.size), Image.Resampling.BILINEAR)
    ours, other = cut_faces(detector, image, RECIPE), cut_faces(detector, small, RECIPE)
    assert not np.array_equal(np.asarray(ours[0].crop), np.asarray(other[0].crop))


def test_boxes_are_in_pixels_of_the_full_frame_largest_first(detector):
    faces = cut_faces(detector, Image.fromarray(scene(RIGHT, LEFT)), RECIPE)
    assert len(faces) == 2
    for face, (x, y, size) in zip(faces, (LEFT, RIGHT), strict=True):
        x1, y1, x2, y2 = face.box
        assert abs((x1 + x2) / 2 - x) < 0.15 * size
        assert abs((y1 + y2) / 2 - y) < 0.15 * size
        assert 0.5 * size < x2 - x1 < 1.2 * size
        assert 0.7 < face.probability <= 1
        assert face.crop.size == (160, 160)


@pytest.mark.parametrize("size", [(640, 360), (19, 40), (1, 1)])
def test_no_face_is_an_empty_list(detector, size):
    assert cut_faces(detector, Image.fromarray(scene(size=size)), RECIPE) == []


def test_grey_images_are_taken(detector):
    grey = Image.fromarray(scene(LEFT)).convert("L")
    assert cut_faces(detector, grey, RECIPE)[0].crop.mode == "RGB"


def box(x, y=50.0, side=40.0):
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2)


@pytest.mark.parametrize(
    ("frames", "tracks"),
    [
        ([[box(10), box(200)], [box(205), box(14)]], [[1, 2], [2, 1]]),  # order does not matter
        ([[box(10)], [], [box(30)]], [[1], [], [1]]),  # out of sight for a frame
        ([[box(10)], [box(80)], [box(150)]], [[1], [1], [1]]),  # followed from its last place
        ([[box(10)], [box(100)]], [[1], [2]]),  # too far
        ([[box(10)], [box(10, side=100)]], [[1], [2]]),  # another size
        ([[box(10)], [box(45), box(15)]], [[1], [2, 1]]),  # the nearest wins
        ([[], [box(10)]], [[], [1]]),
        ([], []),
    ],
)
def test_faces_of_one_person_share_a_track(frames, tracks):
    assert link_tracks(frames) == tracks


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
    return sorted(path.name for path in folder.iterdir())


def test_crops_lie_in_the_layout_of_the_main_data_set(extracted):
    folder, _ = extracted
    assert names(folder) == ["519", "Deepfakes_519_515", "boxes.csv", "metadata.csv"]
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
    assert "broken.mp4 is not a readable video" in report.loc["broken", "reason"]
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


def same_tree(a: Path, b: Path) -> bool:
    files = [{path.relative_to(top) for path in top.rglob("*")} for top in (a, b)]
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
    assert names(folder) == ["519", "boxes.csv", "metadata.csv"]


def test_aborted_run_leaves_no_half_video_and_the_next_one_cleans_up(videos, tmp_path, monkeypatch):
    folder = tmp_path / "faces"
    extract_faces(videos[:2], folder, frames_per_video=2, progress=False)
    calls = []

    def fail_at_fourth(*arguments):
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return cut_faces(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("utils.extraction.cut_faces", fail_at_fourth)
        with pytest.raises(KeyboardInterrupt):
            extract_faces(videos[:2], folder, frames_per_video=3, progress=False)
    assert len(names(folder / "519")) == 3  # made anew
    assert len(names(folder / "Deepfakes_519_515")) == 4  # still the whole former one
    assert not (folder / "metadata.csv").exists()  # unfinished
    extract_faces(videos[2:3], folder, frames_per_video=1, progress=False)
    assert names(folder) == ["boxes.csv", "metadata.csv"]


def test_foreign_folders_and_data_sets_are_never_replaced(videos, tmp_path):
    (tmp_path / "519").mkdir()
    (tmp_path / "519" / "holiday.png").touch()
    with pytest.raises(ValueError, match="519 was not made by an extraction"):
        extract_faces(videos, tmp_path, progress=False)
    (tmp_path / "metadata.csv").write_text("filename,label,split,original\n519.mp4,REAL,train,\n")
    with pytest.raises(ValueError, match="data set from elsewhere"):
        extract_faces(videos, tmp_path, progress=False)
    assert (tmp_path / "519" / "holiday.png").exists()


@pytest.mark.parametrize("name", ["../up", "a/b", "a\\b", "..", ".hidden", "", " x", None])
def test_names_that_lead_elsewhere_are_refused(videos, tmp_path, name):
    table = videos.astype({"video": object})
    table.loc[0, "video"] = name
    with pytest.raises(ValueError, match="cannot name a folder"):
        extract_faces(table, tmp_path / "faces", progress=False)
    assert not (tmp_path / "faces").exists()


def test_names_are_unique_and_columns_are_there(videos, tmp_path):
    with pytest.raises(ValueError, match="'519' is in the table twice"):
        extract_faces(videos.assign(video="519"), tmp_path, progress=False)
    with pytest.raises(ValueError, match="lacks: label, split"):
        extract_faces(videos.drop(columns=["label", "split"]), tmp_path, progress=False)
