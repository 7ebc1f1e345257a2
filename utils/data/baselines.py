"""What can be had without looking at faces: files alone, and cheap features under lax splits."""

from __future__ import annotations

import os
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

from utils.run.artifacts import CLASSES
from utils.stats.metrics import bootstrap, paired_bootstrap

ZERO_PIXEL_FEATURES = ("file_bytes", "width", "height", "crops", "frames", "faces_per_frame")
#: Crops of one video that the ladder keeps where it has to drop rows.
CROPS_PER_VIDEO = 10
UNDEFINED: dict[str, float | None] = {"value": None, "low": None, "high": None}


def zero_pixel_baseline(index: pd.DataFrame, *, seed: int = 0) -> dict[str, Any]:
    """How well file sizes, crop sizes and counts tell FAKE from REAL, by video.

    A model that is not clearly above this has shown nothing. Gradient boosting is trained on the
    train split and scored once on the test split; the interval resamples test sources.

    Args:
        index: a row a crop: `video, frame, label, source, split, width, height` (pixels),
            `file_bytes` (of the crop's file), and `dataset` if videos of several may share a name.
        seed: of the resamples.

    Returns:
        `roc_auc`: {value, low, high}, None where train or test holds one class only or no video;
        `features`: for each of ZERO_PIXEL_FEATURES its `name`, `roc_auc` (test AUC of that feature
        alone, its direction taken from train; None where not defined) and `constant` (one value
        over all training videos); `n_train`, `n_test`: videos.

    Raises:
        ValueError: a column is missing or holds a missing value.
    """
    videos = _zero_pixel_features(index)
    train, test = (videos[videos["split"] == split] for split in ("train", "test"))
    y_train, y_test = _y_true(train), _y_true(test)
    defined = _both_classes(y_train) and _both_classes(y_test)

    features: list[dict[str, Any]] = []
    for name in ZERO_PIXEL_FEATURES:
        constant = bool(train[name].nunique() < 2)
        auc = None
        if defined and not constant:
            sign = 1 if roc_auc_score(y_train, train[name]) >= 0.5 else -1
            auc = float(roc_auc_score(y_test, sign * test[name]))
        features.append({"name": name, "roc_auc": auc, "constant": constant})

    result = dict(UNDEFINED)
    if defined:
        y_score, groups = _fit_zero_pixel(train, test, seed), test["source"]
        result = bootstrap(y_test, y_score, groups=groups, threshold=0.5, seed=seed)["roc_auc"]
    return {"roc_auc": result, "features": features, "n_train": len(train), "n_test": len(test)}


