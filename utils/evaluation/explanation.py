"""Which part of a face speaks for FAKE, and which single faces are worth a look."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.stats import spearmanr
from tqdm.auto import tqdm

from utils.data.crops import crop_paths
from utils.evaluation.results import VIDEO, Evaluation
from utils.faces.media import evenly_spaced, load_crop
from utils.model.network import load_model
from utils.model.scoring import Scorer

#: Rows and columns that a map must tell apart.
MIN_PLACES = 4
#: Side of the grey patch and its step, as shares of the image: 7 x 7 places.
PATCH, STEP = 0.25, 0.125
#: Covered images that are computed at once.
PLACES = 8
#: Kind of answer to the truth and what the model calls it.
KINDS = {
    "FAKE, found": ("FAKE", "FAKE"),
    "REAL, kept": ("REAL", "REAL"),
    "REAL, called FAKE": ("REAL", "FAKE"),
    "FAKE, missed": ("FAKE", "REAL"),
}
#: Colours of heat maps are full at this quantile of their strength.
FULL = 0.98
#: Training videos among which the gallery of errors looks for faces that are alike.
POOL = 300


def can_explain() -> bool:
    """Whether captum, which draws the maps, is installed."""
    return importlib.util.find_spec("captum") is not None


def heat_maps(scorer: Scorer, crops: Sequence[Image.Image], *, progress: bool = True) -> np.ndarray:
    """Which parts of a face raise the logit of FAKE over that of REAL.

    Grad-CAM on the deepest stage of the network that still tells MIN_PLACES places apart. A network
    without such maps (a vision transformer) gets occlusion: how much goes when a part is covered in
    grey; that costs 49 times as much.

    Args:
        scorer: the model.
        crops: RGB.
        progress: show a bar.
    Raises:
        ImportError: captum is not installed; `can_explain` tells.
    Returns:
        float64 (n, S, S), S the model's image side: above 0 the part speaks for FAKE, below 0 for
        REAL. The unit differs between networks.

    Source: Selvaraju et al. (2017), Grad-CAM; Zeiler & Fergus (2014) for occlusion; both by captum.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    images = [scorer.transform(crop)[None].to(scorer.device) for crop in crops]
    layer = _map_layer(scorer.network, images[0]) if images else None
    maps = []
    for image in tqdm(images, desc="heat maps", unit="crop", disable=not progress):
        if layer is None:
            found = _occlusion(scorer.margin, image)
        else:
            found = LayerGradCam(scorer.margin, layer).attribute(image).detach()
            found = LayerAttribution.interpolate(found, image.shape[-2:], "bilinear")
        maps.append(found[0].mean(dim=0).cpu().numpy())
    return np.asarray(maps, dtype=np.float64)


def _map_layer(model: torch.nn.Module, image: torch.Tensor) -> torch.nn.Module | None:
    """The deepest stage that gives a map (1, C, h, w) with h, w of at least MIN_PLACES."""
    shapes: dict[str, torch.Size] = {}
    stages = [info["module"] for info in getattr(model, "feature_info", [])]
    modules = dict(model.named_modules())
    hooks = [
        modules[name].register_forward_hook(
            lambda _, __, output, name=name: shapes.update({name: getattr(output, "shape", ())})
        )
        for name in stages
        if name in modules
    ]
    with torch.inference_mode():
        model(image)
    for hook in hooks:
        hook.remove()
    channels = {info["module"]: info["num_chs"] for info in getattr(model, "feature_info", [])}
    fit = [
        name
        for name, shape in shapes.items()
        if len(shape) == 4 and shape[1] == channels[name] and min(shape[2:]) >= MIN_PLACES
    ]
    return modules[fit[-1]] if fit else None


def _occlusion(margin: Callable[[torch.Tensor], torch.Tensor], image: torch.Tensor) -> torch.Tensor:
    from captum.attr import Occlusion

    patch, step = (max(1, round(share * image.shape[-1])) for share in (PATCH, STEP))
    with torch.inference_mode():
        return Occlusion(margin).attribute(
            image,
            sliding_window_shapes=(3, patch, patch),
            strides=(3, step, step),
            baselines=0,  # the grey that normalisation turns into zero
            perturbations_per_eval=PLACES,
        )


