"""A trained model with all that it takes to score faces as they were evaluated."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from utils.artifacts import check_fields
from utils.engine import predict
from utils.faces import CropRecipe, load_detector
from utils.models import fold_batch_norms, load_model, model_transform
from utils.transforms import Transform

#: Crops that are scored at once, and that wait for it at most: memory does not grow with a video.
BATCH = 32
#: The rule before 04 has chosen one: uncalibrated, half, nothing withheld.
UNDECIDED = {
    "temperature": 1.0,
    "threshold": 0.5,
    "rule": "none: 04_evaluate has not run",
    "aggregation": "mean_logit",
    "abstention": None,
}


@dataclass(frozen=True)
class Judge:
    """A model with all that it takes to judge a file as it was evaluated.

    Attributes:
        model: two logits, REAL and FAKE; batch norms folded into the convolutions before them.
        transform: the model's own eval transform.
        detector: the face detector that cut the training crops.
        recipe: how it cut them.
        decision: temperature, threshold, rule, aggregation and abstention band, chosen on val.
        prior: share of FAKE videos in training, the answer where nothing can be seen.
        device: where the model runs.
        folder: where it was loaded from, for other processes.
    """

    model: torch.nn.Module
    transform: Transform
    detector: Any
    recipe: CropRecipe
    decision: dict[str, Any]
    prior: float
    device: torch.device
    folder: Path


def load_judge(folder: str | Path, *, device: torch.device) -> Judge:
    """Load a model folder with its decision rule and its crop recipe.

    Raises:
        FileNotFoundError: the folder holds no model.
        ValueError: it is no model of this kind.
    """
    model, extra = load_model(folder)
    decision: dict[str, Any] = UNDECIDED
    chosen = Path(folder) / "decision.json"
    if chosen.is_file():
        decision = json.loads(chosen.read_text(encoding="utf-8"))
        check_fields("model/decision.json", decision, chosen)
    recipe = CropRecipe.from_dict(extra.get("crop_recipe", {}))
    transform = model_transform(model)
    return Judge(
        model=fold_batch_norms(model).to(device).to(memory_format=torch.channels_last),
        transform=transform,
        detector=load_detector(recipe),
        recipe=recipe,
        decision=decision,
        prior=float(extra.get("prior", 0.5)),
        device=device,
        folder=Path(folder),
    )


def score_crops(judge: Judge, crops: Iterable[Image.Image]) -> np.ndarray:
    """The logit of FAKE of each crop, shape (n,), before calibration."""
    images = [judge.transform(crop) for crop in crops]
    batches = [(torch.stack(images[i : i + BATCH]), 0, 0) for i in range(0, len(images), BATCH)]
    return predict(judge.model, batches, device=judge.device, progress=False)  # type: ignore[arg-type]
