"""Faces out of frames, cut as the crops of the main data set were cut, and whose they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import cv2
import numpy as np
import torch
from PIL import Image
from scipy.optimize import linear_sum_assignment

from utils.run.artifacts import check_number, read_any_json

if TYPE_CHECKING:
    from facenet_pytorch import MTCNN

#: (x1, y1, x2, y2) in pixels, unrounded and without the margin.
Box = tuple[float, float, float, float]
#: A box in the shrunk frame, and how probably it is a face.
Place = tuple[Box, float]
#: A face is near a track within so many sides of the face, and of its size within such a factor.
REACH, GROWTH = 2.0, 2.0
#: Two looks of one person correlate by USUAL from frame to frame (0.66 to 0.94 in real videos, and
#: 0.63 to 0.96 where they are cut square), of two people by 0.1 to 0.6. A near face that falls
#: short of the usual of its track by FALL is another person; one that is ALIKE is the same wherever
#: it is (as after a cut).
USUAL, FALL, ALIKE = 0.75, 0.4, 0.7
#: How much of the cost is the distance to where the track was going, not to where it was.
AHEAD = 0.7
#: Cost of having been out of sight.
AWAY = 0.2
#: A data set of drawn faces says so: a model that learns from them knows nothing of people's.
ABOUT, DRAWN = "about.json", "drawn"
#: Images are searched at so many pixels for how they were cut; where the face is less than such a
#: share of the height, they were not.
NEAREST_SIDE, WHOLE = 160, 0.35


@dataclass(frozen=True)
class CropRecipe:
    """How a face is cut; the defaults are those of the main data set.

    The frame is shrunk by `scale`, but its short side never below `min_side` pixels, and it is
    never enlarged. So 720p and more is shrunk to a quarter, and smaller videos are shrunk less,
    because the detector finds no face under 20 pixels. In it faces are found; they are cut out of
    it too, or out of the frame as it came.
    """

    image_size: int = 160  # side of the square crop, in pixels
    margin: int = 14  # border round the face, in pixels of the crop, both sides together
    factor: float = 0.5  # step of the detector's pyramid of sizes
    scale: float = 0.25  # how far a large frame is shrunk before anything else
    min_side: int = 180  # short side, in pixels, below which no frame is shrunk
    square: float = 0.0  # side of a square crop, in heights of the box; 0: the box, squeezed
    lower: float = 0.0  # how far the square's centre lies below the box's, in heights of the box
    full_frame: bool = False  # cut out of the frame as it came, not of the shrunk one

    def __post_init__(self) -> None:
        """Refuse what cannot be cut. Raises ValueError that names the value and its range."""
        check_number("image_size", self.image_size, 20, 2048)
        check_number("margin", self.margin, 0, self.image_size - 1)
        check_number("factor", self.factor, 0.1, 0.95)  # at 1 the pyramid has no end
        check_number("scale", self.scale, 0.01, 1)
        check_number("min_side", self.min_side, 20, 4096)
        check_number("square", self.square, 0, 4)
        check_number("lower", self.lower, -1, 1)
        if not isinstance(self.full_frame, bool):
            raise ValueError(f"full_frame is {self.full_frame!r}; it must be true or false")
        for name in ("image_size", "margin", "min_side"):
            if not isinstance(value := getattr(self, name), int):
                raise ValueError(f"{name} is {value}; it must be a whole number")

    def shrunk(self, width: int, height: int) -> tuple[int, int]:
        """Size (width, height) in pixels at which a frame of this size is searched."""
        scale = min(1.0, max(self.scale, self.min_side / min(width, height)))
        # int() cuts off, as the recipe of the data set does; the floor keeps 179.999 at 180.
        width, height = (max(int(s * scale), min(s, self.min_side)) for s in (width, height))
        return width, height

    def detail(self, width: int, height: int) -> float:
        """Pixels that faces are cut from, per pixel of a frame of this size, along a side."""
        return 1.0 if self.full_frame else self.shrunk(width, height)[0] / width

    def __str__(self) -> str:
        """In words."""
        what = f"squares of {self.square:g} heights of a face" if self.square else "faces, squeezed"
        whence = "from full frames" if self.full_frame else f"from frames shrunk to {self.scale:g}"
        return f"{what}, {whence}, {self.image_size} pixels"

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file; what came later is told only where it is in use.

        So a recipe of before is written as it was, and crops that were cut by it stay finished.
        """
        later = ("square", "lower", "full_frame")
        return {name: value for name, value in asdict(self).items() if value or name not in later}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CropRecipe:
        """Inverse of `to_dict`, also of older versions. Raises ValueError for what is unknown."""
        values = dict(values)
        if values.pop("align", False):
            raise ValueError(
                "faces are no longer aligned: cut the videos again with 00_extract_faces and train "
                "on those crops"
            )
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            known = ", ".join(cls.__dataclass_fields__)
            raise ValueError(f"unknown in a crop recipe: {', '.join(unknown)}; known: {known}")
        return cls(**values)


