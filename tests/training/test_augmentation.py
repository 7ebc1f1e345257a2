import json
from dataclasses import replace
from pathlib import Path
from statistics import NormalDist

import cv2
import numpy as np
import pandas as pd
import pytest

from utils.data.crops import image_statistics
from utils.training.augmentation import (
    PARAMETERS,
    POLICIES,
    Policy,
    augment,
    blend_mask,
    compress,
    geometry_matrix,
    make_policy,
    measure_policy,
    preview_blends,
    preview_policy,
    self_blend,
    shrink,
)

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "02_augment.ipynb"
#: All ingredients at once.
ALL = make_policy("robust", {"colour": 0.15, "jpeg": 0.5, "self_blend": 0.25})


def noise_image(height=40, width=40, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def face(side=160):
    """A smooth picture with edges where a face has them."""
    y, x = np.mgrid[:side, :side] / side
    shade = 90 + 60 * np.exp(-((x - 0.5) ** 2 + (y - 0.5) ** 2) / 0.1)
    image = np.dstack([shade + 30, shade, shade - 20]).astype(np.uint8)
    for place, size in (((0.31, 0.29), 0.05), ((0.71, 0.29), 0.05), ((0.5, 0.75), 0.1)):
        centre = tuple(int(side * share) for share in place)
        cv2.ellipse(
            image, centre, (int(side * size), int(side * 0.03)), 0, 0, 360, (20, 20, 30), -1
        )
    return image


def dot(side, x, y):
    """A picture as grey as the filling, with one white pixel."""
    image = np.full((side, side, 3), 127, np.uint8)
    image[y, x] = 255
    return image


def run(image, policy, seed=0, image_size=None, geometry_seed=None):
    given = None if geometry_seed is None else np.random.default_rng(geometry_seed)
    size = image_size or len(image)
    rng = np.random.default_rng(seed)
    return augment(image, policy, image_size=size, rng=rng, geometry_rng=given)


def matrices(policy, n=2000, shape=(160, 160), image_size=160):
    rng = np.random.default_rng(0)
    return np.array([geometry_matrix(policy, shape, image_size, rng) for _ in range(n)])


def only(**values):
    return make_policy("none", values)


# shape


@pytest.mark.parametrize("policy", POLICIES.values(), ids=POLICIES)
@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (33, 61), (160, 160)])
@pytest.mark.parametrize("image_size", [17, 64])
def test_result_is_a_square_of_bytes_and_the_crop_stays_as_it_was(policy, shape, image_size):
    crop = noise_image(*shape)
    crop.flags.writeable = False
    for seed in range(8):
        result = run(crop, policy, seed, image_size)
        assert (result.shape, result.dtype) == ((image_size, image_size, 3), np.uint8)
        assert result.flags.writeable
    assert np.array_equal(crop, noise_image(*shape))


def test_grey_stays_grey_without_colour_noise_and_compression():
    crop = np.repeat(noise_image()[..., :1], 3, axis=2)
    for seed in range(20):
        result = run(crop, replace(ALL, noise=0.0, jpeg=0.0), seed)
        assert np.array_equal(result[..., 0], result[..., 1])
        assert np.array_equal(result[..., 0], result[..., 2])


# geometry


def test_none_leaves_the_pixels_alone():
    assert np.array_equal(run(noise_image(), POLICIES["none"]), noise_image())


def test_none_is_the_plain_resize():
    resized = cv2.resize(noise_image(30, 50), (64, 64), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(run(noise_image(30, 50), POLICIES["none"], image_size=64), resized)


def test_flip_is_exact():
    assert np.array_equal(run(noise_image(), only(flip=1)), noise_image()[:, ::-1])


def test_flip_has_its_probability():
    flipped = (matrices(only(flip=0.25))[:, 0, 0] < 0).mean()
    assert flipped == pytest.approx(0.25, abs=0.04)  # four standard deviations


def test_matrix_without_random_part_maps_corner_to_corner():
    # Pixel edges are at -0.5 and n - 0.5 on both sides.
    matrix = matrices(only(), n=1, shape=(30, 50), image_size=10)[0]
    assert matrix @ [-0.5, -0.5, 1] == pytest.approx([-0.5, -0.5])
    assert matrix @ [9.5, 9.5, 1] == pytest.approx([49.5, 29.5])


def test_rotation_turns_about_the_centre_by_the_angle_drawn():
    for matrix in matrices(only(rotation=30), n=20):
        angle = np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0]))
        # OpenCV's own matrix leads from the crop to the result and counts anticlockwise.
        theirs = cv2.invertAffineTransform(cv2.getRotationMatrix2D((79.5, 79.5), angle, 1))
        assert matrix == pytest.approx(theirs)


