"""Groups of the test split: where is the model weaker?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from utils.artifacts import CLASSES
from utils.inspection import image_statistics
from utils.loading import load_crop
from utils.resampling import bootstrap

#: What is cut into thirds, with the words for its ends and middle and the digits of its numbers.
NUMERIC = {
    "face_size": (("small", "middle", "large"), 0),
    "brightness": (("dark", "middle", "bright"), 2),
    "sharpness": (("blurred", "middle", "sharp"), 2),
}
#: Under so many videos of either class, a slice is marked as small.
SMALL = 10
CHUNK = 64


def describe_crops(paths: Sequence[str], *, progress: bool = True) -> pd.DataFrame:
    """`brightness` (mean grey, 0 to 1) and `sharpness` (log10 variance of the Laplacian) a crop."""
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    # Threads: decoding and OpenCV let go of the interpreter lock.
    work = Parallel(n_jobs=-1, prefer="threads", return_as="generator")(
        delayed(_describe)(chunk) for chunk in chunks
    )
    bar = tqdm(work, total=len(chunks), desc="describe", unit="chunk", disable=not progress)
    rows = [row for chunk in bar for row in chunk]
    return pd.DataFrame(rows, columns=["brightness", "sharpness"], dtype=np.float64)


def _describe(paths: Sequence[str]) -> list[tuple[float, float]]:
    facts = [image_statistics(np.asarray(load_crop(path))) for path in paths]
    return [(row["brightness"], row["sharpness"]) for row in facts]


def face_sizes(index: pd.DataFrame, boxes: pd.DataFrame | None = None) -> np.ndarray:
    """Larger side of each face in pixels: in the video where 00's boxes say so, else of the crop.

    Args:
        index: `video, frame, face, width, height`.
        boxes: of `faces/boxes.csv`.
    """
    sizes = index[["width", "height"]].max(axis=1).to_numpy(np.float64)
    if boxes is None:
        return sizes
    keys = ["video", "frame", "face"]
    sides = np.maximum(boxes["x2"] - boxes["x1"], boxes["y2"] - boxes["y1"])
    known = boxes[keys].assign(side=sides).drop_duplicates(keys)
    found = index[keys].merge(known, on=keys, how="left")["side"].to_numpy(np.float64)
    return np.where(np.isnan(found), sizes, found)


def video_facts(predictions: pd.DataFrame) -> pd.DataFrame:
    """A row a video, in the order of its first crop: `dataset, method`, medians, and `faces`.

    Args:
        predictions: a row a crop: `dataset, video, frame, method` and the columns of NUMERIC.

    Returns:
        `faces`: the largest number of faces in one frame, as "1" or "2 or more".
    """
    keys = ["dataset", "video"]
    grouped = predictions.groupby(keys, sort=False)
    facts = grouped[list(NUMERIC)].median()
    facts["method"] = grouped["method"].first()
    in_frame = predictions.groupby([*keys, "frame"], sort=False).size()
    most = in_frame.groupby(keys, sort=False).max()
    facts["faces"] = np.where(most.reindex(facts.index) > 1, "2 or more", "1")
    return facts.reset_index()


def slice_videos(videos: pd.DataFrame, *, threshold: float, **settings: Any) -> dict[str, Any]:
    """Scores of groups of the test videos.

    A method is judged by its fakes against all real videos; every other group by the videos of
    both classes in it. Numbers are cut into thirds of the videos. What is the same for all makes
    no groups and is left out, but for the method.

    Args:
        videos: a row a video: `label, source, score` and the columns of `video_facts`.
        threshold: at and above it a video is called FAKE.
        settings: `n_resamples, seed` of the bootstrap.

    Returns:
        What it is grouped by to name to `n` (of a method its fakes), `REAL`, `FAKE`, `sources`,
        `small` (under SMALL videos of a class), `roc_auc` and `balanced_accuracy`.
    """
    real = videos["label"] == CLASSES[0]
    groups: dict[str, dict[str, pd.Series]] = {"method": {}}
    for method in sorted(videos.loc[~real, "method"].unique()):
        groups["method"][method] = real | (videos["method"] == method)
    for by in ("dataset", "faces"):
        names = sorted(videos[by].unique())
        groups[by] = {name: videos[by] == name for name in names if len(names) > 1}
    for by, (words, digits) in NUMERIC.items():
        groups[by] = _thirds(videos[by], words, digits)
    return {
        by: {
            name: _score(videos[rows], threshold, settings) | _counted(by, videos[rows])
            for name, rows in parts.items()
        }
        for by, parts in groups.items()
        if parts
    }


def _counted(by: str, rows: pd.DataFrame) -> dict[str, Any]:
    counts = {label: int((rows["label"] == label).sum()) for label in CLASSES}
    n = counts["FAKE"] if by == "method" else len(rows)
    small = min(counts.values()) < SMALL
    return {"n": n, **counts, "sources": int(rows["source"].nunique()), "small": small}


def _score(rows: pd.DataFrame, threshold: float, settings: dict[str, Any]) -> dict[str, Any]:
    y_true = (rows["label"] == CLASSES[1]).to_numpy(int)
    table = bootstrap(y_true, rows["score"], groups=rows["source"], threshold=threshold, **settings)
    return {name: table[name] for name in ("roc_auc", "balanced_accuracy")}


def _thirds(values: pd.Series, words: Sequence[str], digits: int) -> dict[str, pd.Series]:
    """Rows of each third by value, named with its range; none if the values hardly differ."""
    edges = np.unique(values.quantile([1 / 3, 2 / 3]))
    part = np.searchsorted(edges, values, side="left")
    present = [values[part == k] for k in range(len(edges) + 1) if (part == k).any()]
    if len(present) < 2:
        return {}
    named = words if len(present) == 3 else (words[0], words[2])
    return {
        f"{word}: {rows.min():.{digits}f} to {rows.max():.{digits}f}": values.between(
            rows.min(), rows.max()
        )
        for word, rows in zip(named, present, strict=True)
    }
