"""The one way from crops to logits."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import lru_cache

import numpy as np
import timm
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2
from tqdm.auto import tqdm

from utils.faces.media import load_valid_crop
from utils.model.network import fold_batch_norms

Transform = Callable[[Image.Image], torch.Tensor]


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


def model_transform(model: torch.nn.Module) -> Transform:
    """The eval transform that the model carries."""
    config = timm.data.resolve_model_data_config(model)
    return eval_transform(
        image_size=config["input_size"][-1], mean=config["mean"], std=config["std"]
    )


class CropDataset(Dataset):
    """Crops with labels; an item is (image tensor, target, row)."""

    def __init__(self, paths: Sequence[str], y_true: Sequence[int], transform: Transform) -> None:
        self.paths = list(paths)
        self.y_true = np.asarray(y_true, dtype=np.int64)
        self.transform = transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int, int]:
        return self.transform(load_valid_crop(self.paths[row])), int(self.y_true[row]), row


def make_loader(
    paths: Sequence[str],
    y_true: Sequence[int],
    transform: Transform,
    *,
    batch_size: int,
    num_workers: int = 0,
) -> DataLoader:
    """Batches of (images (B, 3, H, W) float32, targets (B,) int64, rows (B,) int64), in order.

    For crops that are looked at once; training decodes them once for all epochs (`store`).

    Args:
        paths: crops, in the order of the index.
        y_true: labels, 1 = FAKE.
        transform: of `eval_transform`.
        batch_size: crops a batch; the last one may be smaller.
        num_workers: loader processes; 0 loads in this one.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} is not at least 1")
    return DataLoader(
        CropDataset(paths, y_true, transform),
        batch_size=batch_size,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
    )


#: How Accelerate calls them.
NAMES = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


def mixed_precision(device: torch.device, wanted: str = "auto") -> str:
    """What to compute in: "bf16", "fp16" (with a gradient scaler) or "no" (float32).

    Args:
        device: of `get_device`.
        wanted: "float32", "bfloat16", "float16", or "auto": on a GPU bfloat16 where it has that in
            hardware, else float16; elsewhere float32.
    """
    if wanted != "auto":
        return NAMES[wanted]
    if device.type == "cuda":
        # is_bf16_supported() also says yes to emulation, as on a T4; the capability does not.
        return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"
    return "no"


@torch.inference_mode()
def loss_of(model: torch.nn.Module, images: torch.Tensor, targets: torch.Tensor) -> float:
    """Cross-entropy of a batch, on the CPU; images (B, H, W, 3) uint8, targets (B,)."""
    facts = timm.data.resolve_model_data_config(model)
    inputs = normalise(images, facts["mean"], facts["std"], torch.device("cpu"))
    return torch.nn.functional.cross_entropy(model.eval()(inputs), targets).item()


@torch.inference_mode()
def predict_logits(
    model: torch.nn.Module, loader: DataLoader, *, device: torch.device, progress: bool = True
) -> np.ndarray:
    """The logit of FAKE for every crop: log P(FAKE) - log P(REAL), before calibration.

    On a CPU a copy of the model computes, its batch norms folded, which is a quarter faster.

    Args:
        model: two logits, REAL and FAKE.
        loader: of `make_loader`.
        device: of `get_device`.
    Returns:
        shape (n,), in the order of the loader's rows.
    """
    if device.type == "cpu" and any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()):
        model = fold_batch_norms(copy.deepcopy(model))
    model = model.to(device).to(memory_format=torch.channels_last).eval()
    precision = mixed_precision(device)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float16
    logits = [torch.empty(0, 2)]
    for images, _, _ in tqdm(loader, desc="score", unit="batch", disable=not progress):
        with torch.autocast(device.type, dtype=dtype, enabled=precision != "no"):
            images = images.to(device, memory_format=torch.channels_last, non_blocking=True)
            logits.append(model(images).float().cpu())
    pairs = torch.cat(logits).numpy().astype(np.float64)  # (n, 2)
    return pairs[:, 1] - pairs[:, 0]


def score_paths(
    model: torch.nn.Module,
    transform: Transform,
    paths: Sequence[str],
    *,
    device: torch.device,
    batch_size: int,
    num_workers: int,
) -> np.ndarray:
    """The logit of FAKE of each crop, shape (n,), to the six digits that predictions.csv keeps."""
    loader = make_loader(
        paths, [0] * len(paths), transform, batch_size=batch_size, num_workers=num_workers
    )
    return predict_logits(model, loader, device=device).round(6)