def test_a_quarter_turn_moves_a_pixel_where_it_belongs():
    # The first number is the flip, the second the turn: 1 is the largest angle, anticlockwise.
    class Largest:
        def random(self, n):
            return np.array([0.5, 1.0, 0.0, 0.0, 0.0, 0.0])[:n]

    matrix = geometry_matrix(only(rotation=90), (9, 9), 9, Largest())
    assert matrix @ [0, 8, 1] == pytest.approx([0, 0])  # top left comes to bottom left
    assert matrix @ [8, 4, 1] == pytest.approx([4, 8])  # and bottom to the right


def test_rotation_is_drawn_evenly_to_both_sides():
    turned = matrices(only(rotation=10))
    angles = np.degrees(np.arctan2(turned[:, 1, 0], turned[:, 0, 0]))
    assert np.abs(angles).max() <= 10
    assert np.quantile(angles, [0.25, 0.5, 0.75]) == pytest.approx([-5, 0, 5], abs=0.8)


def test_rotation_fills_with_grey():
    white = np.full((32, 32, 3), 255, np.uint8)
    corners = {tuple(run(white, only(rotation=45), seed)[0, 0]) for seed in range(20)}
    assert (127, 127, 127) in corners


def test_random_crop_keeps_the_area_and_ratio_that_it_was_told_and_lies_inside():
    drawn = matrices(only(crop_scale=[0.5, 0.9]), shape=(100, 200), image_size=50)
    width, height = drawn[:, 0, 0] * 50 / 200, drawn[:, 1, 1] * 50 / 100  # shares of the sides
    area, ratio = width * height, width / height
    assert area.min() >= 0.5
    assert area.max() <= 0.9
    assert np.quantile(area, [0.25, 0.5, 0.75]) == pytest.approx([0.6, 0.7, 0.8], abs=0.02)
    assert ratio.min() >= 0.9
    assert ratio.max() <= 1.1 + 1e-9
    assert np.median(ratio) == pytest.approx(1, abs=0.01)
    corners = drawn @ [[-0.5, 49.5], [-0.5, 49.5], [1, 1]] + 0.5  # (n, x or y, first or last)
    assert corners.min() >= -1e-9
    assert corners[:, 0].max() <= 200 + 1e-9
    assert corners[:, 1].max() <= 100 + 1e-9


def test_a_crop_larger_than_the_frame_lies_around_it_and_is_squeezed_as_told():
    drawn = matrices(only(crop_scale=[1.5, 2], squeeze=[0.75, 1.25]), shape=(80, 80), image_size=80)
    width, height = drawn[:, 0, 0], drawn[:, 1, 1]
    assert (width * height).min() >= 1.5
    assert (width * height).max() <= 2
    ratio = width / height
    assert [ratio.min(), ratio.max()] == pytest.approx([0.75, 1.25], abs=0.02)
    corners = drawn @ [[-0.5, 79.5], [-0.5, 79.5], [1, 1]] + 0.5  # (n, x or y, first or last)
    assert corners[..., 0].max() <= 1e-9
    assert corners[..., 1].min() >= 80 - 1e-9
    white = run(np.full((80, 80, 3), 255, np.uint8), only(crop_scale=[2, 2]), image_size=80)
    assert (white == 255).all()  # its mirror image lies around it


