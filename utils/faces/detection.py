"""Faces out of frames, cut as the crops of the main data set were cut, and whose they are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from facenet_pytorch import MTCNN
from scipy.optimize import linear_sum_assignment

from utils.run.artifacts import read_any_json


def focus(crop: Image.Image) -> float:
    """Edges over contrast of a face at 64 x 64 pixels; light and contrast do not change it."""
    full = cv2.cvtColor(np.asarray(crop), cv2.COLOR_RGB2GRAY)
    grey = cv2.resize(full.astype(np.float32), (64, 64), interpolation=cv2.INTER_AREA)
    return float(cv2.Laplacian(grey, cv2.CV_32F).std() / max(float(grey.std()), 1.0))


Box = tuple[float, float, float, float]
#: Where ArcFace puts eyes, nose and corners of the mouth: (x, y) from the middle, in sides.
ARCFACE = (
    np.array([[38.29, 51.70], [73.53, 51.50], [56.03, 71.74], [41.55, 92.37], [70.73, 92.20]]) / 112
    - 0.5
)


@dataclass(frozen=True)
class CropRecipe:
    """How a face is cut; the defaults are those of the main data set.

    The frame is shrunk by `scale`, but its short side never below `min_side` pixels, and it is
    never enlarged. So 720p and more is shrunk to a quarter, and smaller videos are shrunk less,
    because the detector finds no face under 20 pixels.

    Attributes:
        image_size: side of the square crop, in pixels.
        margin: border round the face, in pixels of the crop, both sides together.
        factor: step of the detector's pyramid of sizes.
        scale: how far a large frame is shrunk before anything else.
        min_side: short side, in pixels, below which no frame is shrunk.
        align: turn and move each face so that eyes, nose and mouth lie in the same places, instead
            of squeezing its box to a square; the data set does not.
    """

    image_size: int = 160
    margin: int = 14
    factor: float = 0.5
    scale: float = 0.25
    min_side: int = 180
    align: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be cut. Raises ValueError that names the value."""
        if not 0 < self.scale <= 1:
            raise ValueError(f"SCALE must be above 0 and at most 1, not {self.scale}")
        if not (self.image_size >= 20 and 0 <= self.margin < self.image_size):
            raise ValueError(
                f"IMAGE_SIZE must be at least 20 and MARGIN from 0 to below it, "
                f"not {self.image_size} and {self.margin}"
            )

    def shrunk(self, width: int, height: int) -> tuple[int, int]:
        """Size (width, height) in pixels at which a frame of this size is searched."""
        scale = min(1.0, max(self.scale, self.min_side / min(width, height)))
        # int() cuts off, as the recipe of the data set does; the floor keeps 179.999 at 180.
        return (
            max(int(width * scale), min(width, self.min_side)),
            max(int(height * scale), min(height, self.min_side)),
        )

    def to_dict(self) -> dict[str, float]:
        """Plain values for a JSON file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> CropRecipe:
        """Inverse of `to_dict`. Raises ValueError for a name that is not part of a recipe."""
        unknown = sorted(set(values) - set(cls.__dataclass_fields__))
        if unknown:
            known = ", ".join(cls.__dataclass_fields__)
            raise ValueError(f"unknown in a crop recipe: {', '.join(unknown)}; known: {known}")
        return cls(**values)


@dataclass(frozen=True)
class Place:
    """Where a face is in the shrunk frame, in its pixels, unrounded and without the margin.

    Attributes:
        box: (x1, y1, x2, y2).
        probability: of being a face, in [0, 1].
        landmarks: (x, y) of left eye, right eye, nose, left and right corner of the mouth.
    """

    box: Box
    probability: float
    landmarks: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Face:
    """One face: where it is in the full frame, how sure the detector is, and the crop.

    Attributes:
        box: (x1, y1, x2, y2) in pixels of the full frame, without the margin.
        probability: of being a face, in [0, 1].
        crop: RGB image of `image_size` by `image_size` pixels, with the margin.
    """

    box: Box
    probability: float
    crop: Image.Image


def load_detector(recipe: CropRecipe | None = None) -> MTCNN:
    """Load the MTCNN that cut the main data set, on the CPU; its weights come with the package.

    A GPU rounds otherwise, and a face's box then lies up to 1.5 pixels beside its place: training
    and inference would see other crops wherever one has a GPU and the other has none.

    Raises:
        ImportError: facenet-pytorch is not installed; says how to install it.
    """
    try:
        from facenet_pytorch import MTCNN
    except ImportError as error:
        raise ImportError(
            "the face detector is missing; install it without touching torch: "
            "pip install --no-deps facenet-pytorch==2.5.3"
        ) from error
    recipe = recipe or CropRecipe()
    detector = MTCNN(
        image_size=recipe.image_size,
        margin=recipe.margin,
        factor=recipe.factor,
        keep_all=True,
    ).eval()
    for network in (detector.pnet, detector.rnet, detector.onet):
        for name, layer in list(network.named_children()):
            if isinstance(layer, torch.nn.MaxPool2d):
                size, stride = layer.kernel_size, layer.stride
                network.add_module(name, _MaxPool(size, stride))  # type: ignore[arg-type]
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
    """Find and cut every face of a frame, the largest first.

    The crops have the very pixels that `MTCNN(...)(frame.resize(...), save_path=...)` writes,
    unless they are aligned.

    Args:
        detector: from `load_detector`, with the same recipe.
        image: full frame.
        recipe: how to shrink and cut.
    Returns:
        The faces; none is an empty list.
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
    boxes, probabilities, landmarks = detector.detect(small, landmarks=True)
    if boxes is None:
        return []
    boxes = np.asarray(boxes, dtype=float)  # (n, 4)
    landmarks = np.asarray(landmarks, dtype=float)  # (n, 5, 2)
    inside = np.minimum(boxes[:, 2:], small.size) - np.maximum(boxes[:, :2], 0)
    return [
        Place(tuple(box.tolist()), float(probability), tuple(map(tuple, points.tolist())))
        for box, probability, points, visible in zip(boxes, probabilities, landmarks, inside)
        if visible.min() >= 1
    ]


