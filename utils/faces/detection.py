"""Faces out of frames, cut as the crops of the main data set were cut, and whose they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
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
#: Two looks of one person correlate by USUAL from frame to frame (0.66 to 0.94 in real videos), of
#: two people by 0.1 to 0.6. A near face that falls short of the usual of its track by FALL is
#: another person; one that is ALIKE is the same wherever it is (as after a cut).
USUAL, FALL, ALIKE = 0.75, 0.4, 0.7
#: How much of the cost is the distance to where the track was going, not to where it was.
AHEAD = 0.7
#: Cost of having been out of sight.
AWAY = 0.2


@dataclass(frozen=True)
class CropRecipe:
    """How a face is cut; the defaults are those of the main data set.

    The frame is shrunk by `scale`, but its short side never below `min_side` pixels, and it is
    never enlarged. So 720p and more is shrunk to a quarter, and smaller videos are shrunk less,
    because the detector finds no face under 20 pixels.
    """

    image_size: int = 160  # side of the square crop, in pixels
    margin: int = 14  # border round the face, in pixels of the crop, both sides together
    factor: float = 0.5  # step of the detector's pyramid of sizes
    scale: float = 0.25  # how far a large frame is shrunk before anything else
    min_side: int = 180  # short side, in pixels, below which no frame is shrunk

    def __post_init__(self) -> None:
        """Refuse what cannot be cut. Raises ValueError that names the value and its range."""
        check_number("image_size", self.image_size, 20, 2048)
        check_number("margin", self.margin, 0, self.image_size - 1)
        check_number("factor", self.factor, 0.1, 0.95)  # at 1 the pyramid has no end
        check_number("scale", self.scale, 0.01, 1)
        check_number("min_side", self.min_side, 20, 4096)
        for name in ("image_size", "margin", "min_side"):
            if not isinstance(value := getattr(self, name), int):
                raise ValueError(f"{name} is {value}; it must be a whole number")

    def shrunk(self, width: int, height: int) -> tuple[int, int]:
        """Size (width, height) in pixels at which a frame of this size is searched."""
        scale = min(1.0, max(self.scale, self.min_side / min(width, height)))
        # int() cuts off, as the recipe of the data set does; the floor keeps 179.999 at 180.
        width, height = (max(int(s * scale), min(s, self.min_side)) for s in (width, height))
        return width, height

    def to_dict(self) -> dict[str, float]:
        """Plain values for a JSON file."""
        return asdict(self)

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


def read_recipe(folders: Iterable[str | Path]) -> CropRecipe:
    """The recipe that the crops of these folders were cut by, as 00 recorded it beside them.

    A folder without a record is taken to follow the main data set's recipe, the default. Raises
    ValueError if a record is damaged, or if two folders were cut in different ways.
    """
    recipes: dict[CropRecipe, Path] = {}
    for folder in map(Path, folders):
        path = folder / "recipe.json"
        values = read_any_json(path) if path.is_file() else {}
        try:
            recipes.setdefault(CropRecipe.from_dict(values), folder)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is no crop recipe that can be followed: {error}") from error
    if len(recipes) > 1:
        one, other = list(recipes.values())[:2]
        raise ValueError(
            f"the crops in {one} and in {other} were cut in different ways, and a model can be "
            "shown only one: cut both with the same parameters of 00_extract_faces"
        )
    return next(iter(recipes), CropRecipe())


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

    The crops have the very pixels that `MTCNN(...)(frame.resize(...), save_path=...)` writes.
    """
    small = shrink(image, recipe)
    return cut_at(small, find_faces(detector, small), recipe, image.size)


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
    small: Image.Image, places: Sequence[Place], recipe: CropRecipe, full: tuple[int, int]
) -> list[Face]:
    """Cut the faces at known places out of a shrunk frame.

    The places are those of this frame or of one of the same size; `full` is the size (width,
    height) of the full frame, for the boxes.
    """
    from facenet_pytorch.models.utils.detect_face import extract_face

    ratio, faces = np.tile(np.divide(full, small.size), 2), []
    for box, probability in places:
        pixels = extract_face(small, box, recipe.image_size, recipe.margin)  # (3, S, S), 0..255
        crop = Image.fromarray(pixels.permute(1, 2, 0).byte().numpy())
        faces.append(Face(tuple((np.array(box) * ratio).tolist()), probability, crop))
    return faces


def face_side(box: Box, full: tuple[int, int], recipe: CropRecipe) -> float:
    """Shorter side of a face in pixels of the shrunk frame; `box` and `full` of the full frame."""
    x1, y1, x2, y2 = box
    return min(x2 - x1, y2 - y1) * recipe.shrunk(*full)[0] / full[0]


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
