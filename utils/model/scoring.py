"""The one way from crops to logits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from timm.data import resolve_model_data_config
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from utils.faces.media import load_crop
from utils.model.network import fold_batch_norms, load_model
from utils.run.jobs import Bar
from utils.run.machine import default_workers, fits_shared_memory

Transform = Callable[[Image.Image], torch.Tensor]
#: Bytes of a batch that a loader process shares, about: 64 images of 224 pixels.
SHARED = 64 * 3 * 224**2 * 4
#: How Accelerate calls number formats.
PRECISIONS = {"float32": "no", "bfloat16": "bf16", "float16": "fp16"}


def mixed_precision(device: torch.device, wanted: str = "auto") -> str:
    """What to compute in: "bf16", "fp16" (with a gradient scaler) or "no" (float32).

    `wanted` is one of PRECISIONS, or "auto": on a GPU bfloat16 where it has that in hardware, else
    float16; elsewhere float32.
    """
    if wanted != "auto":
        return PRECISIONS[wanted]
    if device.type != "cuda":
        return "no"
    # is_bf16_supported() also says yes to emulation, as on a T4; the capability does not.
    return "bf16" if torch.cuda.get_device_capability(device) >= (8, 0) else "fp16"


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


def model_transform(network: torch.nn.Module) -> Transform:
    """The eval transform that a network carries."""
    config = resolve_model_data_config(network)
    return eval_transform(
        image_size=config["input_size"][-1], mean=config["mean"], std=config["std"]
    )


def normalise(
    images: torch.Tensor, mean: Sequence[float], std: Sequence[float], device: torch.device
) -> torch.Tensor:
    """The second half of the eval transform, on the device: it takes a quarter of the transfer.

    (B, H, W, 3) uint8 → (B, 3, H, W) float32, channels last in memory; `mean` and `std` are for
    values in [0, 1].
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
    """Factor and offset of each number of a row, kept on the device.

    A GPU ends all that it was given before it takes a tensor from pageable memory.
    """
    deviation = torch.tensor(std).repeat(width)
    offset = torch.tensor(mean).repeat(width) / deviation
    return (1 / (255 * deviation)).to(device), offset.to(device)


@torch.inference_mode()
def loss_of(network: torch.nn.Module, images: torch.Tensor, targets: torch.Tensor) -> float:
    """Cross-entropy of a batch, on the CPU; images (B, H, W, 3) uint8, targets (B,)."""
    facts = resolve_model_data_config(network)
    inputs = normalise(images, facts["mean"], facts["std"], torch.device("cpu"))
    return torch.nn.functional.cross_entropy(network.eval()(inputs), targets).item()


class Scorer:
    """A network that says how FAKE crops look: log P(FAKE) - log P(REAL), before calibration.

    Its batch norms are folded. A CPU computes in float32, a GPU in what it computes fastest.

    `transform` is its eval transform, `facts` are the `extra` of `save_model`, and `folder` is
    where it was loaded from.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        *,
        device: torch.device,
        facts: Mapping[str, Any] | None = None,
        folder: str | Path = "",
    ) -> None:
        self.transform = model_transform(network)
        folded = fold_batch_norms(network.cpu().eval())
        self.network = folded.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.device, self.facts, self.folder = device, dict(facts or {}), Path(folder)

    def margin(self, images: torch.Tensor) -> torch.Tensor:
        """Logits of FAKE, (B,), of images (B, 3, S, S) on the device: float32, with gradients."""
        logits = self.network(images)
        return logits[:, 1] - logits[:, 0]

    @torch.inference_mode()
    def score_batches(
        self, batches: Iterable[torch.Tensor], *, progress: bool = True
    ) -> np.ndarray:
        """Logits of FAKE, float64 (n,), of batches (B, 3, S, S), in their order."""
        precision = mixed_precision(self.device)
        dtype = torch.bfloat16 if precision == "bf16" else torch.float16
        logits = [torch.empty(0, 2)]
        for images in Bar(batches, desc="score", unit="batch", disable=not progress):
            with torch.autocast(self.device.type, dtype=dtype, enabled=precision != "no"):
                images = images.to(
                    self.device, memory_format=torch.channels_last, non_blocking=True
                )
                logits.append(self.network(images).float().cpu())
        pairs = torch.cat(logits).numpy().astype(np.float64)  # (n, 2)
        return pairs[:, 1] - pairs[:, 0]

    def score_crops(self, crops: Sequence[Image.Image], *, batch_size: int = 32) -> np.ndarray:
        """Logits of FAKE, (n,), of crops in memory."""
        images = [self.transform(crop) for crop in crops]
        starts = range(0, len(images), batch_size)
        batches = (torch.stack(images[start : start + batch_size]) for start in starts)
        return self.score_batches(batches, progress=False)

    def score_paths(
        self, paths: Sequence[str], *, batch_size: int = 64, num_workers: int = -1
    ) -> np.ndarray:
        """Logits of FAKE, (n,), of crops on disk; ValueError names one that cannot be read."""
        crops = _Crops(paths, self.transform)
        return self.score_data(crops, batch_size=batch_size, num_workers=num_workers)

    def score_data(
        self, data: Dataset, *, batch_size: int | None, num_workers: int = -1
    ) -> np.ndarray:
        """Logits of FAKE, (n,), to the six digits that predictions.csv keeps.

        Args:
            data: of images (3, S, S), or with `batch_size` None of batches of them.
            num_workers: loader processes; 0 loads in this one, -1 chooses.
        """
        workers = default_workers(self.device) if num_workers < 0 else num_workers
        if workers and not fits_shared_memory(3 * workers * SHARED):
            workers = 0
        loader = DataLoader(
            data,
            batch_size=batch_size,
            num_workers=workers,
            pin_memory=torch.cuda.is_available(),
        )
        return self.score_batches(loader).round(6)


class _Crops(Dataset):
    """An item is the image tensor (3, S, S) of a crop."""

    def __init__(self, paths: Sequence[str], transform: Transform) -> None:
        self.paths, self.transform = list(paths), transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, row: int) -> torch.Tensor:
        return self.transform(load_crop(self.paths[row]))


def load_scorer(folder: str | Path, *, device: torch.device) -> Scorer:
    """Load a model folder for inference. Raises as `load_model` does."""
    network, facts = load_model(folder)
    return Scorer(network, device=device, facts=facts, folder=folder)