def cut_at(
    small: Image.Image, places: Sequence[Place], recipe: CropRecipe, full: tuple[int, int]
) -> list[Face]:
    """Cut faces whose places are known.

    Args:
        small: the shrunk frame.
        places: of `find_faces`, for this frame or for one of the same size.
        recipe: how to cut.
        full: size (width, height) of the full frame, for the boxes.
    Returns:
        A face for each place.
    """
    ratio = np.tile(np.divide(full, small.size), 2)
    cut = _aligned if recipe.align else _squeezed
    return [
        Face(
            tuple((np.array(place.box) * ratio).tolist()),
            place.probability,
            cut(small, place, recipe),
        )
        for place in places
    ]


def _squeezed(small: Image.Image, place: Place, recipe: CropRecipe) -> Image.Image:
    from facenet_pytorch.models.utils.detect_face import extract_face

    face = extract_face(small, place.box, recipe.image_size, recipe.margin)  # (3, S, S), 0..255
    return Image.fromarray(face.permute(1, 2, 0).byte().numpy())


def _aligned(small: Image.Image, place: Place, recipe: CropRecipe) -> Image.Image:
    """Move the landmarks to where ArcFace has them, by the best turn, size and shift."""
    points = np.array(place.landmarks)  # (5, 2)
    middle = (recipe.image_size - 1) / 2
    goal = middle + ARCFACE * (recipe.image_size - recipe.margin)
    # Least squares for (a, b, tx, ty) in x' = a x - b y + tx, y' = b x + a y + ty.
    x, y, one, zero = points[:, 0], points[:, 1], np.ones(5), np.zeros(5)
    rows = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, tx, ty = np.linalg.lstsq(rows, goal.T.ravel(), rcond=None)[0]
    pixels = cv2.warpAffine(
        np.asarray(small),
        np.array([[a, -b, tx], [b, a, ty]]),
        (recipe.image_size, recipe.image_size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REPLICATE,
    )
    return Image.fromarray(pixels)


def read_recipe(folders: Iterable[str | Path]) -> CropRecipe:
    """The recipe that the crops of these folders were cut by, as 00 recorded it beside them.

    A folder without a record is taken to follow the main data set's recipe, the default.

    Raises:
        ValueError: a record is damaged, or two folders were cut in different ways.
    """
    recipes: dict[CropRecipe, Path] = {}
    for folder in map(Path, folders):
        path = folder / "recipe.json"
        values = read_any_json(path) if path.is_file() else {}
        try:
            recipes.setdefault(CropRecipe.from_dict(values), folder)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is no crop recipe: {error}") from error
    if len(recipes) > 1:
        one, other = list(recipes.values())[:2]
        raise ValueError(
            f"the crops in {one} and in {other} were cut in different ways, and a model can be "
            "shown only one: cut both with the same parameters of 00_extract_faces"
        )
    return next(iter(recipes), CropRecipe())


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
    look: np.ndarray | None
    usual: float = USUAL

    def see(self, place: np.ndarray, frame: int, look: np.ndarray | None) -> None:
        self.step = (place - self.place)[:2] / (frame - self.frame)
        self.place, self.frame = place, frame
        if look is not None and self.look is not None:
            self.usual += (float(look @ self.look) - self.usual) / 4
            mixed = self.look + look
            self.look = mixed / max(float(np.linalg.norm(mixed)), 1e-6)

    def cost(self, place: np.ndarray, frame: int, look: np.ndarray | None) -> float:
        """How badly a face fits; infinite if it cannot be the same person."""
        side = (place[2] + self.place[2]) / 2
        gone = float(np.hypot(*(place - self.place)[:2])) / side
        # Who was out of sight may have turned back: only the last frame's motion goes on.
        step = self.step if frame == self.frame + 1 else np.zeros(2)
        missed = float(np.hypot(*(place[:2] - self.place[:2] - step))) / side
        near = min(gone, missed) <= REACH
        near &= 1 / GROWTH <= place[2] / self.place[2] <= GROWTH
        # Of two that fit alike, the one who was there a frame ago.
        cost = AHEAD * missed + (1 - AHEAD) * gone + AWAY * (frame > self.frame + 1)
        if look is None or self.look is None:
            return cost if near else np.inf
        alike = float(look @ self.look)
        if near and alike >= min(self.usual - FALL, ALIKE):
            return cost + 1 - alike
        return 3 * REACH + 1 - alike if alike >= ALIKE else np.inf  # near ones go first


class Linker:
    """Numbers the people of a video frame by frame; keeps no more than where each was last.

    Faces and tracks are paired such that most are paired and the sum of the distances (of the
    centres over the mean side, to where the track was and was going) is smallest. A pair needs a
    distance of at most REACH sides and sides that differ by at most a factor of GROWTH; a face
    without one starts a track. A track that is out of sight keeps its place. People who cross each
    other are told apart by their motion, with looks also by what they look like; then a person is
    found again far away too, as after a cut.
    """

    def __init__(self) -> None:
        self.tracks: list[_Track] = []
        self.frame = -1

    def link(self, boxes: Sequence[Box], looks: Sequence[np.ndarray] | None = None) -> list[int]:
        """Track numbers, from 1 in order of appearance, of the faces of the next frame.

        Args:
            boxes: (x1, y1, x2, y2) in pixels.
            looks: of `look`, one a box; given for every frame of a video or for none.
        """
        self.frame += 1
        tracks, seen = self.tracks, looks if looks is not None else [None] * len(boxes)
        places = [
            np.array([(x1 + x2) / 2, (y1 + y2) / 2, max((x2 - x1 + y2 - y1) / 2, 1e-6)])
            for x1, y1, x2, y2 in boxes
        ]
        costs = np.array(
            [[t.cost(place, self.frame, s) for t in tracks] for place, s in zip(places, seen)]
        ).reshape(len(boxes), len(tracks))
        numbers: dict[int, int] = {}
        # A forbidden pair costs more than all others together, so it is taken last of all.
        for i, j in zip(*linear_sum_assignment(np.where(np.isfinite(costs), costs, 1e6))):
            if np.isfinite(costs[i, j]):
                numbers[int(i)] = int(j)
                tracks[j].see(places[i], self.frame, seen[i])
        for i, place in enumerate(places):
            if i not in numbers:
                numbers[i] = len(tracks)
                tracks.append(_Track(place, self.frame, np.zeros(2), seen[i]))
        return [numbers[i] + 1 for i in range(len(boxes))]


def link_tracks(frames: Iterable[Sequence[Box]]) -> list[list[int]]:
    """Number the people of a video by their places: the faces of one person get the same track.

    Args:
        frames: for each sampled frame in order, its boxes (x1, y1, x2, y2) in pixels.
    Returns:
        Track numbers from 1 in order of appearance, in the shape of `frames`; see `Linker`.
    """
    linker = Linker()
    return [linker.link(boxes) for boxes in frames]


def face_side(box: Any, frame_size: tuple[Any, Any], recipe: CropRecipe) -> Any:
    """Shorter side of a face in pixels of the shrunk frame that it was cut from.

    Args:
        box: (x1, y1, x2, y2) in pixels of the full frame, or many of them, shape (n, 4).
        frame_size: width and height of the full frame in pixels, or one of each for every box.
        recipe: how it was cut.
    Returns:
        A float, or an array (n,).
    """
    x1, y1, x2, y2 = np.moveaxis(np.asarray(box, dtype=float), -1, 0)
    width, height = np.asarray(frame_size)
    shrunk = np.vectorize(lambda *size: recipe.shrunk(*size)[0], otypes=[float])(width, height)
    return np.minimum(x2 - x1, y2 - y1) * shrunk / width
