"""Single faces that are worth a look: the surest answers, and the worst errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from PIL import Image

from utils import explain
from utils.loading import load_crop
from utils.transforms import Transform
from utils.video import evenly_spaced

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
    pictures = iter([(f, explain.overlay(f, m, limit=limit)) for f, m in zip(faces, maps)])
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
    """What `plot_gallery` draws: three frames of a video, over its length, and faces like them.

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
    known = explain.embed(model, pool_paths, **settings)
    gallery = []
    for video in wrong.itertuples():
        frames = crops[(crops["video"] == video.video) & (crops["dataset"] == video.dataset)]
        frames = frames.sort_values("frame").iloc[evenly_spaced(len(frames), 3)]
        query = explain.embed(model, [paths[row] for row in frames.index], **settings)
        near = explain.neighbours(query.mean(axis=0, keepdims=True), known, k=3)[0]
        method = f"{'method ' * (video.method == 'unknown')}{video.method}"
        labels = [pool["label"].iloc[i] for i in near]
        gallery.append(
            {
                "title": f"{video.label} ({method}), judged {video.score:.2f}",
                "label": video.label,
                "frames": [
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
