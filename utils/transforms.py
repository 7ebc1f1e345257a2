"""What happens to a crop before the network sees it: training policies, one eval transform."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from PIL import Image
from torchvision.transforms import InterpolationMode, v2

Transform = Callable[[Image.Image], torch.Tensor]


@dataclass(frozen=True)
class Policy:
    """Random changes to a training crop, drawn anew for every crop and epoch.

    Attributes:
        name: what augment.json and the model card call it.
        crop_scale: share of the area that the random crop keeps, (low, high), each in (0, 1].
        flip: probability of a horizontal flip.
        rotation: largest rotation in degrees, to either side.
    """

    name: str
    crop_scale: tuple[float, float] = (1.0, 1.0)
    flip: float = 0.0
    rotation: float = 0.0

    def __post_init__(self) -> None:
        low, high = self.crop_scale
        if not 0 < low <= high <= 1:
            raise ValueError(f"crop_scale {self.crop_scale} is not 0 < low <= high <= 1")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"flip {self.flip} is not a probability")
        if not 0 <= self.rotation <= 180:
            raise ValueError(f"rotation {self.rotation} is not within 0 to 180 degrees")


#: "reference" is the recipe of the field's reference notebook: random crop, flip, rotation.
POLICIES = {
    "none": Policy("none"),
    "reference": Policy("reference", crop_scale=(0.8, 1.0), flip=0.5, rotation=10.0),
}


def make_policy(name: str, **parameters: Any) -> Policy:
    """Take a named policy, some of its parameters changed (None leaves one as it is).

    Raises:
        ValueError: unknown name or parameter, or a value out of range.
    """
    if name not in POLICIES:
        raise ValueError(f"unknown policy {name!r}; known: {', '.join(POLICIES)}")
    known = {field.name for field in fields(Policy)} - {"name"}
    if unknown := sorted(set(parameters) - known):
        raise ValueError(f"unknown policy parameter {unknown[0]!r}; known: {', '.join(known)}")
    given = {key: value for key, value in parameters.items() if value is not None}
    if "crop_scale" in given:
        given["crop_scale"] = tuple(given["crop_scale"])
    return Policy(**{**asdict(POLICIES[name]), **given})


def policy_to_dict(policy: Policy) -> dict[str, Any]:
    """The content of augment.json: `policy` (its name) and `parameters`."""
    parameters = asdict(policy)
    return {"policy": parameters.pop("name"), "parameters": parameters}


def policy_from_dict(content: dict[str, Any]) -> Policy:
    """The inverse of `policy_to_dict`. Raises ValueError as `make_policy` does."""
    return make_policy(content["policy"], **content["parameters"])


def augmentation(policy: Policy, image_size: int) -> v2.Transform:
    """The random part of a policy: PIL image in, PIL image of `image_size` pixels out."""
    steps: list[v2.Transform] = []
    if policy.rotation:
        # Grey corners: the value that normalisation with a mean of 0.5 turns into zero.
        steps.append(
            v2.RandomRotation(
                policy.rotation, interpolation=InterpolationMode.BILINEAR, fill=(127, 127, 127)
            )
        )
    if policy.crop_scale != (1.0, 1.0):
        ratio = (0.9, 1.1)  # a face may be squeezed a little; its proportions are no clue
        steps.append(v2.RandomResizedCrop(image_size, scale=policy.crop_scale, ratio=ratio))
    else:
        steps.append(v2.Resize((image_size, image_size)))
    if policy.flip:
        steps.append(v2.RandomHorizontalFlip(policy.flip))
    return v2.Compose(steps)


def _to_normalised(mean: Sequence[float], std: Sequence[float]) -> list[v2.Transform]:
    return [
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
        v2.Normalize(list(mean), list(std)),
    ]


def train_transform(
    policy: Policy, *, image_size: int, mean: Sequence[float], std: Sequence[float]
) -> Transform:
    """PIL crop → augmented, normalised float32 tensor of shape (3, image_size, image_size)."""
    return v2.Compose([augmentation(policy, image_size), *_to_normalised(mean, std)])


def eval_transform(*, image_size: int, mean: Sequence[float], std: Sequence[float]) -> Transform:
    """PIL crop → normalised float32 tensor of shape (3, image_size, image_size), nothing random.

    The one transform of validation, test and inference: the whole crop, resized bilinearly with
    antialiasing. Nothing is cut off, for a crop is a face and not a scene.
    """
    return v2.Compose([v2.Resize((image_size, image_size)), *_to_normalised(mean, std)])
