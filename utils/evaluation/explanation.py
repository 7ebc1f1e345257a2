"""Which part of a face speaks for FAKE, and which single faces are worth a look."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from PIL import Image
from scipy.stats import spearmanr
from tqdm.auto import tqdm

from utils.faces.media import evenly_spaced, load_crop
from utils.model.scoring import Transform
from utils.stats.metrics import group_mean

#: Rows and columns that a map must tell apart.
MIN_PLACES = 4
#: Side of the grey patch and its step, as shares of the image: 7 x 7 places.
PATCH, STEP = 0.25, 0.125
#: Covered images that are computed at once.
PLACES = 8
#: The patch counts as pointing into the mask where the face was replaced by over a half.
REPLACED = 0.5


def can_explain() -> bool:
    """Whether captum, which draws the maps, is installed."""
    return importlib.util.find_spec("captum") is not None


def heat_maps(
    model: torch.nn.Module,
    crops: Sequence[Image.Image],
    transform: Transform,
    *,
    device: torch.device,
    progress: bool = True,
) -> np.ndarray:
    """Which parts of a face raise the logit of FAKE over that of REAL.

    Grad-CAM on the deepest stage of the network that still tells MIN_PLACES places apart. A network
    without such maps (a vision transformer) gets occlusion: how much goes when a part is covered in
    grey; that costs 49 times as much.

    Args:
        model: two logits, REAL and FAKE.
        crops: RGB.
        transform: the model's own.
        device: where the model runs.
        progress: show a bar.

    Raises:
        ImportError: captum is not installed; `can_explain` tells.

    Returns:
        float64 (n, S, S), S the model's image side: above 0 the part speaks for FAKE, below 0 for
        REAL. The unit differs between networks.

    Source: Selvaraju et al. (2017), Grad-CAM; Zeiler & Fergus (2014) for occlusion; both by captum.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    # A copy: `predict` moved the weights in inference mode, and gradients cannot pass those.
    model = copy.deepcopy(model).to(device).eval()
    layer = _map_layer(model, transform(crops[0])[None].to(device)) if len(crops) else None

    def margin(images: torch.Tensor) -> torch.Tensor:
        logits = model(images)
        return logits[:, 1] - logits[:, 0]

    maps = []
    for crop in tqdm(crops, desc="heat maps", unit="crop", disable=not progress):
        image = transform(crop)[None].to(device)
        if layer is None:
            found = _occlusion(margin, image)
        else:
            found = LayerGradCam(margin, layer).attribute(image).detach()
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


def randomised(model: torch.nn.Module, *, seed: int = 0) -> torch.nn.Module:
    """A copy of the model with new random weights: what maps owe to the architecture alone."""
    twin = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for layer in twin.modules():
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()  # type: ignore[operator]
    return twin.eval()


def map_agreement(maps: np.ndarray, others: np.ndarray) -> float:
    """Mean Spearman correlation of two sets of maps, crop by crop; 1 means that nothing changed.

    Source: Adebayo et al. (2018), Sanity Checks for Saliency Maps.
    """
    pairs = zip(maps, others, strict=True)
    values = [
        float(spearmanr(a.ravel(), b.ravel()).statistic)
        for a, b in pairs
        if np.ptp(a) > 0 and np.ptp(b) > 0
    ]
    return float(np.mean(values)) if values else float("nan")


def crop_masks(
    rows: pd.DataFrame, boxes: pd.DataFrame, folder: str | Path, *, side: int
) -> list[np.ndarray | None]:
    """Where each crop was manipulated, cut at the boxes of 00.

    Args:
        rows: `video, frame, face` of crops of fakes.
        boxes: of `faces/boxes.csv`, in pixels of the video.
        folder: `<video>.npz` with `weight`, uint8 (frames, height / 2, width / 2), 0 to 255.
        side: of the masks, pixels.

    Returns:
        bool (side, side) a row; None without a mask, a box, or a manipulated pixel in the crop.
    """
    places = boxes.set_index(["video", "frame", "face"])[["x1", "y1", "x2", "y2"]]
    places = places[~places.index.duplicated()]
    masks: list[np.ndarray | None] = []
    for video, frame, face in rows[["video", "frame", "face"]].itertuples(index=False):
        path, key = Path(folder) / f"{video}.npz", (video, frame, face)
        masks.append(None)
        if not path.is_file() or key not in places.index:
            continue
        with np.load(path, allow_pickle=False) as content:
            weight = content["weight"][frame].astype(np.float32) / 255
        x1, y1, x2, y2 = (places.loc[key].to_numpy(float) / 2).round().astype(int)
        cut = weight[max(0, y1) : y2, max(0, x1) : x2]
        if cut.size and (cut > REPLACED).any():
            masks[-1] = cv2.resize(cut, (side, side), interpolation=cv2.INTER_AREA) > REPLACED
    return masks


def pointing_hits(
    maps: np.ndarray, masks: Sequence[np.ndarray | None], *, index: pd.Index
) -> pd.DataFrame:
    """`heat_in_mask` (1 where the hottest place lies in the mask, else 0) and `mask_share` a map.

    Args:
        maps: of `heat_maps`, (n, S, S).
        masks: of `crop_masks`; without one both are NaN. `mask_share`, its part of the area, is
            what a place drawn at random would hit.
        index: of the rows.

    Source: Zhang et al. (2018), Top-down Neural Attention by Excitation Backprop (pointing game).
    """
    rows = []
    for heat, mask in zip(maps, masks, strict=True):
        if mask is None or not mask.any():
            rows.append((np.nan, np.nan))
            continue
        # Several pixels share the hottest place: the middle of them counts.
        hottest = np.argwhere(heat >= heat.max() - 1e-12)
        y, x = hottest[np.argmin(((hottest - hottest.mean(axis=0)) ** 2).sum(axis=1))]
        rows.append((float(mask[y, x]), float(mask.mean())))
    return pd.DataFrame(rows, columns=["heat_in_mask", "mask_share"], index=index)


