"""What happens to a crop before the network sees it: training policies, one eval transform."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import lru_cache
from typing import Any

import torch
from PIL import Image
from torchvision.transforms import v2

Transform = Callable[[Image.Image], torch.Tensor]

#: Parameters that are a range (low, high), and the highest value of each; all are above zero.
RANGES = {
    "crop_scale": 1,
    "blur_sigma": 10,
    "downscale_factor": 1,
    "noise_std": 128,
    "jpeg_quality": 100,
    "cutout_scale": 1,
}
#: Highest value of the parameters that are neither a range nor a probability; the lowest is zero.
LIMITS = {"rotation": 180, "colour": 1}


@dataclass(frozen=True)
class Policy:
    """Random changes to a training crop, drawn anew for every crop and epoch.

    `utils.augment.augment` makes all of them but `self_blend`. A probability of zero switches an
    ingredient off; pixels are those of the network's input.

    Attributes:
        name: what augment.json and the model card call it.
        crop_scale: share of the area that the random crop keeps.
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
        self_blend: probability that a REAL crop becomes a FAKE one, blended from itself
            (`utils.self_blend`). It changes the label, so the loader does it, before the rest.
    """

    name: str
    crop_scale: tuple[float, float] = (1.0, 1.0)
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
        for name in PARAMETERS:
            value, top = getattr(self, name), RANGES.get(name) or LIMITS.get(name, 1)
            if name not in RANGES and not _is_within(value, top):
                kind = "within 0 to" if name in LIMITS else "a probability, 0 to"
                raise ValueError(f"{name} {value!r} is not {kind} {top}")
            if name in RANGES and not _is_range(value, top):
                raise ValueError(f"{name} {value!r} is not two numbers, 0 < low <= high <= {top}")


def _is_within(value: Any, top: float) -> bool:
    return isinstance(value, int | float) and 0 <= value <= top


def _is_range(value: Any, top: float) -> bool:
    pair = isinstance(value, tuple) and len(value) == 2
    return pair and all(_is_within(bound, top) for bound in value) and 0 < value[0] <= value[1]


#: All that a policy may say, in the order of augment.json.
PARAMETERS = tuple(field.name for field in fields(Policy) if field.name != "name")
#: "reference" is the recipe of the field's reference notebook: random crop, flip, rotation.
#: "robust" adds what happens to a video on its way, so that no trace of one encoder is learnt, and
#: self-blended fakes, so that not only those of one generator are.
POLICIES = {
    "none": Policy("none"),
    "reference": Policy("reference", crop_scale=(0.8, 1.0), flip=0.5, rotation=10.0),
    "robust": Policy(
        "robust",
        crop_scale=(0.8, 1.0),
        flip=0.5,
        rotation=10.0,
        colour=0.15,
        blur=0.15,
        downscale=0.2,
        noise=0.15,
        jpeg=0.5,
        cutout=0.3,
        self_blend=0.25,
    ),
}


def make_policy(name: str, **parameters: Any) -> Policy:
    """Take a named policy, some of its parameters changed (None leaves one as it is).

    Raises:
        ValueError: unknown name or parameter, or a value out of range.
    """
    if name not in POLICIES:
        raise ValueError(f"unknown policy {name!r}; known: {', '.join(POLICIES)}")
    if unknown := sorted(set(parameters) - set(PARAMETERS)):
        known = ", ".join(PARAMETERS)
        raise ValueError(f"unknown policy parameter {unknown[0]!r}; known: {known}")
    given = {key: value for key, value in parameters.items() if value is not None}
    for key in RANGES.keys() & given.keys():
        # JSON and papermill know lists only.
        given[key] = tuple(given[key]) if isinstance(given[key], list) else given[key]
    return Policy(**{**asdict(POLICIES[name]), **given})


def policy_to_dict(policy: Policy) -> dict[str, Any]:
    """The content of augment.json: `policy` (its name) and `parameters`."""
    parameters = asdict(policy)
    return {"policy": parameters.pop("name"), "parameters": parameters}


def policy_from_dict(content: dict[str, Any]) -> Policy:
    """The inverse of `policy_to_dict`. Raises ValueError as `make_policy` does."""
    return make_policy(content["policy"], **content["parameters"])


def eval_transform(*, image_size: int, mean: Sequence[float], std: Sequence[float]) -> Transform:
    """PIL crop → normalised float32 tensor of shape (3, image_size, image_size), nothing random.

    The one transform of validation, test and inference: the whole crop, resized bilinearly with
    antialiasing. Nothing is cut off, for a crop is a face and not a scene.
    """
    return v2.Compose(
        [
            v2.Resize((image_size, image_size)),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(mean), list(std)),
        ]
    )


def normalise(
    images: torch.Tensor, mean: Sequence[float], std: Sequence[float], device: torch.device
) -> torch.Tensor:
    """The second half of the eval transform, on the device: it takes a quarter of the transfer.

    Args:
        images: (B, H, W, 3) uint8.
        mean, std: of the model, for values in [0, 1].
    Returns:
        (B, 3, H, W) float32, channels last in memory.
    """
    size, height, width, _ = images.shape
    # Rows of whole pixels: three numbers repeated over the last axis would take four times as long.
    values = images.to(device, non_blocking=True).reshape(size * height, width * 3)
    factor, offset = _per_row(tuple(mean), tuple(std), width, device)
    values = values.float().mul_(factor).sub_(offset)
    return values.view(size, height, width, 3).permute(0, 3, 1, 2)


@lru_cache(maxsize=8)
def _per_row(
    mean: tuple[float, ...], std: tuple[float, ...], width: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Factor and offset of each number of a row, on the device.

    Once: a GPU ends all that it was given before it takes a tensor from pageable memory.
    """
    deviation = torch.tensor(std).repeat(width)
    offset = torch.tensor(mean).repeat(width) / deviation
    return (1 / (255 * deviation)).to(device), offset.to(device)