def test_warp_lands_where_the_matrix_says():
    policy = make_policy("reference")
    matrix = geometry_matrix(policy, (64, 64), 96, np.random.default_rng(5))
    image = run(dot(64, 40, 20), policy, image_size=96, geometry_seed=5)[..., 0].astype(float)
    light = image - 127
    y, x = np.mgrid[:96, :96]
    place = [(light * x).sum() / light.sum(), (light * y).sum() / light.sum(), 1]
    assert matrix @ place == pytest.approx([40, 20], abs=0.15)


def test_one_geometry_for_two_crops_with_an_appearance_each():
    reference = POLICIES["reference"]
    plain = [run(noise_image(), reference, seed, geometry_seed=7) for seed in (1, 2)]
    assert np.array_equal(*plain)
    assert not np.array_equal(plain[0], run(noise_image(), reference, 1, geometry_seed=8))
    colours = [run(noise_image(), ALL, s, geometry_seed=7) for s in (1, 2)]
    assert not np.array_equal(*colours)


# ingredients


def test_colour_is_a_linear_change_within_its_limits():
    ramp = np.repeat(np.arange(60, 190, dtype=np.uint8).reshape(1, -1, 1), 3, axis=2)
    ramp = np.repeat(ramp, 130, axis=0)
    fits = []
    for seed in range(200):
        result = run(ramp, only(colour=0.2), seed)[0, :, 0].astype(float)
        slope, offset = np.polyfit(ramp[0, :, 0], result, 1)
        assert np.abs(slope * ramp[0, :, 0] + offset - result).max() < 2.5
        fits.append((slope, (slope * 127 + offset) / 127))
    slopes, gains = np.array(fits).T
    assert gains.min() == pytest.approx(0.8, abs=0.02)
    assert gains.max() == pytest.approx(1.2, abs=0.02)
    assert np.abs(slopes / gains - 1).max() == pytest.approx(0.2, abs=0.03)


def test_blur_is_opencvs_and_lowers_the_variance_of_the_laplacian():
    blurred = run(noise_image(), only(blur=1, blur_sigma=[1.5, 1.5]))
    assert np.array_equal(blurred, cv2.GaussianBlur(noise_image(), (0, 0), 1.5))
    softer = run(noise_image(), only(blur=1, blur_sigma=[3, 3]))
    sharpness = [cv2.Laplacian(i, cv2.CV_64F).var() for i in (noise_image(), blurred, softer)]
    assert sharpness[0] > 20 * sharpness[1] > 40 * sharpness[2]


def test_downscaling_takes_what_is_finer_than_the_small_picture():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 200  # 32 periods: half the size cannot hold them
    assert np.all(np.abs(shrink(stripes, 0.5).astype(int) - 100) <= 1)
    policy = only(downscale=1, downscale_factor=[0.5, 0.5])
    assert np.array_equal(run(stripes, policy), shrink(stripes, 0.5))
    spectrum = np.abs(np.fft.fft2(run(noise_image(64, 64), policy)[..., 0].astype(float)))
    before = np.abs(np.fft.fft2(noise_image(64, 64)[..., 0].astype(float)))
    assert spectrum[20:44, 20:44].mean() < 0.15 * before[20:44, 20:44].mean()


@pytest.mark.parametrize("std", [2.0, 8.0])
def test_noise_is_normal_with_its_standard_deviation(std):
    grey = np.full((200, 200, 3), 128, np.uint8)
    noise = run(grey, only(noise=1, noise_std=[std, std])).astype(float) - 128
    assert noise.mean() == pytest.approx(0, abs=0.01 * std + 0.01)
    assert noise.std() == pytest.approx(np.hypot(std, 12**-0.5), rel=0.02)  # and rounding
    within = 2 * NormalDist().cdf((std - 0.5) / std) - 1  # what rounding leaves below std
    assert (np.abs(noise) < std).mean() == pytest.approx(within, abs=0.01)
    neighbours = np.corrcoef(noise[:, :-1].ravel(), noise[:, 1:].ravel())[0, 1]
    assert neighbours == pytest.approx(0, abs=0.02)