def zero_pixel_scores(index: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """P(FAKE) of each test video by `zero_pixel_baseline`: `dataset` where given, `video, score`.

    The train split must hold both classes. Arguments as there.
    """
    videos = _zero_pixel_features(index)
    train, test = (videos[videos["split"] == split] for split in ("train", "test"))
    keys = [key for key in ("dataset", "video") if key in videos]
    return test[keys].assign(score=_fit_zero_pixel(train, test, seed)).reset_index(drop=True)


def beside_files(
    videos: pd.DataFrame,
    index: pd.DataFrame,
    paths: Sequence[str],
    baseline: dict[str, Any],
    *,
    threshold: float,
    seed: int = 0,
    **settings: Any,
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The zero-pixel baseline on the videos of a model, and what the model has over it.

    Args:
        videos: a row a video of val and test: `dataset, video, source, label, split, score`.
        index: of index.csv.
        paths: of its crops, in the same order.
        baseline: of `zero_pixel_baseline`; returned as it is where that is not defined.
        threshold: of the model.
        seed: of the baseline and of the bootstrap.
        settings: `n_resamples` of the bootstrap.
    Returns:
        `videos` with `zero_pixel`, P(FAKE) by the files alone; the baseline with its scores by
        `video`, and `roc_auc_difference`: the model less it, with its paired interval.
    """
    if baseline["roc_auc"]["value"] is None:
        return videos, baseline
    sized = index.assign(file_bytes=[os.path.getsize(path) for path in paths])
    files = zero_pixel_scores(sized, seed=seed).rename(columns={"score": "zero_pixel"})
    videos = videos.merge(files, on=["dataset", "video"], how="left")
    test = videos[videos["split"] == "test"]
    kept = {"groups": test["source"], "seed": seed, **settings}
    y_true = _y_true(test)
    blind = bootstrap(y_true, test["zero_pixel"], threshold=0.5, **kept)
    pair = paired_bootstrap(
        *(y_true, test["score"], test["zero_pixel"]),
        threshold=threshold,
        other_threshold=0.5,
        **kept,
    )
    known = {"video": blind, "roc_auc": blind["roc_auc"], "roc_auc_difference": pair["roc_auc"]}
    return videos, baseline | known


def _zero_pixel_features(index: pd.DataFrame) -> pd.DataFrame:
    facts = ["label", "source", "split"]
    _require(index, ["video", "frame", "width", "height", "file_bytes", *facts])
    grouped = index.groupby(_video_codes(index))
    videos = grouped[["file_bytes", "width", "height"]].median()
    videos["crops"], videos["frames"] = grouped.size(), grouped["frame"].nunique()
    videos["faces_per_frame"] = videos["crops"] / videos["frames"]
    names = [name for name in ("dataset", "video") if name in index]
    return videos.join(grouped[[*names, *facts]].first())


def _fit_zero_pixel(train: pd.DataFrame, test: pd.DataFrame, seed: int) -> np.ndarray:
    """P(FAKE) of the test rows, (n,)."""
    columns = list(ZERO_PIXEL_FEATURES)
    model = HistGradientBoostingClassifier(
        max_iter=50, max_leaf_nodes=15, early_stopping=False, random_state=seed
    )
    # One thread: spinning OpenMP threads slow it many times over beside another process.
    with threadpool_limits(1, user_api="openmp"):
        return model.fit(train[columns], _y_true(train)).predict_proba(test[columns])[:, 1]


def leakage_ladder(
    index: pd.DataFrame,
    features: Sequence[str],
    *,
    seed: int = 0,
    max_rows: int = 20_000,
    repeats: int = 5,
) -> pd.DataFrame:
    """The same features and classifier under a split by frame, by video and by source.

    Nearest neighbours remember: under a split by frame they find a near copy of the test crop in
    the training rows. What a laxer split adds over the split by source was never detection. Where
    a fake keeps its original's look, a split by video can even fall below: the nearest training
    crop then is the original, of the other class. Rows are split 70/30, `repeats` times.

    Args:
        index: a row a crop: `video, frame, label, source`, the features, and `dataset` if videos
            of several may share a name.
        features: names of numeric columns, such as brightness or file size.
        seed: of the sample, the splits and the resamples.
        max_rows: above this, at most CROPS_PER_VIDEO crops a video, then whole sources, are kept.
        repeats: number of random splits.

    Returns:
        Rows "frame", "video", "source" in column `split`; `roc_auc`, by crop; `low`, `high`: the
        95% interval of a single split, resampling test sources (all three means over `repeats`);
        `flatters`: `roc_auc` minus that of "source". NaN where no split has both classes on both
        sides.

    Raises:
        ValueError: no feature, a column is missing, or it holds a missing value.
    """
    features = list(features)
    if not features:
        raise ValueError("features is empty; name at least one numeric column of the index")
    _require(index, ["video", "frame", "label", "source", *features])
    keys = [key for key in ("dataset", "video", "frame", "face", "path") if key in index]
    rows = _thin(index.sort_values(keys, kind="stable"), max_rows, seed)
    x, y_true = rows[features].to_numpy(np.float64), _y_true(rows)
    sources = pd.factorize(rows["source"], sort=True)[0]
    units = {"frame": np.arange(len(rows)), "video": _video_codes(rows), "source": sources}
    ladder = []
    for name, groups in units.items():
        aucs = []
        splitter = GroupShuffleSplit(repeats, test_size=0.3, random_state=seed)
        splits = splitter.split(x, groups=groups) if len(np.unique(groups)) > 1 else ()
        for train, test in splits:
            if not (_both_classes(y_true[train]) and _both_classes(y_true[test])):
                continue
            nearest = KNeighborsClassifier(5, weights="distance", algorithm="kd_tree")
            model = make_pipeline(StandardScaler(), nearest).fit(x[train], y_true[train])
            y_score = model.predict_proba(x[test])[:, 1].clip(0, 1)
            aucs.append(
                bootstrap(
                    y_true[test],
                    y_score,
                    groups=sources[test],
                    threshold=0.5,
                    n_resamples=200,
                    seed=seed,
                )["roc_auc"]
            )
        means = pd.DataFrame(aucs or [UNDEFINED], dtype=np.float64).mean()
        row = {"split": name, "roc_auc": means["value"], "low": means["low"], "high": means["high"]}
        ladder.append(row)
    table = pd.DataFrame(ladder)
    table["flatters"] = table["roc_auc"] - table["roc_auc"].iloc[-1]
    return table


def _thin(index: pd.DataFrame, max_rows: int, seed: int) -> pd.DataFrame:
    """At most `max_rows` rows that keep several crops a video and all videos of a source."""
    if len(index) <= max_rows:
        return index
    rows = index.sample(frac=1, random_state=seed)
    rows = rows[rows.groupby(_video_codes(rows)).cumcount() < CROPS_PER_VIDEO]
    sizes = rows["source"].value_counts().sort_index().sample(frac=1, random_state=seed)
    kept = sizes.index[sizes.cumsum() - sizes < max_rows]
    return rows[rows["source"].isin(kept)].head(max_rows)


def _video_codes(index: pd.DataFrame) -> np.ndarray:
    """A number a video; videos of two data sets may share a name."""
    keys = ["dataset", "video"] if "dataset" in index else ["video"]
    return index.groupby(keys, sort=True).ngroup().to_numpy()


def _y_true(rows: pd.DataFrame) -> np.ndarray:
    return (rows["label"] == CLASSES[1]).to_numpy(np.int64)


def _both_classes(y_true: np.ndarray) -> bool:
    return len(np.unique(y_true)) == 2


def _require(index: pd.DataFrame, columns: list[str]) -> None:
    missing = [column for column in columns if column not in index]
    if missing:
        raise ValueError(f"index lacks the columns {', '.join(missing)}")
    gaps = [column for column in columns if index[column].isna().any()]
    if gaps:
        raise ValueError(f"index has missing values in {', '.join(gaps)}; drop or fill these rows")
