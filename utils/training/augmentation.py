"""Random changes to a training crop: what a policy may say, and what it does."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from pathlib import Path
from statistics import NormalDist
from typing import Any

import cv2
import numpy as np
import pandas as pd

from utils.data.crops import crop_paths, image_statistics
from utils.faces.media import load_crop
from utils.run.artifacts import CLASSES, read_table
from utils.training.recipes import check_types, choose

#: Highest value of a parameter where that is not 1; the lowest is 0, of a range more than that.
HIGHEST = {"rotation": 180, "blur_sigma": 10, "noise_std": 128, "jpeg_quality": 100}
HIGHEST |= {"crop_scale": 2, "squeeze": 2}


@dataclass(frozen=True)
class Policy:
    """Random changes to a training crop, drawn anew for every crop and epoch.

    A probability of zero switches an ingredient off; pixels are those of the network's input.

    Attributes:
        crop_scale: share of the area that the random crop keeps; where it may be above 1, what lies
            around a crop is its mirror image, and else grey.
        squeeze: its width over its height, as far as that fits: proportions of a face are no clue.
        flip: probability of a horizontal flip.
        rotation: largest rotation in degrees, to either side.
        colour: largest relative change of brightness and of contrast, to either side: a light or a
            camera says nothing about the class.
        blur: probability of a Gaussian blur; `blur_sigma`: its standard deviation in pixels.
        downscale: probability that the crop is shrunk and enlarged again, as a small face of a
            large frame is; `downscale_factor`: the share of the side that is left in between.
        noise: probability of Gaussian noise; `noise_std`: its standard deviation in levels of 255.
        jpeg: probability of JPEG compression; `jpeg_quality`: its quality.
        cutout: probability of a grey rectangle (DeVries & Taylor 2017), so that no single place
            may decide; `cutout_scale`: its share of the area.
        self_blend: probability that a REAL crop becomes a FAKE one, blended from itself. It changes
            the label, so the loader does it by `self_blend`, and then `augment` all the rest.
    """

    name: str
    crop_scale: tuple[float, float] = (1.0, 1.0)
    squeeze: tuple[float, float] = (0.9, 1.1)
    flip: float = 0.0
    rotation: float = 0.0
    colour: float = 0.0
    blur: float = 0.0
    blur_sigma: tuple[float, float] = (0.5, 1.5)
    downscale: float = 0.0
    downscale_factor: tuple[float, float] = (0.4, 0.9)
    noise: float = 0.0
    noise_std: tuple[float, float] = (2.0, 8.0)
    jpeg: float = 0.0
    jpeg_quality: tuple[float, float] = (40.0, 95.0)
    cutout: float = 0.0
    cutout_scale: tuple[float, float] = (0.02, 0.15)
    self_blend: float = 0.0

    def __post_init__(self) -> None:
        check_types(self)
        for name in PARAMETERS:
            value, top = getattr(self, name), HIGHEST.get(name, 1)
            if not isinstance(getattr(Policy, name), tuple):
                if not 0 <= value <= top:
                    raise ValueError(f"{name} {value!r} is not within 0 to {top}")
            elif (
                not isinstance(value, tuple)
                or [type(bound) in (int, float) for bound in value] != [True, True]
                or not 0 < value[0] <= value[1] <= top
            ):
                raise ValueError(f"{name} {value!r} is not two numbers, 0 < low <= high <= {top}")

    def to_dict(self) -> dict[str, Any]:
        """The content of augment.json: `policy` and `parameters`, as `make_policy` takes them."""
        parameters = asdict(self)
        return {"policy": parameters.pop("name"), "parameters": parameters}


#: All that a policy may say, in the order of augment.json.
PARAMETERS = tuple(field.name for field in fields(Policy) if field.name != "name")
#: "reference" is the recipe of the field's reference notebook: random crop, flip, rotation.
#: "robust" adds what took AUC on degraded crops up from ImageNet's weights
#: (`benchmarks.compare_recipes`): loss of detail, noise, and a square cut out.
POLICIES = {
    "none": Policy("none"),
    "reference": Policy("reference", crop_scale=(0.8, 1.0), flip=0.5, rotation=10.0),
    "robust": Policy(
        "robust", crop_scale=(0.8, 1.0), flip=0.5, rotation=10.0, blur=0.15, downscale=0.2,
        noise=0.15, cutout=0.3,
    ),
}  # fmt: skip


def make_policy(name: str, changes: Mapping[str, Any] | None = None) -> Policy:
    """One of POLICIES with CHANGES of 02, keys of PARAMETERS. Raises as `make_config` does."""
    return choose("policy", POLICIES, name, changes, PARAMETERS)


#: The level that normalisation with a mean of 0.5 turns into zero.
GREY = 127
#: A crop that has more pixels than the network takes is turned at so much of its size and averaged
#: down: a bilinear map alone would leave training crops softer than the ones of val and test. The
#: store keeps no more pixels than that.
OVERSAMPLE = 1.5
#: The normal distribution in 256 equal shares: a random byte looks its deviate up here, ten times
#: as fast as drawing it. Scaled, for the tails beyond 2.9 standard deviations are missing.
_QUANTILES = np.array([NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)])
NORMAL = (_QUANTILES / _QUANTILES.std()).astype(np.float32)
#: A face from brow to brow around the chin, as shares of a crop's width and height. Drawn about
#: MTCNN's five points, whose medians over 144 DFDC crops cut with the data set's margin are: eyes
#: (0.31, 0.29) and (0.72, 0.29), nose (0.51, 0.50), mouth (0.34, 0.74) and (0.68, 0.75), each with
#: a standard deviation of about 0.05.
OUTLINE = np.array(
    [
        *((0.14, 0.23), (0.30, 0.16), (0.50, 0.15), (0.70, 0.16), (0.86, 0.23)),
        *((0.90, 0.42), (0.87, 0.62), (0.77, 0.81), (0.63, 0.92), (0.50, 0.94)),
        *((0.37, 0.92), (0.23, 0.81), (0.13, 0.62), (0.10, 0.42)),
    ]
)
BLEND_RATIOS = (0.25, 0.5, 0.75, 1.0, 1.0, 1.0)  # of the paper
LUMINANCE = np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def augment(
    crop: np.ndarray,
    policy: Policy,
    *,
    image_size: int,
    rng: np.random.Generator,
    geometry_rng: np.random.Generator | None = None,
) -> np.ndarray:
    """Change a training crop at random, by all that a policy says but `self_blend`.

    Args:
        crop: RGB, uint8, shape (H, W, 3). It is not changed.
        policy: what may happen, and how often.
        image_size: side of the result in pixels.
        rng: draws everything; each ingredient has numbers of its own, so that switching one off
            leaves the draws of the others as they were.
        geometry_rng: draws rotation, crop and flip in its place: one seed gives a real face and the
            fake made from it the same geometry.
    Returns:
        RGB, uint8, shape (image_size, image_size, 3).
    """
    return _degrade(_warp(crop, policy, image_size, geometry_rng or rng), policy, rng)


def geometry_matrix(
    policy: Policy, shape: tuple[int, ...], image_size: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw rotation, crop and flip as one map (2, 3) from a pixel of the result to the crop's.

    The crop, of a `shape` (height, width, …), is turned about its centre; a rectangle of it is kept
    that lies wholly inside its frame (a larger one wholly around it), flipped, and resized to a
    square of side `image_size`. Area and squeeze are relative to the crop's own. Always six numbers
    are drawn.
    """
    flip, turn, area, squeeze, left, top = rng.random(6).tolist()
    low, high = policy.crop_scale
    area = low + (high - low) * area
    narrow, wide = policy.squeeze
    if area <= 1:  # of the ratios, only those whose rectangle fits: no draw is thrown away
        narrow, wide = min(max(narrow, area), 1 / area), max(min(wide, 1 / area), area)
    ratio = narrow * (wide / narrow) ** squeeze
    width, height = math.sqrt(area * ratio), math.sqrt(area / ratio)  # shares of the crop's sides
    x, y = left * (1 - width), top * (1 - height)
    if flip < policy.flip:
        x, width = x + width, -width
    # Pixel i is the point i + 0.5. Result → kept rectangle, measured from the crop's centre …
    full_height, full_width = shape[:2]
    dx, dy = width * full_width / image_size, height * full_height / image_size
    x0, y0 = (x - 0.5) * full_width + dx / 2, (y - 0.5) * full_height + dy / 2
    # … → turned back by the angle that the face is turned by, anticlockwise.
    angle = math.radians(policy.rotation * (2 * turn - 1))
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array(
        [
            [cos * dx, -sin * dy, cos * x0 - sin * y0 + full_width / 2 - 0.5],
            [sin * dx, cos * dy, sin * x0 + cos * y0 + full_height / 2 - 0.5],
        ]
    )