#: As the main data set was cut, and as `deepfake_faces` was (docs/data.md has the measurements).
CROP_RECIPES = {
    "main": CropRecipe(),
    "square": CropRecipe(square=0.86, lower=0.06, full_frame=True),
}


def named_recipe(name: str, **changes: Any) -> CropRecipe:
    """One of CROP_RECIPES with other values. Raises ValueError that lists their names."""
    if name not in CROP_RECIPES:
        raise ValueError(f"CROP is {name!r}; accepted: {', '.join(CROP_RECIPES)}")
    return replace(CROP_RECIPES[name], **changes)


def read_recipe(folder: str | Path) -> CropRecipe | None:
    """The recipe that the crops of a folder were cut by, as `recipe.json` beside them records it.

    None where there is no record. Raises ValueError if it is damaged.
    """
    path = Path(folder) / "recipe.json"
    if not path.is_file():
        return None
    try:
        return CropRecipe.from_dict(read_any_json(path))
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path} is no crop recipe that can be followed: {error}") from error


def read_about(folder: str | Path) -> str:
    """What the faces of a data set are, as `about.json` at its top says: DRAWN, or "" for people's.

    Raises ValueError where that file is damaged.
    """
    path = Path(folder) / ABOUT
    told = read_any_json(path) if path.is_file() else {}
    return DRAWN if isinstance(told, dict) and told.get("faces") == DRAWN else ""


def nearest_recipe(images: Sequence[Image.Image]) -> CropRecipe | None:
    """The recipe that cuts faces most as they lie in these images, RGB; None for whole images.

    Told by where the detector finds the largest face of each, a border of the image's own edge
    about it, for many crops cut through the face's box. Whole images are those of which most show
    no face, or one that is less than WHOLE of their height.
    """
    detector, places = load_detector(CropRecipe()), []
    for image in images:
        side = NEAREST_SIDE / max(image.size)
        width, height = (max(1, round(s * side)) for s in image.size)
        pixels = cv2.resize(np.asarray(image.convert("RGB")), (width, height))
        edge = round(0.3 * height)
        pixels = cv2.copyMakeBorder(pixels, edge, edge, edge, edge, cv2.BORDER_REPLICATE)
        for (x1, y1, x2, y2), _ in find_faces(detector, Image.fromarray(pixels))[:1]:
            tall = y2 - y1
            below = (height / 2 + edge - (y1 + y2) / 2) / tall
            places.append((tall / height, (x2 - x1) / width, below))
    tall, wide, below = np.median(places, axis=0) if places else (0, 0, 0)
    if 2 * len(places) < len(images) or tall < WHOLE:
        return None
    if all(abs(image.width / image.height - 1) < 0.02 for image in images):
        lower = float(np.clip(below, -1, 1).round(2))
        return CropRecipe(square=round(1 / tall, 2), lower=lower, full_frame=True)
    border = CropRecipe.image_size * (1 - (tall + wide) / 2)
    return CropRecipe(margin=max(0, round(border)), full_frame=True)


class Face(NamedTuple):
    """One face: its box in the full frame, P(face) in [0, 1], and the crop, RGB, with margin."""

    box: Box
    probability: float
    crop: Image.Image


def load_detector(recipe: CropRecipe) -> MTCNN:
    """Load the MTCNN that cut the main data set, on the CPU; its weights come with the package.

    A GPU rounds otherwise, and a face's box then lies up to 1.5 pixels beside its place: training
    and inference would see other crops wherever one has a GPU and the other has none. Raises
    ImportError if facenet-pytorch is missing; says how to install it.
    """
    try:
        from facenet_pytorch import MTCNN
    except ImportError as error:
        raise ImportError(
            "the face detector is missing; install it without touching torch: "
            "pip install --no-deps facenet-pytorch==2.5.3"
        ) from error
    detector = MTCNN(recipe.image_size, recipe.margin, factor=recipe.factor, keep_all=True).eval()
    for network in (detector.pnet, detector.rnet, detector.onet):
        for name, layer in list(network.named_children()):
            if isinstance(layer, torch.nn.MaxPool2d):
                pool = _MaxPool(layer.kernel_size, layer.stride)  # type: ignore[arg-type]
                network.add_module(name, pool)
    return detector