def test_noise_does_not_wrap_around():
    for level in (0, 255):
        image = np.full((32, 32, 3), level, np.uint8)
        noisy = run(image, only(noise=1, noise_std=[20, 20])).astype(int)
        assert np.abs(noisy - level).max() < 128


def test_jpeg_is_what_a_file_would_hold(tmp_path):
    crop = face(64)
    path = tmp_path / "crop.jpg"
    cv2.imwrite(str(path), crop[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 30])
    result = run(crop, only(jpeg=1, jpeg_quality=[30, 30]))
    assert np.array_equal(result, cv2.imread(str(path))[..., ::-1])
    assert np.array_equal(result, compress(crop, 30))


def test_jpeg_leaves_blocks_of_eight():
    result = compress(cv2.GaussianBlur(noise_image(128, 128), (0, 0), 2), 5)[..., 1].astype(int)
    steps = np.abs(np.diff(result, axis=1)).mean(axis=0)
    at_borders = steps[7::8].mean()
    assert at_borders > 1.5 * np.delete(steps, np.s_[7::8]).mean()


def test_cutout_covers_its_share_and_is_everywhere():
    white = np.full((100, 100, 3), 255, np.uint8)
    covered = [run(white, only(cutout=1, cutout_scale=[0.04, 0.25]), s) == 127 for s in range(300)]
    shares = np.array([mask.mean() for mask in covered])
    assert shares.min() == pytest.approx(0.04, abs=0.01)
    assert shares.max() == pytest.approx(0.25, abs=0.01)
    for corner in (np.s_[:10, :10], np.s_[:10, -10:], np.s_[-10:, :10], np.s_[-10:, -10:]):
        assert any(mask[corner].any() for mask in covered)


PROBABLE = ("blur", "downscale", "noise", "jpeg", "cutout")


@pytest.mark.parametrize("name", PROBABLE)
def test_probability_is_honoured(name):
    crop = noise_image()
    for probability in (0, 0.3, 1):
        policy = only(**{name: probability})
        changed = np.mean([not np.array_equal(run(crop, policy, s), crop) for s in range(400)])
        assert changed == pytest.approx(probability, abs=0.1 * (0 < probability < 1))


def test_switching_one_ingredient_off_leaves_the_draws_of_the_others():
    white = np.full((64, 64, 3), 255, np.uint8)
    for seed in range(10):
        square = run(white, only(cutout=1), seed) == 127
        result = run(white, only(cutout=1, noise=1, blur=1, jpeg=1), seed)
        assert np.array_equal(result == 127, square)


@pytest.mark.parametrize("policy", [POLICIES["reference"], ALL], ids=lambda p: p.name)
def test_draws_follow_from_the_generator_alone(policy):
    crop = face()
    first = [run(crop, policy, seed) for seed in range(10)]
    np.random.seed(99)
    cv2.setRNGSeed(99)
    assert all(np.array_equal(run(crop, policy, seed), first[seed]) for seed in range(10))
    assert len({image.tobytes() for image in first}) == 10


# self-blending


def test_augment_never_self_blends():
    assert np.array_equal(run(face(), only(self_blend=1)), face())


def test_self_blending_changes_the_face_and_leaves_the_corners():
    crop = face()
    for seed in range(50):
        fake = self_blend(crop, np.random.default_rng(seed))
        assert (fake.shape, fake.dtype) == (crop.shape, np.uint8)
        change = np.abs(fake.astype(int) - crop.astype(int))
        assert change[40:120, 50:110].mean() > 0.25
        for corner in (np.s_[:8, :8], np.s_[:8, -8:], np.s_[-8:, :8], np.s_[-8:, -8:]):
            assert change[corner].max() <= 1
    assert np.array_equal(crop, face())


def test_self_blending_changes_nothing_outside_its_mask():
    crop = noise_image(160, 160)
    for seed in range(20):
        mask = blend_mask((160, 160), np.random.default_rng(seed))
        fake = self_blend(crop, np.random.default_rng(seed))
        change = np.abs(fake.astype(int) - crop.astype(int)).max(axis=2)
        assert change[mask == 0].max() <= 1
        assert change[mask > 0.2].mean() > 5