def _warp(
    crop: np.ndarray, policy: Policy, image_size: int, rng: np.random.Generator
) -> np.ndarray:
    larger = max(crop.shape[:2]) > 1.1 * image_size
    side = round(OVERSAMPLE * image_size) if larger else image_size
    matrix = geometry_matrix(policy, crop.shape, side, rng)
    if not (policy.rotation or policy.flip) and policy.crop_scale == (1.0, 1.0):
        return _resized(crop, image_size).copy()  # what follows may draw on it
    mirrored = policy.crop_scale[1] > 1
    # Four channels take OpenCV's vectorised path, which with both conversions is twice as fast as
    # three.
    turned = cv2.warpAffine(
        cv2.cvtColor(crop, cv2.COLOR_RGB2RGBA),
        matrix,
        (side, side),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REFLECT_101 if mirrored else cv2.BORDER_CONSTANT,
        borderValue=(GREY,) * 4,
    )
    return _resized(cv2.cvtColor(turned, cv2.COLOR_RGBA2RGB), image_size)


def _resized(image: np.ndarray, side: int) -> np.ndarray:
    """Averaged where it shrinks, bilinear where it grows."""
    if image.shape[:2] == (side, side):
        return image
    method = cv2.INTER_AREA if min(image.shape[:2]) > side else cv2.INTER_LINEAR
    return cv2.resize(image, (side, side), interpolation=method)


