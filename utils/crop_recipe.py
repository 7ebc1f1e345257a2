"""How faces are cut, as it is kept beside the crops and in the model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from utils.artifacts import read_any_json


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