def map_agreement(scorer: Scorer, crops: Sequence[Image.Image], maps: np.ndarray) -> float:
    """What maps owe to the build of the network: their agreement with those of random weights.

    Returns:
        Mean Spearman correlation, map by map; 1 means that the weights change nothing.

    Source: Adebayo et al. (2018), Sanity Checks for Saliency Maps.
    """
    network, _ = load_model(scorer.folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for layer in network.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()  # type: ignore[operator]
    others = heat_maps(Scorer(network, device=scorer.device), crops)
    values = [
        float(spearmanr(a.ravel(), b.ravel()).statistic)
        for a, b in zip(maps, others, strict=True)
        if np.ptp(a) > 0 and np.ptp(b) > 0
    ]
    return float(np.mean(values)) if values else float("nan")


def overlay(crop: Image.Image, heat: np.ndarray, *, limit: float) -> np.ndarray:
    """The face in grey with its map over it: vermilion speaks for FAKE, blue for REAL.

    Args:
        crop: RGB.
        heat: (S, S), of `heat_maps`.
        limit: heat that gets the full colour, above 0.
    Returns:
        uint8 (160, 160, 3).
    """
    side = (160, 160)
    grey = np.asarray(crop.convert("L").resize(side), dtype=np.float32)[..., None]
    strength = cv2.resize(heat.astype(np.float32), side, interpolation=cv2.INTER_CUBIC) / limit
    alpha = np.clip(np.abs(strength), 0, 1)[..., None] * 0.75
    color = np.where(strength[..., None] > 0, (213, 94, 0), (0, 114, 178))  # COLORS of the classes
    return np.clip(grey * (1 - alpha) + color * alpha, 0, 255).astype(np.uint8)


def surest(crops: pd.DataFrame, *, threshold: float, n: int) -> dict[str, pd.DataFrame]:
    """The most confident right and wrong answers, one crop a video.

    Args:
        crops: a row a crop: `video, label, score`.
        threshold: from here on a crop is called FAKE.
        n: at most so many crops a kind.
    Returns:
        Kind of answer to its rows, the surest first.
    """
    called = np.where(crops["score"] >= threshold, "FAKE", "REAL")
    chosen = {}
    for kind, (truth, answer) in KINDS.items():
        these = crops[(crops["label"] == truth) & (called == answer)]
        these = these.sort_values("score", ascending=answer == "REAL")
        chosen[kind] = these.drop_duplicates("video").head(n)
    return chosen


def explain(
    ev: Evaluation, *, n: int
) -> tuple[dict[str, Any], dict[str, list[tuple[Image.Image, np.ndarray, str, str]]]]:
    """Heat maps of the surest answers on test.

    Args:
        n: faces a kind of answer; 0 draws none.
    Returns:
        `explanation` for metrics.json: `n` and `agreement_with_random`, of `map_agreement`; and
        what `plot_heat_maps` draws. Empty where captum is missing or there is nothing to draw.
    """
    chosen = surest(ev.test_crops, threshold=ev.decision.threshold, n=n)
    rows = pd.concat(chosen.values())
    if rows.empty or not can_explain():
        return {"explanation": {}}, {}
    faces = [load_crop(path) for path in rows["file"]]
    maps = heat_maps(ev.scorer, faces)
    limit = float(np.quantile(np.abs(maps), FULL)) or 1.0
    pictures = iter([(f, overlay(f, m, limit=limit)) for f, m in zip(faces, maps)])
    drawn = {
        kind: [(*next(pictures), row.label, f"{row.score:.2f}") for row in these.itertuples()]
        for kind, these in chosen.items()
    }
    agreement = map_agreement(ev.scorer, faces, maps)
    return {"explanation": {"n": len(faces), "agreement_with_random": agreement}}, drawn


def wrong_answers(videos: pd.DataFrame, *, threshold: float) -> pd.DataFrame:
    """The videos on the wrong side of the threshold, the farthest from it first.

    Args:
        videos: a row a video: `label, score`.
        threshold: scores from it on mean FAKE.
    """
    wrong = videos[(videos["score"] >= threshold) != (videos["label"] == "FAKE")]
    return wrong.loc[(wrong["score"] - threshold).abs().sort_values(ascending=False).index]


def worst_errors(ev: Evaluation, *, n: int) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The test videos on the wrong side, and those furthest from the threshold to be looked at.

    Args:
        ev: the model.
        n: how many are looked at.
    Returns:
        A row a video, of `wrong_answers`; what `plot_gallery` draws: three frames of each, over
        its length, and the training faces that the network takes for most alike.
    """
    wrong = wrong_answers(ev.test, threshold=ev.decision.threshold)
    if not len(wrong.head(n)):
        return wrong, []
    pool = ev.train.drop_duplicates(VIDEO).sample(frac=1, random_state=ev.settings["seed"])
    pool = pool.head(POOL)
    pool_paths, labels = crop_paths(pool, ev.data), pool["label"].tolist()
    known = embed(ev.scorer, pool_paths)
    gallery = []
    for video in wrong.head(n).itertuples():
        crops = ev.crops[
            (ev.crops["video"] == video.video) & (ev.crops["dataset"] == video.dataset)
        ]
        crops = crops.iloc[evenly_spaced(len(crops), 3)]
        likeness = known @ embed(ev.scorer, crops["file"].tolist()).mean(axis=0)
        near = np.argsort(-likeness, kind="stable")[:3]
        method = f"{'method ' * (video.method == 'unknown')}{video.method}"
        shown = zip(crops["file"], crops["score"], strict=True)
        gallery.append(
            {
                "title": f"{video.label} ({method}), judged {video.score:.2f}",
                "label": video.label,
                "crops": [(load_crop(path), f"P(FAKE) {score:.2f}") for path, score in shown],
                "neighbours": [
                    (load_crop(pool_paths[i]), f"train: {labels[i]}", labels[i]) for i in near
                ],
            }
        )
    return wrong, gallery


@torch.inference_mode()
def embed(scorer: Scorer, paths: Sequence[str], *, batch_size: int = 64) -> np.ndarray:
    """Features before the last layer, scaled to length 1, float32 (n, features), n > 0."""
    head: Callable[..., torch.Tensor] = scorer.network.forward_head  # type: ignore[assignment]
    body: Callable[..., torch.Tensor] = scorer.network.forward_features  # type: ignore[assignment]
    parts = []
    for start in range(0, len(paths), batch_size):
        images = [scorer.transform(load_crop(path)) for path in paths[start : start + batch_size]]
        features = head(body(torch.stack(images).to(scorer.device)), pre_logits=True)
        parts.append(torch.nn.functional.normalize(features.flatten(1)).float().cpu().numpy())
    return np.concatenate(parts)