def _degrade(image: np.ndarray, policy: Policy, rng: np.random.Generator) -> np.ndarray:
    """Light, lens, size, sensor, compression, in the order in which they happen; cutout last."""
    ingredients = (policy.blur, policy.downscale, policy.noise, policy.jpeg, policy.cutout)
    if not any((policy.colour, *ingredients)):
        return image
    *draws, (brightness, contrast), corner = rng.random((7, 2)).tolist()
    if policy.colour:
        gain = 1 + policy.colour * (2 * brightness - 1)
        slope = gain * (1 + policy.colour * (2 * contrast - 1))  # about mid-grey
        image = cv2.addWeighted(image, slope, image, 0, (gain - slope) * GREY)
    if sigma := _strength(draws[0], policy.blur, policy.blur_sigma):
        image = cv2.GaussianBlur(image, (0, 0), sigma)
    if factor := _strength(draws[1], policy.downscale, policy.downscale_factor):
        image = shrink(image, factor)
    if std := _strength(draws[2], policy.noise, policy.noise_std):
        places = np.frombuffer(rng.bytes(image.size), np.uint8).reshape(image.shape)
        image = cv2.add(image, cv2.LUT(places, NORMAL * np.float32(std)), dtype=cv2.CV_8U)
    if quality := _strength(draws[3], policy.jpeg, policy.jpeg_quality):
        image = compress(image, round(quality))
    if share := _strength(draws[4], policy.cutout, policy.cutout_scale):
        side = len(image)
        edge = max(1, round(math.sqrt(share) * side))
        left, top = (int(place * (side - edge + 1)) for place in corner)
        image[top : top + edge, left : left + edge] = GREY
    return image


