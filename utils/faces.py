"""Faces out of frames, cut exactly as the crops of the main data set were cut."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from facenet_pytorch import MTCNN

Box = tuple[float, float, float, float]


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
    """

    image_size: int = 160
    margin: int = 14
    factor: float = 0.5
    scale: float = 0.25
    min_side: int = 180

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
    return MTCNN(
        image_size=recipe.image_size,
        margin=recipe.margin,
        factor=recipe.factor,
        keep_all=True,
        device=torch.device(device),
    ).eval()


def cut_faces(detector: MTCNN, image: Image.Image, recipe: CropRecipe) -> list[Face]:
    """Find and cut every face of a frame, the largest first.

    The crops have the very pixels that `MTCNN(...)(frame.resize(...), save_path=...)` writes. One
    frame at a time: a batch of frames moves the boxes by 1e-5 pixels, which can move a crop by one.

    Args:
        detector: from `load_detector`, with the same recipe.
        image: full frame.
        recipe: how to shrink and cut.
    Returns:
        The faces; none is an empty list.
    """
    from facenet_pytorch.models.utils.detect_face import extract_face

    image = image.convert("RGB")
    size = recipe.shrunk(*image.size)
    if min(size) < detector.min_face_size:
        return []  # no face fits, and the detector fails on an empty pyramid
    # Pillow's own default of today, named because it was NEAREST before Pillow 7.
    small = image if size == image.size else image.resize(size, Image.Resampling.BICUBIC)
    boxes, probabilities = detector.detect(small)
    if boxes is None:
        return []
    boxes = np.asarray(boxes, dtype=float)  # (n, 4) in pixels of the shrunk frame
    inside = np.minimum(boxes[:, 2:], size) - np.maximum(boxes[:, :2], 0)
    ratio = np.tile(np.divide(image.size, size), 2)
    faces = []
    for box, probability, visible in zip(boxes, probabilities, inside, strict=True):
        if visible.min() < 1:
            continue  # nothing of it lies in the frame
        face = extract_face(small, box, recipe.image_size, recipe.margin)  # (3, S, S), 0..255
        crop = Image.fromarray(face.permute(1, 2, 0).byte().numpy())
        x1, y1, x2, y2 = (box * ratio).tolist()
        faces.append(Face((x1, y1, x2, y2), float(probability), crop))
    return faces
