"""What one looks at: heat maps, the worst errors, and the figures and tables of the results."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from scipy.stats import spearmanr

from utils.data.crops import VIDEO, crop_paths
from utils.evaluation.results import RATES, Evaluation
from utils.faces.media import evenly_spaced, load_crop
from utils.model.network import load_model
from utils.model.scoring import Scorer
from utils.report.figures import plot_gallery, plot_heat_maps
from utils.report.score_figures import (
    plot_calibration,
    plot_confusion,
    plot_history,
    plot_metric_intervals,
    plot_precision_recall,
    plot_robustness,
    plot_roc,
    plot_score_histogram,
    plot_slices,
)
from utils.report.words import interval, metric_names, number
from utils.run.jobs import Bar
from utils.stats.decisions import Decision
from utils.stats.metrics import y_true_of

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

    Returns:
        float64 (n, S, S), S the model's image side: above 0 the part speaks for FAKE, below 0 for
        REAL. The unit differs between networks.
    Raises:
        ImportError: captum is not installed; `can_explain` tells.

    Source: Selvaraju et al. (2017), Grad-CAM; Zeiler & Fergus (2014) for occlusion; both by captum.
    """
    from captum.attr import LayerAttribution, LayerGradCam

    images = [scorer.transform(crop)[None].to(scorer.device) for crop in crops]
    layer = _map_layer(scorer.network, images[0]) if images else None
    maps = []
    for image in Bar(images, desc="heat maps", unit="crop", disable=not progress):
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
    channels = {info["module"]: info["num_chs"] for info in getattr(model, "feature_info", [])}
    modules = dict(model.named_modules())
    hooks = [
        modules[name].register_forward_hook(
            lambda _, __, output, name=name: shapes.update({name: getattr(output, "shape", ())})
        )
        for name in channels
        if name in modules
    ]
    with torch.inference_mode():
        model(image)
    for hook in hooks:
        hook.remove()
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

    `heat`, (S, S), gets its full colour from `limit`, above 0, on. uint8 (160, 160, 3).
    """
    side = (160, 160)
    grey = np.asarray(crop.convert("L").resize(side), dtype=np.float32)[..., None]
    strength = cv2.resize(heat.astype(np.float32), side, interpolation=cv2.INTER_CUBIC) / limit
    alpha = np.clip(np.abs(strength), 0, 1)[..., None] * 0.75
    color = np.where(strength[..., None] > 0, (213, 94, 0), (0, 114, 178))  # COLORS of the classes
    return np.clip(grey * (1 - alpha) + color * alpha, 0, 255).astype(np.uint8)


def surest(crops: pd.DataFrame, *, threshold: float, n: int) -> dict[str, pd.DataFrame]:
    """At most `n` of each kind of answer, the surest first, one crop a video.

    `crops` has `video, label, score`.
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


def worst_errors(ev: Evaluation, *, n: int) -> tuple[pd.DataFrame, list[dict[str, Any]]]:
    """The test videos on the wrong side of the threshold, and the worst of them to be looked at.

    Returns:
        Their rows, the farthest from the threshold first; of `n` of them what `plot_gallery` draws:
        three crops, over its length, and the training faces that the network takes for most alike.
    """
    test, beyond = ev.test, ev.test["score"] - ev.decision.threshold
    wrong = test[(beyond >= 0) != (test["label"] == "FAKE")]
    wrong = wrong.loc[beyond[wrong.index].abs().sort_values(ascending=False).index]
    if not len(wrong.head(n)):
        return wrong, []
    videos = ev.train.drop_duplicates(VIDEO)
    pool = videos.sample(frac=1, random_state=ev.settings["seed"]).head(POOL)
    pool_paths, labels = crop_paths(pool, ev.data), pool["label"].tolist()
    known = embed(ev.scorer, pool_paths)
    gallery = []
    for video in wrong.head(n).itertuples():
        same = (ev.crops["video"] == video.video) & (ev.crops["dataset"] == video.dataset)
        crops = ev.crops[same].iloc[evenly_spaced(same.sum(), 3)]
        likeness = known @ embed(ev.scorer, crops["file"].tolist()).mean(axis=0)
        near = np.argsort(-likeness, kind="stable")[:3]
        method = f"{'method ' * (video.method == 'unknown')}{video.method}"
        title = f"{video.label} ({method}), judged {video.score:.2f}"
        shown = [
            (load_crop(path), f"P(FAKE) {score:.2f}")
            for path, score in zip(crops["file"], crops["score"], strict=True)
        ]
        alike = [(load_crop(pool_paths[i]), f"train: {labels[i]}", labels[i]) for i in near]
        entry = {"title": title, "label": video.label, "crops": shown, "neighbours": alike}
        gallery.append(entry)
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