def _strength(draw: list[float], probability: float, bounds: tuple[float, float]) -> float:
    """Where in its range an ingredient lies, by two numbers in [0, 1); 0 where it is left out."""
    happens, share = draw
    return bounds[0] + (bounds[1] - bounds[0]) * share if happens < probability else 0.0


def shrink(image: np.ndarray, factor: float) -> np.ndarray:
    """Shrink an image to `factor` of its sides, averaging, and enlarge it again bilinearly."""
    height, width = image.shape[:2]
    small = (max(1, round(width * factor)), max(1, round(height * factor)))
    reduced = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    return cv2.resize(reduced, (width, height), interpolation=cv2.INTER_LINEAR)


def compress(image: np.ndarray, quality: int) -> np.ndarray:
    """An RGB image as it comes out of a JPEG file of that quality, 1 to 100."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality]
    _, content = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), options)
    return cv2.cvtColor(np.asarray(cv2.imdecode(content, cv2.IMREAD_COLOR)), cv2.COLOR_BGR2RGB)


def self_blend(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Make a fake out of one real crop: its face, slightly changed, blended back into it.

    The fake has what blending leaves (a seam, two colours, two sharpnesses, features beside
    their place) and nothing that is peculiar to one generator. As in the paper, colour shifts are
    up to 20 levels, the source is softer or sharper, up to 5% larger or smaller and up to 3% beside
    its place. Other than there, the corners are always those of the real crop.

    Takes and gives RGB, uint8, shape (H, W, 3). The draws of `blend_mask` come first.

    Source: Shiohara & Yamasaki (2022), Detecting Deepfakes with Self-Blended Images, CVPR.
    """
    mask = blend_mask(crop.shape[:2], rng)
    source = _displaced(_restyled(crop, rng), rng)
    return cv2.blendLinear(source, crop, mask, 1 - mask)