def test_self_blend_follows_from_the_generator_alone():
    fakes = [self_blend(face(), np.random.default_rng(seed)).tobytes() for seed in (1, 1, 2)]
    assert fakes[0] == fakes[1] != fakes[2]


def test_mask_is_soft_covers_eyes_nose_and_mouth_and_differs():
    masks = np.array([blend_mask((100, 100), np.random.default_rng(s)) for s in range(200)])
    tops = masks.max(axis=(1, 2))
    assert set(np.round(tops, 3)) == {0.25, 0.5, 0.75, 1}
    assert (tops > 0.99).mean() == pytest.approx(0.5, abs=0.15)  # three of the six ratios
    shares = (masks > 0.5 * tops[:, None, None]).mean(axis=0)
    for x, y in ((0.31, 0.29), (0.71, 0.29), (0.5, 0.5), (0.5, 0.7)):
        assert shares[int(100 * y), int(100 * x)] > 0.7
    assert max(masks[:, :3].max(), masks[:, :, :3].max(), masks[:, :, -3:].max()) < 0.2
    soft = ((masks > 0) & (masks < tops[:, None, None] - 1e-5)).mean(axis=(1, 2))
    assert soft.min() > 0.02
    area = (masks > 0).mean(axis=(1, 2))
    assert area.max() > 1.5 * area.min()


@pytest.mark.parametrize("shape", [(1, 1), (7, 5), (33, 61), (300, 224)])
def test_self_blending_takes_any_size(shape):
    crop = noise_image(*shape)
    assert self_blend(crop, np.random.default_rng(0)).shape == crop.shape


def test_self_blending_leaves_grey_near_grey():
    grey = np.full((64, 64, 3), 128, np.uint8)
    fakes = [self_blend(grey, np.random.default_rng(seed)) for seed in range(50)]
    assert max(np.abs(fake.astype(int) - 128).max() for fake in fakes) <= 20 + 0.1 * 128 + 1


def test_crops_with_pixels_to_spare_stay_nearly_as_sharp_as_those_of_val():
    """A bilinear map to the final size alone keeps two thirds of it: the broken twin."""

    def kept_sharpness(stored):
        crop = cv2.resize(face(160), (stored, stored), interpolation=cv2.INTER_AREA)
        plain = run(crop, POLICIES["none"], image_size=64)
        draws = [run(crop, POLICIES["reference"], seed, image_size=64) for seed in range(200)]
        sharpness = [cv2.Laplacian(image, cv2.CV_64F).var() for image in (plain, *draws)]
        return np.mean(sharpness[1:]) / sharpness[0]

    assert kept_sharpness(96) > 0.8 > kept_sharpness(64)


# what a policy may say


@pytest.mark.parametrize("name", POLICIES)
def test_policy_survives_json(name):
    policy = make_policy(
        name, {"crop_scale": [0.5, 0.9], "jpeg_quality": [30, 60], "rotation": 3.0}
    )
    assert (policy.crop_scale, policy.jpeg_quality) == ((0.5, 0.9), (30, 60))
    content = json.loads(json.dumps(policy.to_dict()))
    assert make_policy(content["policy"], content["parameters"]) == policy


def test_augment_json_of_an_earlier_version_loads():
    old = {"crop_scale": [0.7, 1.0], "flip": 0.5, "rotation": 5.0}
    policy = make_policy("reference", old)
    assert policy == Policy("reference", crop_scale=(0.7, 1.0), flip=0.5, rotation=5.0)


def test_reference_is_crop_flip_and_rotation_alone():
    parameters = POLICIES["reference"].to_dict()["parameters"]
    changed = {name for name in PARAMETERS if parameters[name] != getattr(Policy("x"), name)}
    assert changed == {"crop_scale", "flip", "rotation"}
    assert POLICIES["reference"].crop_scale == (0.8, 1.0)
    assert (POLICIES["reference"].flip, POLICIES["reference"].rotation) == (0.5, 10.0)


