"""What can be had without looking at faces: files alone, and cheap features under lax splits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupShuffleSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from utils.data.crops import STATISTICS, VIDEO
from utils.stats.metrics import bootstrap, y_true_of

ZERO_PIXEL_FEATURES = ("file_bytes", "width", "height", "crops", "frames", "faces_per_frame")
#: What the leakage ladder looks at.
FEATURES = (*STATISTICS, "file_bytes")
#: Random splits of each kind.
REPEATS = 5
#: Above so many rows at most so many crops a video, then whole sources, are kept.
MAX_ROWS, CROPS_PER_VIDEO = 20_000, 10


def find_leaks(index: pd.DataFrame, *, seed: int = 0) -> dict[str, Any]:
    """For data_audit.json: `zero_pixel`, and `leakage_ladder` over all FEATURES."""
    return {
        "zero_pixel": zero_pixel_baseline(index, seed=seed),
        "leakage_ladder": leakage_ladder(index, seed=seed),
    }


def zero_pixel_baseline(index: pd.DataFrame, *, seed: int = 0) -> dict[str, Any]:
    """How well file sizes, crop sizes and counts tell FAKE from REAL, by video.

    A model that is not clearly above this has shown nothing. Arguments are those of
    `zero_pixel_scores`; `seed` is that of the resamples of test sources too.

    Returns:
        `roc_auc`: {value, low, high}, None where it is not defined; `n_train`, `n_test`: videos;
        `features`: for each of ZERO_PIXEL_FEATURES its `name`, `roc_auc` (test AUC of it alone, its
        direction taken from train, or None) and `constant` (one value over all training videos).
    """
    videos = zero_pixel_scores(index, seed=seed)
    train, test = (videos[videos["split"] == split] for split in ("train", "test"))
    defined = test["score"].notna().any()
    features: list[dict[str, Any]] = []
    for name in ZERO_PIXEL_FEATURES:
        constant, auc = bool(train[name].nunique() < 2), None
        if defined and not constant:
            sign = 1 if roc_auc_score(y_true_of(train), train[name]) >= 0.5 else -1
            auc = float(roc_auc_score(y_true_of(test), sign * test[name]))
        features.append({"name": name, "roc_auc": auc, "constant": constant})
    found: dict[str, float | None] = dict.fromkeys(("value", "low", "high"))
    if defined:
        groups, truth = test["source"], y_true_of(test)
        found = bootstrap(truth, test["score"], groups=groups, threshold=0.5, seed=seed)["roc_auc"]
    return {"roc_auc": found, "features": features, "n_train": len(train), "n_test": len(test)}


def zero_pixel_scores(index: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """P(FAKE) of each test video by its files alone: gradient boosting, fitted on train.

    Args:
        index: a row a crop: `dataset, video, frame, label, source, split`, `width, height` (pixels)
            and `file_bytes` (of the crop's file).
    Returns:
        A row a video: `dataset, video, label, source, split`, ZERO_PIXEL_FEATURES and `score`, NaN
        outside test, and everywhere where train or test lacks a class.
    """
    sizes, facts = ["file_bytes", "width", "height"], ["label", "source", "split"]
    grouped = index.groupby(VIDEO)
    videos = grouped[facts].first().join(grouped[sizes].median())
    videos["crops"], videos["frames"] = grouped.size(), grouped["frame"].nunique()
    videos["faces_per_frame"] = videos["crops"] / videos["frames"]
    videos = videos.reset_index().assign(score=np.nan)
    train, test = (videos["split"] == split for split in ("train", "test"))
    if all(videos.loc[rows, "label"].nunique() == 2 for rows in (train, test)):
        x = videos[list(ZERO_PIXEL_FEATURES)]
        model = HistGradientBoostingClassifier(
            max_iter=50, max_leaf_nodes=15, early_stopping=False, random_state=seed
        )
        # One thread: spinning OpenMP threads slow it many times over beside another process.
        with threadpool_limits(1, user_api="openmp"):
            model.fit(x[train], y_true_of(videos[train]))
            videos.loc[test, "score"] = model.predict_proba(x[test])[:, 1]
    return videos


def leakage_ladder(
    index: pd.DataFrame, features: Sequence[str] = FEATURES, *, seed: int = 0
) -> pd.DataFrame:
    """The same features and classifier under a split by frame, by video and by source.

    Nearest neighbours remember: under a split by frame they find a near copy of the test crop in
    the training rows. What a laxer split adds over the split by source was never detection. Where
    a fake keeps its original's look, a split by video can even fall below: the nearest training
    crop then is the original, of the other class. Rows are split 70/30, REPEATS times.

    Args:
        index: a row a crop: `dataset, video, frame, label, source` and the numeric `features`.
        seed: of the sample (of MAX_ROWS), the splits and the resamples.
    Returns:
        Rows "frame", "video", "source" in column `split`; `roc_auc`, by crop; `low`, `high`: the
        95% interval of one split, resampling test sources (all three are means over the splits);
        `flatters`: `roc_auc` minus that of "source". NaN where no split has both classes on both
        sides.
    """
    keys = [key for key in (*VIDEO, "frame", "face", "path") if key in index]
    rows = _thin(index.sort_values(keys, kind="stable"), seed)
    x, y_true = rows[list(features)].to_numpy(np.float64), y_true_of(rows)
    video, source = (rows.groupby(by).ngroup().to_numpy() for by in (VIDEO, "source"))
    ladder = []
    for name, groups in {"frame": np.arange(len(rows)), "video": video, "source": source}.items():
        aucs = []
        splitter = GroupShuffleSplit(REPEATS, test_size=0.3, random_state=seed)
        several = len(np.unique(groups)) > 1
        for train, test in splitter.split(x, groups=groups) if several else ():
            if any(len(np.unique(y_true[side])) < 2 for side in (train, test)):
                continue
            nearest = KNeighborsClassifier(5, weights="distance", algorithm="kd_tree")
            model = make_pipeline(StandardScaler(), nearest).fit(x[train], y_true[train])
            y_score = model.predict_proba(x[test])[:, 1].clip(0, 1)
            draws: dict[str, Any] = {"groups": source[test], "n_resamples": 200, "seed": seed}
            aucs.append(bootstrap(y_true[test], y_score, threshold=0.5, **draws)["roc_auc"])
        means = pd.DataFrame(aucs, columns=["value", "low", "high"], dtype=np.float64).mean()
        ladder.append([name, *means])
    table = pd.DataFrame(ladder, columns=["split", "roc_auc", "low", "high"])
    return table.assign(flatters=table["roc_auc"] - table["roc_auc"].iloc[-1])


def _thin(index: pd.DataFrame, seed: int) -> pd.DataFrame:
    """At most MAX_ROWS rows that keep several crops a video and all videos of a source."""
    if len(index) <= MAX_ROWS:
        return index
    rows = index.sample(frac=1, random_state=seed)
    rows = rows[rows.groupby(VIDEO).cumcount() < CROPS_PER_VIDEO]
    sizes = rows["source"].value_counts().sort_index().sample(frac=1, random_state=seed)
    kept = sizes.index[sizes.cumsum() - sizes < MAX_ROWS]
    return rows[rows["source"].isin(kept)].head(MAX_ROWS)