def blend_mask(shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Draw how much of each pixel the source gives, float32 in [0, 1]: a soft, face-shaped spot.

    There are no landmarks to draw it by. But the data set's detector cut every crop the same way,
    so `OUTLINE` fits all of them to within the spread of a head's pose, which is about as much
    as the mask is deformed by anyway: it may end below the mouth or beyond the chin.
    """
    height, width = shape
    wide, up, down, blur, ratio = rng.random(5).tolist()
    points = OUTLINE - 0.5  # from the tip of the nose
    points[:, 0] *= 0.75 + 0.3 * wide
    points[:, 1] *= np.where(points[:, 1] < 0, 0.75 + 0.35 * up, 0.65 + 0.4 * down)
    points += 0.5 + 0.012 * rng.standard_normal(points.shape)
    hull = cv2.convexHull(np.rint(points * (width, height)).astype(np.int32))
    spot = cv2.fillConvexPoly(np.zeros(shape, np.float32), hull, BLEND_RATIOS[int(6 * ratio)])
    # Twice a box: an edge about 4 to 11% of the crop wide, at the same cost for any width.
    kernel = (2 * int(min(shape) * (0.005 + 0.02 * blur)) + 3,) * 2
    return cv2.blur(cv2.blur(spot, kernel), kernel)


def _restyled(crop: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The source in other light, from another camera: colour, then sharpness."""
    *shift, saturation, gain, kind, amount = rng.random(7).tolist()
    saturation, gain = 0.8 + 0.4 * saturation, 0.9 + 0.2 * gain
    colour = np.empty((3, 4))
    colour[:, :3] = gain * (saturation * np.eye(3) + (1 - saturation) * LUMINANCE)
    colour[:, 3] = [20 * (2 * level - 1) ** 3 for level in shift]  # small for the most part
    source = cv2.transform(crop, colour)
    if kind < 0.5:
        return shrink(source, 0.25 + 0.5 * amount)
    sharpen = 0.5 + 1.5 * amount
    return cv2.addWeighted(source, 1 + sharpen, cv2.blur(source, (3, 3)), -sharpen, 0)


def _displaced(source: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The source a little larger or smaller, beside its place, and bent."""
    height, width = source.shape[:2]
    zoom, x, y = (2 * rng.random(3) - 1).tolist()
    scale, shift = 1.05**zoom, (0.03 * x * width, 0.015 * y * height)
    centre = np.array([width - 1, height - 1]) / 2
    size = np.array([width, height], np.float32)
    bends = 0.01 * rng.standard_normal((5, 5, 2), np.float32) * size
    places = cv2.resize(bends, (width, height), interpolation=cv2.INTER_CUBIC)
    places += _grid(height, width) * np.float32(scale)
    places += np.float32(centre * (1 - scale) + shift)
    border = cv2.BORDER_REFLECT_101
    # OpenCV's stubs do not know that one map is enough.
    return cv2.remap(source, places, None, cv2.INTER_LINEAR, borderMode=border)  # type: ignore[call-overload]


@lru_cache(maxsize=8)
def _grid(height: int, width: int) -> np.ndarray:
    """The place (x, y) of every pixel, float32, shape (height, width, 2)."""
    return np.dstack(np.meshgrid(np.arange(width), np.arange(height))).astype(np.float32)


#: Images, their titles, and REAL, FAKE or "" of each.
Pictures = tuple[list[np.ndarray], list[str], list[str]]


def read_sample(
    output: str | Path, data: str | Path, *, size: int, seed: int = 0
) -> tuple[pd.DataFrame, list[np.ndarray]]:
    """So many random training crops of OUTPUT's index.csv: rows of it, and pixels (H, W, 3) uint8.

    `data` is DATA, as for `crop_paths`.
    """
    index = read_table(output, "index.csv")
    train = index[index["split"] == "train"]
    sample = train.sample(min(size, len(train)), random_state=seed)
    return sample, [np.asarray(load_crop(path)) for path in crop_paths(sample, data)]


def preview_policy(
    policy: Policy, sample: pd.DataFrame, crops: Sequence[np.ndarray], *, draws: int, seed: int = 0
) -> Pictures:
    """The first crop of each class of a sample: as it is, then so many draws of the policy."""
    rng = np.random.default_rng(seed)
    images, titles, labels = [], [], []
    for label in CLASSES:
        crop = crops[int(np.argmax(sample["label"] == label))]
        drawn = (augment(crop, policy, image_size=len(crop), rng=rng) for _ in range(draws))
        images += [crop, *drawn]
        titles += [f"{label}, as it is", *(f"draw {i + 1}" for i in range(draws))]
        labels += [label] * (1 + draws)
    return images, titles, labels


def preview_blends(sample: pd.DataFrame, crops: Sequence[np.ndarray], *, size: int) -> Pictures:
    """So many real crops of a sample: as they are, their masks, and the fakes blended from them."""
    reals = [crop for crop, label in zip(crops, sample["label"]) if label == "REAL"][:size]
    images: list[np.ndarray] = []
    for seed, crop in enumerate(reals):
        mask = blend_mask(crop.shape[:2], np.random.default_rng(seed))
        # The fake begins with the same draws.
        images += [crop, np.dstack([mask] * 3), self_blend(crop, np.random.default_rng(seed))]
    return images, ["REAL", "mask", "self-blended"] * len(reals), ["REAL", "", "FAKE"] * len(reals)


def measure_policy(
    policy: Policy, sample: pd.DataFrame, crops: Sequence[np.ndarray], *, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """`image_statistics` of the crops of a sample, a row each, before and after the policy."""
    rng, size, tables = np.random.default_rng(seed), len(crops[0]), []
    for used in (POLICIES["none"], policy):
        images = (augment(crop, used, image_size=size, rng=rng) for crop in crops)
        tables.append(pd.DataFrame(map(image_statistics, images), index=sample.index))
    return tables[0], tables[1]
