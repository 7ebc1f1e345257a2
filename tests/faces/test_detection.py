"""Faces are cut to the pixel as the main data set's were, and followed through a video."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from facenet_pytorch import MTCNN
from PIL import Image

from utils.faces.detection import (
    CROP_RECIPES,
    CropRecipe,
    Linker,
    _MaxPool,
    cut_at,
    cut_faces,
    face_side,
    find_faces,
    load_detector,
    look,
    named_recipe,
    nearest_recipe,
    read_about,
    read_recipe,
    shrink,
)
from utils.faces.media import sample_frames

ROOT = Path(__file__).resolve().parents[2]
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


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("shape", [(1, 10, 81, 142), (3, 28, 22, 21), (2, 4, 3, 3), (1, 1, 2, 5)])
def test_pools_of_the_detector_give_the_very_maxima_of_torch(size, shape):
    images = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    expected = torch.nn.MaxPool2d(size, 2, ceil_mode=True)(images)
    assert torch.equal(_MaxPool(size, 2)(images), expected)


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
    square = named_recipe("square", margin=0)
    assert CropRecipe.from_dict(square.to_dict()) == square
    # As before there were squares: what was cut by it is not cut again.
    assert [*RECIPE.to_dict()] == ["image_size", "margin", "factor", "scale", "min_side"]
    with pytest.raises(ValueError, match="zoom"):
        CropRecipe.from_dict({"zoom": 2})


@pytest.mark.parametrize(
    "values",
    [
        *({"scale": 0.0}, {"scale": 2.0}, {"image_size": 8}, {"margin": 160}, {"margin": -1}),
        *({"factor": 1.0}, {"factor": 0.0}, {"factor": 2}, {"image_size": 10**9}),
        *({"image_size": 160.5}, {"image_size": "160"}, {"image_size": True}, {"min_side": 0}),
        *({"min_side": 10**9}, {"scale": float("nan")}, {"margin": None}, {"factor": [0.5]}),
        *({"square": -1}, {"square": float("inf")}, {"lower": "deep"}, {"full_frame": 1}),
    ],
)
def test_what_cannot_be_cut_is_refused(tmp_path, values):
    with pytest.raises(ValueError, match=rf"{next(iter(values))}.*must be"):
        CropRecipe(**values)
    folder = record(tmp_path / "crops", json.dumps(values))
    with pytest.raises(ValueError, match=rf"recipe\.json.*{next(iter(values))}"):
        read_recipe(folder)


def record(folder, text):
    folder.mkdir()
    (folder / "recipe.json").write_text(text)
    return folder


def test_the_recipe_of_crops_is_the_one_beside_them_or_none(tmp_path):
    cut = record(tmp_path / "cut", '{"image_size": 96}')
    assert read_recipe(cut) == CropRecipe(image_size=96)
    assert read_recipe(tmp_path) is None
    same = record(tmp_path / "same", '{"align": false}')  # as older versions wrote it
    assert read_recipe(same) == RECIPE


def test_crops_that_an_older_version_aligned_are_refused_with_the_way_out(tmp_path):
    aligned = record(tmp_path / "aligned", '{"image_size": 96, "align": true}')
    with pytest.raises(ValueError, match=r"recipe\.json.* no longer aligned: cut .* again"):
        read_recipe(aligned)


@pytest.mark.parametrize("text", ["{", '{"zoom": 2}', '["x"]', '{"scale": "big"}'])
def test_a_damaged_record_of_the_recipe_is_named(tmp_path, text):
    with pytest.raises(ValueError, match=r"recipe\.json"):
        read_recipe(record(tmp_path / "cut", text))


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
    assert_same_files(faces, saved)


def assert_same_files(faces, saved):
    for face, path in zip(faces, saved, strict=True):
        face.crop.save(path.with_name("ours.png"))
        assert path.with_name("ours.png").read_bytes() == path.read_bytes()


VIDEOS = sorted((ROOT.parent / "shared" / "data" / "videos").rglob("*.mp4"))


@pytest.mark.skipif(not VIDEOS, reason="no real videos beside the checkout")
def test_crops_of_real_frames_are_the_files_that_facenet_pytorch_saves(tmp_path, detector):
    theirs = MTCNN(margin=14, keep_all=True, factor=0.5)
    n_faces = 0
    for path in VIDEOS:
        for number, _, image in sample_frames(path, 3):
            small = image.resize(RECIPE.shrunk(*image.size))
            file = tmp_path / path.stem / f"{number}.png"
            theirs(small, save_path=str(file))
            faces = cut_faces(detector, image, RECIPE)
            n_faces += len(faces)
            if faces:
                others = [file.with_name(f"{number}_{k}.png") for k in range(2, len(faces) + 1)]
                assert len(list(file.parent.glob(f"{number}_*.png"))) == len(others)
                assert_same_files(faces, [file, *others])
            else:
                assert not file.exists()
    assert n_faces >= len(VIDEOS)


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


def test_boxes_do_not_depend_on_landmarks_that_nobody_reads(detector):
    small = shrink(Image.fromarray(scene(LEFT, RIGHT)), RECIPE)
    with_landmarks, probabilities, _ = detector.detect(small, landmarks=True)
    found = find_faces(detector, small)
    assert np.array_equal([box for box, _ in found], with_landmarks.astype(float))
    assert [probability for _, probability in found] == probabilities.tolist()


def test_side_of_a_face_is_counted_in_pixels_of_the_shrunk_frame():
    box, frame = (100.0, 50.0, 300.0, 350.0), (1920, 1080)
    assert face_side(box, frame, RECIPE) == 200 * 480 / 1920
    assert face_side(box, (320, 180), RECIPE) == 200
    assert face_side(box, frame, CROP_RECIPES["square"]) == 200  # what it is cut from is not shrunk


SQUARE = CropRecipe(image_size=64, square=0.5, lower=0.25, full_frame=True)


def test_a_square_has_its_side_and_place_by_the_height_of_the_box_and_is_not_squeezed():
    x, y = np.meshgrid(np.arange(640), np.arange(360))
    frame = Image.fromarray(np.stack([x % 256, y % 256, x // 256], -1).astype(np.uint8))
    small = shrink(frame, SQUARE)  # by half
    [face] = cut_at(frame, small, [((100, 50, 120, 114), 0.9)], SQUARE)
    assert face.box == (200, 100, 240, 228)  # 128 high, so the square has 64: not a pixel is scaled
    left, top = 220 - 32, 164 + 32 - 32  # a quarter of the height lower
    expected = np.asarray(frame)[top : top + 64, left : left + 64]
    assert np.array_equal(np.asarray(face.crop), expected)


@pytest.mark.parametrize("box", [(-8, -9, 20, 60), (300, 150, 330, 190), (0, 0, 320, 180)])
def test_a_square_that_would_reach_out_of_the_frame_is_moved_into_it(box):
    frame = Image.fromarray(np.random.default_rng(0).integers(1, 256, (360, 640, 3), np.uint8))
    recipe = CropRecipe(image_size=32, square=2, full_frame=True)
    [face] = cut_at(frame, shrink(frame, recipe), [(box, 0.9)], recipe)
    assert face.crop.size == (32, 32) and np.asarray(face.crop).min() > 0


def test_a_squeezed_crop_of_the_full_frame_has_its_detail(detector):
    frame = Image.fromarray(scene(LEFT, size=(1280, 720)))
    fine, coarse = (
        cut_faces(detector, frame, CropRecipe(full_frame=full))[0] for full in (True, False)
    )
    assert fine.box == coarse.box
    edges = [cv2.Laplacian(np.asarray(f.crop), cv2.CV_64F).std() for f in (fine, coarse)]
    assert edges[0] > 1.2 * edges[1]
    one, other = (np.asarray(face.crop, float) for face in (fine, coarse))
    shifted = np.abs(np.roll(one, 10, axis=0) - other).mean()
    assert np.abs(one - other).mean() < shifted / 2  # the same face in the same place


def test_recipes_have_names_and_tell_themselves():
    assert named_recipe("main") == RECIPE
    square = named_recipe("square", image_size=224)
    assert str(square) == "squares of 0.86 heights of a face, from full frames, 224 pixels"
    assert str(RECIPE) == "faces, squeezed, from frames shrunk to 0.25, 160 pixels"
    with pytest.raises(ValueError, match="CROP is 'round'; accepted: main, square"):
        named_recipe("round")


@pytest.mark.parametrize(("side", "lower"), [(0.9, 0.0), (1.4, 0.1), (1.4, -0.1)])
def test_the_nearest_recipe_is_told_by_where_faces_lie(detector, side, lower):
    recipe = CropRecipe(square=side, lower=lower, full_frame=True)
    frames = [Image.fromarray(scene((x, 170, h))) for x in (200, 320) for h in (120, 150, 180)]
    crops = [cut_faces(detector, frame, recipe)[0].crop for frame in frames]
    found = nearest_recipe(crops)
    assert found.square == pytest.approx(side, rel=0.1)
    assert found.lower == pytest.approx(lower, abs=0.08)
    narrow = [crop.resize((120, 160)) for crop in crops]  # as cut by a box of its own shape
    assert nearest_recipe(narrow).square == 0
    whole = [Image.fromarray(scene((x, 170, 90))) for x in (200, 320, 400)]
    assert nearest_recipe(whole) is None and nearest_recipe([Image.new("RGB", (64, 64))]) is None


@pytest.mark.parametrize(
    ("text", "told"),
    [('{"faces": "drawn"}', "drawn"), ('{"faces": "x"}', ""), ('["faces"]', ""), ("", "")],
)
def test_a_data_set_says_that_its_faces_are_drawn(tmp_path, text, told):
    if text:
        (tmp_path / "about.json").write_text(text)
    assert read_about(tmp_path) == told


# people


def box(x, y=50.0, side=40.0):
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2)


def unit(*values):
    vector = np.array(values, dtype=float)
    return vector / np.linalg.norm(vector)


ANNA, BEN = unit(1, 0), unit(0, 1)


def linked(frames, looks):
    linker = Linker()
    return [linker.link(boxes, seen) for boxes, seen in zip(frames, looks, strict=True)]


def linked_by_place(frames):
    """All faces look as little alike as those of one person ever do: places decide."""
    fresh = iter(np.eye(400)[1:] * np.sqrt(0.6) + np.eye(400)[0] * np.sqrt(0.4))
    return linked(frames, [[next(fresh) for _ in boxes] for boxes in frames])


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
    assert linked_by_place(frames) == tracks


def test_people_who_cross_keep_their_tracks():
    frames = [[box(20 + 30 * i), box(140 - 30 * i, y=55)] for i in range(6)]
    assert linked_by_place(frames) == [[1, 2]] * 6


def test_people_who_meet_and_turn_back_are_told_apart_by_their_looks():
    places = [(20, 140), (50, 110), (50, 110), (20, 140)]
    frames = [[box(a), box(b)] for a, b in places]
    assert linked(frames, [[ANNA, BEN]] * 4) == [[1, 2]] * 4


def test_person_out_of_sight_comes_back_as_the_same_one():
    frames = [[box(10), box(200)], [box(12)], [box(13)], [box(205), box(12)]]
    assert linked_by_place(frames) == [[1, 2], [1], [1], [2, 1]]


def test_person_who_is_elsewhere_after_a_cut_is_found_by_the_looks():
    frames = [[box(10)], [box(600, side=150)]]
    assert linked_by_place(frames) == [[1], [2]]
    assert linked(frames, [[ANNA], [ANNA]]) == [[1], [1]]
    assert linked(frames, [[ANNA], [BEN]]) == [[1], [2]]


def test_another_person_at_the_same_place_is_another_track():
    frames = [[box(10)], [box(12)], [box(10)]]
    assert linked(frames, [[ANNA], [BEN], [ANNA]]) == [[1], [2], [1]]


def test_people_who_change_places_between_two_frames_are_told_apart_by_their_looks():
    frames = [[box(10), box(300)]] * 4
    swapped = [[ANNA, BEN], [ANNA, BEN], [BEN, ANNA], [BEN, ANNA]]
    assert linked(frames, swapped) == [[1, 2], [1, 2], [2, 1], [2, 1]]


def test_person_who_turns_the_head_stays_the_same_one():
    turned = [[unit(1, 0.25 * i)] for i in range(8)]  # in the end like 0.5 to the first look
    assert linked([[box(10 + i)] for i in range(8)], turned) == [[1]] * 8


def test_nearest_pairs_are_taken_together_and_not_one_by_one():
    # Greedily the second face (10 away) would take track 1, and the first could join nothing.
    frames = [[box(100), box(170)], [box(30), box(110)]]
    assert linked_by_place(frames) == [[1, 2], [1, 2]]


def test_crowd_keeps_its_order():
    rng = np.random.default_rng(0)
    places = np.arange(8) * 100.0
    frames = [[box(x + dx) for x, dx in zip(places, rng.normal(0, 12, 8))] for _ in range(20)]
    assert linked_by_place(frames) == [list(range(1, 9))] * 20


@pytest.mark.parametrize("brightness", [0.5, 1.4])
def test_look_survives_another_light_and_tells_two_pictures_apart(brightness):
    rng = np.random.default_rng(0)
    one, other = (rng.integers(40, 160, (8, 8, 3), dtype=np.uint8) for _ in range(2))
    big = [Image.fromarray(a).resize((160, 160)) for a in (one, other)]
    lit = big[0].point(lambda level: level * brightness)
    assert look(big[0]) @ look(lit) > 0.9
    assert look(big[0]) @ look(big[1]) < 0.5
    assert np.linalg.norm(look(Image.new("RGB", (160, 160)))) == 0
