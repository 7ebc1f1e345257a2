"""Faces out of frames, cut exactly as the crops of the main data set were cut."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import torch
from PIL import Image

from utils.crop_recipe import CropRecipe

if TYPE_CHECKING:
    from facenet_pytorch import MTCNN

Box = tuple[float, float, float, float]

#: Frames that a GPU searches together: one alone takes it as long as several.
TOGETHER = 16

#: Where ArcFace puts eyes, nose and corners of the mouth: (x, y) from the middle, in sides.
ARCFACE = (
    np.array([[38.29, 51.70], [73.53, 51.50], [56.03, 71.74], [41.55, 92.37], [70.73, 92.20]]) / 112
    - 0.5
)


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


def load_detector(recipe: CropRecipe | None = None, device: str | torch.device = "cpu") -> MTCNN:
    """Load the MTCNN that cut the main data set; its weights come with the package.

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
        device=torch.device(device),
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
    [places] = find_faces(detector, [small])
    return cut_at(small, places, recipe, image.size)


def shrink(image: Image.Image, recipe: CropRecipe) -> Image.Image:
    """The frame at the size at which it is searched and cut."""
    image = image.convert("RGB")
    size = recipe.shrunk(*image.size)
    # Pillow's own default of today, named because it was NEAREST before Pillow 7.
    return image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)


def search(
    detector: MTCNN, frames: Iterable[tuple[Image.Image, Any]]
) -> Iterator[tuple[Image.Image, Any, list[Place]]]:
    """Find the faces of shrunk frames, some of them at a time where that is faster.

    Args:
        detector: from `load_detector`.
        frames: shrunk frames, each with whatever belongs to it.
    Yields:
        Both of them, and the places of `find_faces`.
    """
    at_once, rest = TOGETHER if detector.device.type == "cuda" else 1, iter(frames)
    while group := list(islice(rest, at_once)):
        smalls = [small for small, _ in group]
        sizes = {small.size for small in smalls}
        together = [smalls] if len(sizes) == 1 else [[small] for small in smalls]
        places = chain.from_iterable(find_faces(detector, part) for part in together)
        yield from ((small, other, found) for (small, other), found in zip(group, places))


def find_faces(detector: MTCNN, smalls: Sequence[Image.Image]) -> list[list[Place]]:
    """Find the faces of shrunk frames of one size, the largest first.

    To search frames together moves the boxes by 1e-5 pixels, which can move a crop by one: give a
    CPU, which gains nothing by it, one at a time. Faces of which nothing lies in the frame are left
    out.

    Args:
        detector: from `load_detector`.
        smalls: of `shrink`, all of one size.
    Returns:
        The places in each frame.
    """
    if min(smalls[0].size) < detector.min_face_size:
        return [[] for _ in smalls]  # no face fits, and the detector fails on an empty pyramid
    found = zip(*detector.detect(list(smalls), landmarks=True))
    return [_places(small, *of_frame) for small, of_frame in zip(smalls, found)]


def _places(small: Image.Image, boxes: Any, probabilities: Any, landmarks: Any) -> list[Place]:
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