class _MaxPool(torch.nn.Module):
    """The detector's `MaxPool2d(size, stride, ceil_mode=True)`: the same maxima, sooner on a CPU.

    One direction after the other, over whole rows at a time; torch's own takes 44% of the search.
    """

    def __init__(self, size: int, stride: int) -> None:
        super().__init__()
        self.size, self.stride = size, stride

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        for dim in (-2, -1):
            length = images.shape[dim]
            n = -(-max(0, length - self.size) // self.stride) + 1
            n -= (n - 1) * self.stride >= length  # a window must begin inside
            missing = max(0, (n - 1) * self.stride + self.size - length)
            if missing:
                border = (0, 0, 0, missing) if dim == -2 else (0, missing)
                images = torch.nn.functional.pad(images, border, value=float("-inf"))
            picks = [slice(i, i + (n - 1) * self.stride + 1, self.stride) for i in range(self.size)]
            parts = [images[..., pick, :] if dim == -2 else images[..., pick] for pick in picks]
            images = reduce(torch.maximum, parts)
        return images


def cut_faces(detector: MTCNN, image: Image.Image, recipe: CropRecipe) -> list[Face]:
    """Find and cut every face of a full frame, the largest first; `detector` has the same recipe.

    By the main recipe they have the very pixels that `MTCNN(...)(frame.resize(...), save_path=...)`
    writes.
    """
    small = shrink(image, recipe)
    return cut_at(image, small, find_faces(detector, small), recipe)


def shrink(image: Image.Image, recipe: CropRecipe) -> Image.Image:
    """The frame at the size at which it is searched and cut."""
    image = image.convert("RGB")
    size = recipe.shrunk(*image.size)
    # Pillow's own default of today, named because it was NEAREST before Pillow 7.
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def find_faces(detector: MTCNN, small: Image.Image) -> list[Place]:
    """Find the faces of a shrunk frame, the largest first.

    One frame at a time: a batch of frames moves the boxes by 1e-5 pixels, which can move a crop by
    one. Faces of which nothing lies in the frame are left out.
    """
    if min(small.size) < detector.min_face_size:
        return []  # no face fits, and the detector fails on an empty pyramid
    boxes, probabilities = detector.detect(small)
    if boxes is None:
        return []
    boxes = np.asarray(boxes, dtype=float)  # (n, 4)
    inside = np.minimum(boxes[:, 2:], small.size) - np.maximum(boxes[:, :2], 0)
    return [
        (tuple(box.tolist()), float(probability))
        for box, probability, visible in zip(boxes, probabilities, inside)
        if visible.min() >= 1
    ]


def cut_at(
    image: Image.Image, small: Image.Image, places: Sequence[Place], recipe: CropRecipe
) -> list[Face]:
    """Cut the faces at known places of a shrunk frame `small` out of it, or out of `image`, whole.

    The places are those of this frame or of one of the same size.
    """
    from facenet_pytorch.models.utils.detect_face import extract_face

    ratio, faces = np.tile(np.divide(image.size, small.size), 2), []
    source = image.convert("RGB") if recipe.full_frame else small
    for place, probability in places:
        box = (np.array(place) * ratio).tolist()
        at = box if recipe.full_frame else place
        if recipe.square:
            crop = _cut_square(source, at, recipe)
        else:
            pixels = extract_face(source, at, recipe.image_size, recipe.margin)  # (3, S, S), 0..255
            crop = Image.fromarray(pixels.permute(1, 2, 0).byte().numpy())
        faces.append(Face(tuple(box), probability, crop))
    return faces


def _cut_square(source: Image.Image, box: Box, recipe: CropRecipe) -> Image.Image:
    """A square about a box, moved into the picture where it would reach out of it."""
    x1, y1, x2, y2 = box
    height = y2 - y1
    side = min(recipe.square * height, *source.size)
    centre = (x1 + x2) / 2, (y1 + y2) / 2 + recipe.lower * height
    x, y = (min(max(c - side / 2, 0), end - side) for c, end in zip(centre, source.size))
    size = (recipe.image_size, recipe.image_size)
    return source.resize(size, Image.Resampling.BILINEAR, (x, y, x + side, y + side))


def face_side(box: Box, full: tuple[int, int], recipe: CropRecipe) -> float:
    """Shorter side of a face in pixels of what it is cut from; `box`, `full` of the full frame."""
    x1, y1, x2, y2 = box
    return min(x2 - x1, y2 - y1) * recipe.detail(*full)


def focus(crop: Image.Image) -> float:
    """Edges over contrast of a face at 64 x 64 pixels; light and contrast do not change it."""
    full = cv2.cvtColor(np.asarray(crop), cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(full.astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_32F).std() / max(float(grey.std()), 1.0))


def look(crop: Image.Image) -> np.ndarray:
    """What a face looks like from afar: a tiny picture, float32 (432,), of mean 0 and length 1.

    The dot product of two of them is a correlation. It tells people of one scene apart cheaply,
    and knows nothing of identity.
    """
    lab = cv2.cvtColor(np.asarray(crop, dtype=np.float32) / 255, cv2.COLOR_RGB2LAB)
    tiny = cv2.resize(lab, (12, 12), interpolation=cv2.INTER_AREA)
    centred = (tiny - tiny.mean(axis=(0, 1))).ravel()
    return centred / max(float(np.linalg.norm(centred)), 1e-6)


@dataclass
class _Track:
    """Where a person was seen last: centre x, centre y and side in pixels."""

    place: np.ndarray
    frame: int
    step: np.ndarray  # the way of its centre from one frame to the next
    look: np.ndarray
    usual: float = USUAL

    def see(self, place: np.ndarray, frame: int, look: np.ndarray) -> None:
        self.step = (place - self.place)[:2] / (frame - self.frame)
        self.place, self.frame = place, frame
        self.usual += (float(look @ self.look) - self.usual) / 4
        mixed = self.look + look
        self.look = mixed / max(float(np.linalg.norm(mixed)), 1e-6)

    def cost(self, place: np.ndarray, frame: int, look: np.ndarray) -> float:
        """How badly a face fits; infinite if it cannot be the same person.

        The distance of the centres over the mean side, and how little they look alike.
        """
        side = (place[2] + self.place[2]) / 2
        gone = float(np.hypot(*(place - self.place)[:2])) / side
        # Who was out of sight may have turned back: only the last frame's motion goes on.
        step = self.step if frame == self.frame + 1 else np.zeros(2)
        missed = float(np.hypot(*(place[:2] - self.place[:2] - step))) / side
        near = min(gone, missed) <= REACH
        near &= 1 / GROWTH <= place[2] / self.place[2] <= GROWTH
        alike = float(look @ self.look)
        if near and alike >= min(self.usual - FALL, ALIKE):
            # Of two that fit alike, the one who was there a frame ago.
            cost = AHEAD * missed + (1 - AHEAD) * gone + AWAY * (frame > self.frame + 1)
            return cost + 1 - alike
        return 3 * REACH + 1 - alike if alike >= ALIKE else np.inf  # near ones go first


class Linker:
    """Numbers the people of a video frame by frame; keeps no more than where each was last.

    Most faces are paired with tracks, at the smallest sum of costs. A face without a pair starts a
    track. A track that is out of sight keeps its place.
    """

    def __init__(self) -> None:
        self.tracks: list[_Track] = []
        self.frame = -1

    def link(self, boxes: Sequence[Box], looks: Sequence[np.ndarray]) -> list[int]:
        """Track numbers, from 1 in order of appearance, of the next frame's faces and `look`s."""
        self.frame += 1
        places = [
            np.array([(x1 + x2) / 2, (y1 + y2) / 2, max((x2 - x1 + y2 - y1) / 2, 1e-6)])
            for x1, y1, x2, y2 in boxes
        ]
        tracks = self.tracks
        costs = np.array(
            [[t.cost(place, self.frame, s) for t in tracks] for place, s in zip(places, looks)]
        ).reshape(len(boxes), len(tracks))
        # A forbidden pair costs more than all others together, so it is taken last of all.
        pairs = dict(zip(*linear_sum_assignment(np.where(np.isfinite(costs), costs, 1e6))))
        numbers = []
        for i, (place, seen) in enumerate(zip(places, looks)):
            number = pairs.get(i)
            if number is not None and np.isfinite(costs[i, number]):
                tracks[number].see(place, self.frame, seen)
            else:
                number = len(tracks)
                tracks.append(_Track(place, self.frame, np.zeros(2), seen))
            numbers.append(int(number) + 1)
        return numbers