def test_changes_are_given_by_key_and_the_others_left():
    policy = make_policy("reference", {"rotation": 3, "jpeg_quality": [30, 60]})
    assert policy == replace(POLICIES["reference"], rotation=3, jpeg_quality=(30, 60))
    assert make_policy("reference", {}) == make_policy("reference") == POLICIES["reference"]


def test_notebook_explains_every_parameter():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert [
        name for name in PARAMETERS if f"| `{name}`" not in text and f"`{name}` |" not in text
    ] == []


@pytest.mark.parametrize(
    "values",
    [
        {"crop_scale": (0.0, 1.0)},
        {"crop_scale": (0.9, 0.8)},
        {"crop_scale": (0.5, 2.5)},
        {"squeeze": (0.0, 1.0)},
        {"flip": -0.1},
        {"flip": 1.1},
        {"rotation": -1},
        {"rotation": 181},
        {"rotation": float("nan")},
        {"colour": 1.5},
        {"jpeg": "often"},
        {"flip": True},
        {"crop_scale": (True, True)},
        {"jpeg_quality": (0, 50)},
        {"jpeg_quality": (50, 101)},
        {"blur_sigma": (0, 1)},
        {"downscale_factor": (0.5, 1.2)},
        {"noise_std": 4},
        {"noise_std": ("2", "4")},
        {"cutout_scale": (0.1, 0.2, 0.3)},
        {"self_blend": 2},
    ],
)
def test_bad_value_is_refused_and_named(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        Policy("x", **values)


def test_unknown_policy_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'strong'.*none, reference, robust"):
        make_policy("strong")


def test_unknown_parameter_is_refused_with_the_known_ones():
    with pytest.raises(
        ValueError, match=r"'flips', did you mean flip\? Known: crop_scale, squeeze,"
    ):
        make_policy("none", {"flips": 0.5})


def test_text_is_refused_and_what_yaml_reads_is_told():
    with pytest.raises(ValueError, match=r"rotation '1e1' is not a number \(YAML reads"):
        make_policy("none", {"rotation": "1e1"})


# what 02 shows


@pytest.fixture
def sample():
    """Rows and pixels of four crops, REAL and FAKE in turns."""
    rows = pd.DataFrame({"label": ["FAKE", "REAL"] * 2}, index=[7, 3, 5, 9])
    return rows, [noise_image(32, 32, seed) for seed in range(4)]


def test_preview_shows_a_crop_of_each_class_and_what_the_policy_draws(sample):
    images, titles, labels = preview_policy(ALL, *sample, draws=2, seed=1)
    again, _, _ = preview_policy(ALL, *sample, draws=2, seed=1)
    assert titles == ["REAL, as it is", "draw 1", "draw 2", "FAKE, as it is", "draw 1", "draw 2"]
    assert labels == ["REAL"] * 3 + ["FAKE"] * 3
    assert np.array_equal(images[0], sample[1][1]) and np.array_equal(images[3], sample[1][0])
    assert not np.array_equal(images[1], images[2])
    assert all(np.array_equal(*pair) for pair in zip(images, again))


def test_preview_of_blends_shows_real_mask_and_fake(sample):
    images, titles, labels = preview_blends(*sample, size=4)
    assert titles == ["REAL", "mask", "self-blended"] * 2
    assert labels == ["REAL", "", "FAKE"] * 2
    real, mask, fake = images[:3]
    assert np.array_equal(real, sample[1][1])
    outside = mask[..., 0] == 0
    assert np.abs(fake.astype(int) - real)[outside].max() <= 1
    assert np.abs(fake.astype(int) - real)[~outside].max() > 1


def test_statistics_are_those_of_the_crops_before_and_after(sample):
    brighter = make_policy("none", {"colour": 0.5})
    before, after = measure_policy(brighter, *sample, seed=0)
    assert list(before.index) == list(after.index) == [7, 3, 5, 9]
    assert before.iloc[2].to_dict() == image_statistics(sample[1][2])
    assert (before["brightness"] != after["brightness"]).all()
    same, unchanged = measure_policy(POLICIES["none"], *sample)
    pd.testing.assert_frame_equal(same, unchanged)