def draw(ev: Evaluation, parts: Mapping[str, Any]) -> Iterator[tuple[str, Axes | Figure | None]]:
    """The figures of what `parts` holds, one after the other.

    Args:
        parts: of metrics.json, of the methods of `Evaluation` and of `stress`; `heat_maps` of
            `explain`, `errors` of `worst_errors`, `history` of history.csv.
    Yields:
        Name of the file in `figures/`, and the figure; None where there is nothing to draw.
    """
    if "confusion" in parts:
        yield from _draw_headline(ev, parts)
    plots: dict[str, Callable[[Any], Axes | Figure]] = {
        "slices": plot_slices,
        "robustness": plot_robustness,
        "heat_maps": plot_heat_maps,
        "errors": plot_gallery,
    }
    for name, plot in plots.items():
        if name in parts:
            yield name, plot(parts[name]) if parts[name] else None
    if "history" in parts:
        axes = plot_history(parts["history"], best_epoch=ev.scorer.facts.get("best_epoch"))
        yield "history", axes[0]


def _draw_headline(ev: Evaluation, head: Mapping[str, Any]) -> Iterator[tuple[str, Axes]]:
    test, crops, threshold = ev.test, ev.test_crops, ev.decision.threshold
    pair, scores = (y_true_of(test), test["score"]), head["video"]
    yield "confusion", plot_confusion(head["confusion"]["video"], title="Test videos")
    yield "roc", plot_roc(*pair, interval=scores["roc_auc"], threshold=threshold)
    average = scores["average_precision"]
    yield "precision_recall", plot_precision_recall(*pair, interval=average, threshold=threshold)
    yield "scores", plot_score_histogram(*pair, threshold=threshold, band=ev.decision.band)
    truth, before = y_true_of(crops), Decision().score(crops["logit"])
    calibration = plot_calibration(truth, crops["score"], before=before, subset="test crops")
    yield "calibration", calibration
    yield "intervals", plot_metric_intervals(head, baselines=head["baselines"]["majority"])


def tabulate(kind: str, parts: Any) -> pd.DataFrame:
    """A table to look at.

    Args:
        kind: "scores" or "baselines" of `Evaluation.headline` (with `models`), "rules" of
            `compare_rules`, "elsewhere" of `judge_elsewhere`.
        parts: what they gave.
    """
    tables = {"scores": _scores, "baselines": _baselines, "rules": _rules, "elsewhere": _elsewhere}
    return pd.DataFrame(tables[kind](parts)).T


def _scores(head: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    def row(name: str) -> dict[str, str]:
        cells = {}
        for level, title in (("video", "videos"), ("frame", "crops")):
            cells[title] = number(head[level][name])
            cells[f"{title}: 95% interval"] = interval(head[level][name])
            cells[f"{title}: majority"] = number(head["baselines"]["majority"][level].get(name))
        return cells

    return {title: row(name) for name, title in metric_names(head).items()}


def _baselines(parts: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    beside, models = parts["baselines"], parts.get("models", {})
    rows = {
        "this model": parts["video"],
        "the files alone": beside["zero_pixel"],
        "labels shuffled": beside["shuffled_labels"],
        **{name: row for name, row in models.items() if "roc_auc_difference" in row},
    }
    return {
        name: {
            "ROC AUC": number(row["roc_auc"]),
            "95% interval": interval(row["roc_auc"]),
            "this model less it": interval(row.get("roc_auc_difference")),
        }
        for name, row in rows.items()
    }


def _rules(parts: Mapping[str, Any]) -> dict[str, dict[str, str]]:
    return {
        rule: {"threshold": number(row["threshold"])}
        | {
            f"{part}: {name}".replace("_", " "): number(row[part][name])
            for name in RATES
            for part in ("val", "test")
        }
        for rule, row in parts["rules"].items()
    }


def _elsewhere(rows: Any) -> dict[str, dict[str, str]]:
    return {
        row["tested_on"]: {
            "ROC AUC": number(row["roc_auc"]),
            "95% interval": interval(row["roc_auc"]),
            **{name.replace("_", " "): number(row[name]) for name in RATES},
        }
        for row in rows
    }