def pointing(hits: pd.DataFrame, **settings: Any) -> dict[str, Any]:
    """Share of maps that point into the mask, against a place drawn at random.

    Args:
        hits: of `pointing_hits`, with `source`.
        settings: `n_resamples, seed` of the bootstrap.

    Returns:
        `n`; `hit`, `chance` and `gain` (their difference) with intervals, None without a mask.
    """
    known = hits.dropna()
    if known.empty:
        return {"n": 0, "hit": None, "chance": None, "gain": None}
    parts = {"hit": known["heat_in_mask"], "chance": known["mask_share"]}
    parts["gain"] = parts["hit"] - parts["chance"]
    kept = {"groups": known["source"], **settings}
    return {"n": len(known)} | {name: group_mean(part, **kept) for name, part in parts.items()}


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


@torch.inference_mode()
def embed(
    model: torch.nn.Module,
    paths: Sequence[str],
    transform: Transform,
    *,
    device: torch.device,
    batch_size: int = 64,
) -> np.ndarray:
    """Features before the last layer, scaled to length 1, float32 (n, features)."""
    model = model.to(device).eval()
    head: Callable[..., torch.Tensor] = model.forward_head  # type: ignore[assignment]
    body: Callable[..., torch.Tensor] = model.forward_features  # type: ignore[assignment]
    parts = [np.empty((0, 0), np.float32)]
    for start in range(0, len(paths), batch_size):
        images = [transform(load_crop(path)) for path in paths[start : start + batch_size]]
        features = head(body(torch.stack(images).to(device)), pre_logits=True)
        parts.append(torch.nn.functional.normalize(features.flatten(1)).float().cpu().numpy())
    return np.concatenate(parts[1:]) if len(parts) > 1 else parts[0]


def neighbours(queries: np.ndarray, pool: np.ndarray, *, k: int) -> np.ndarray:
    """Numbers of the k features of `pool` most like each query (cosine), the nearest first."""
    return np.argsort(-(queries @ pool.T), axis=1, kind="stable")[:, :k]


#: Kind of answer to the truth and what the model calls it.
KINDS = {
    "FAKE, found": ("FAKE", "FAKE"),
    "REAL, kept": ("REAL", "REAL"),
    "REAL, called FAKE": ("REAL", "FAKE"),
    "FAKE, missed": ("FAKE", "REAL"),
}
#: Colours of heat maps are full at this quantile of their strength.
FULL = 0.98


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


def heat_rows(
    chosen: Mapping[str, pd.DataFrame], faces: Sequence[Image.Image], maps: np.ndarray
) -> dict[str, list[tuple[Image.Image, np.ndarray, str, str]]]:
    """What `plot_heat_maps` draws.

    Args:
        chosen: of `surest`.
        faces: their crops, kind after kind.
        maps: of `heat_maps`, a map a crop.
    """
    limit = float(pd.Series(abs(maps).ravel()).quantile(FULL)) or 1.0
    pictures = iter([(f, overlay(f, m, limit=limit)) for f, m in zip(faces, maps)])
    return {
        kind: [(*next(pictures), row.label, f"{row.score:.2f}") for row in these.itertuples()]
        for kind, these in chosen.items()
    }


def wrong_answers(videos: pd.DataFrame, *, threshold: float) -> pd.DataFrame:
    """The videos on the wrong side of the threshold, the farthest from it first.

    Args:
        videos: a row a video: `label, score`.
        threshold: scores from it on mean FAKE.
    """
    wrong = videos[(videos["score"] >= threshold) != (videos["label"] == "FAKE")]
    return wrong.loc[(wrong["score"] - threshold).abs().sort_values(ascending=False).index]


def worst_errors(
    wrong: pd.DataFrame,
    crops: pd.DataFrame,
    paths: Sequence[str],
    pool: pd.DataFrame,
    pool_paths: Sequence[str],
    *,
    model: torch.nn.Module,
    transform: Transform,
    device: torch.device,
) -> list[dict[str, Any]]:
    """What `plot_gallery` draws: three crops of a video, over its length, and faces like them.

    Args:
        wrong: a row a video: `dataset, video, label, method, score`.
        crops: a row a crop: `dataset, video, frame, score`; its index points into `paths`.
        paths: of the crops.
        pool: training crops to be compared with: `label`.
        pool_paths: of these, in the same order.
        model: takes the faces for alike, by its features before the last layer.
        transform: the model's own.
        device: where the model runs.
    """
    settings: dict[str, Any] = {"transform": transform, "device": device}
    known = embed(model, pool_paths, **settings)
    gallery = []
    for video in wrong.itertuples():
        frames = crops[(crops["video"] == video.video) & (crops["dataset"] == video.dataset)]
        frames = frames.sort_values("frame").iloc[evenly_spaced(len(frames), 3)]
        query = embed(model, [paths[row] for row in frames.index], **settings)
        near = neighbours(query.mean(axis=0, keepdims=True), known, k=3)[0]
        method = f"{'method ' * (video.method == 'unknown')}{video.method}"
        labels = [pool["label"].iloc[i] for i in near]
        gallery.append(
            {
                "title": f"{video.label} ({method}), judged {video.score:.2f}",
                "label": video.label,
                "crops": [
                    (load_crop(paths[row]), f"P(FAKE) {score:.2f}")
                    for row, score in frames["score"].items()
                ],
                "neighbours": [
                    (load_crop(pool_paths[i]), f"train: {label}", label)
                    for i, label in zip(near, labels, strict=True)
                ],
            }
        )
    return gallery
