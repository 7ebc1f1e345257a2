"""The index and its audit: what was found, what it gives away, and how far apart the splits are."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
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

from utils.data.crops import STATISTICS, UNITS, UNKNOWN_CUT, VIDEO, read_crops, recipe_of
from utils.data.datasets import words_read
from utils.data.splits import check_splits, members, split_crops
from utils.faces.detection import DRAWN, read_about
from utils.report.words import escaped, how_far_apart
from utils.run.artifacts import ARTIFACTS, CLASSES, SPLITS, bring, write_json, write_table
from utils.stats.metrics import bootstrap, y_true_of

INDEX = ("index.csv", "data_audit.json")
ZERO_PIXEL_FEATURES = ("file_bytes", "width", "height", "crops", "frames", "faces_per_frame")
#: What the leakage ladder looks at.
FEATURES = (*STATISTICS, "file_bytes")
#: Where `recipe_of` differs from data set to data set.
SEVERAL_CUTS = "- **cut in several ways**: 05 cuts new files as most of the training crops were cut"
#: Random splits of each kind.
REPEATS = 5
#: Above so many rows at most so many crops a video, then whole sources, are kept.
MAX_ROWS, CROPS_PER_VIDEO = 20_000, 10


def write_index(
    index: pd.DataFrame,
    left_out: pd.DataFrame,
    output: str | Path,
    *,
    leaks: dict[str, Any],
    split_by: str,
    seed: int = 0,
) -> str:
    """Write index.csv and data_audit.json; return the fingerprint of the data.

    Args:
        index: of `split_crops`, with this `seed`, and `split_by`, what it was split by.
        left_out: `dataset, reason, name` of all that is not used.
        leaks: of `find_leaks`.
    Raises:
        LeakageError: the split leaks.
    """
    audit = {
        "datasets": recognised(index),
        "videos": index.drop_duplicates(VIDEO)["label"].value_counts().to_dict(),
        "crops": index["label"].value_counts().to_dict(),
        "left_out": {
            reason: {"count": len(names), "examples": sorted(names)[:5]}
            for reason, names in left_out.groupby("reason")["name"]
        },
        "splits": split_summary(index).to_dict("index"),
        "checks": check_splits(index),
        "split_by": split_by,
        **count_known(index),
        **leaks,
        "fingerprint": fingerprint(index),
        "seed": seed,
    }
    write_json(audit, output, "data_audit.json")
    told = [name for name in ("person", "group") if (index[name] != "").any()]
    write_table(index[ARTIFACTS["index.csv"].columns + told], output, "index.csv")
    return str(audit["fingerprint"])


def recognised(index: pd.DataFrame) -> list[dict[str, Any]]:
    """What each data set was taken for: its layout, how videos were told apart, its labels."""
    rows = []
    for name, crops in index.groupby("dataset"):
        videos = crops.drop_duplicates("video")
        root, layout = videos.iloc[0][["root", "layout"]]
        units = videos["unit"].value_counts()
        rows.append(
            {
                "name": name,
                "layout": ", ".join(sorted(videos["layout"].unique())),
                "videos": len(videos),
                "crops": len(crops),
                "told_apart": "; ".join(f"{n:,} {UNITS[unit]}" for unit, n in units.items()),
                "loose_images": int(units.get("image", 0)),
                "labels": "; ".join(words_read(videos)),
                "cut": str(recipe_of(root, layout) or UNKNOWN_CUT),
                "faces": read_about(root),
                "official": {s: int(n) for s, n in videos["official"].value_counts().items() if s},
            }
        )
    return rows


def count_known(index: pd.DataFrame) -> dict[str, Any]:
    """How many test videos show a person, or are of a group, that was trained on.

    Returns:
        `known_by`: "person", "group" or "" (nothing is known of either); `test_videos`;
        `test_videos_known`: so many of them, and `test_videos_unknown`: of whom it is not known.
    """
    videos = index.drop_duplicates(VIDEO)
    by = next((name for name in ("person", "group") if (videos[name] != "").any()), "")
    test = videos[videos["split"] == "test"]
    counts = {"known_by": by, "test_videos": len(test), "test_videos_known": 0}
    if not by:
        return counts | {"test_videos_unknown": len(test)}
    ids = members(videos, by).map(set)
    trained = set().union(*ids[videos["split"] == "train"]) - {""}
    shown = ids[test.index]
    counts["test_videos_known"] = int(shown.map(lambda names: bool(names & trained)).sum())
    return counts | {"test_videos_unknown": int((test[by] == "").sum())}


def fingerprint(crops: pd.DataFrame) -> str:
    """A short name of opened crops: 16 hex digits that change with any crop, label or name."""
    rows = sorted(zip(crops["dataset"], crops["path"], crops["label"], crops["digest"]))
    return hashlib.blake2b(repr(rows).encode(), digest_size=8).hexdigest()


def ensure_index(data: str | Path, output: str | Path) -> str:
    """See to it that OUTPUT holds index.csv and data_audit.json; one sentence says how.

    Attached ones are brought along, so that this notebook's output is enough for the next. Where
    there are none, both are made as 01_explore_data makes them; raises what `scan_crops` does then.
    """
    if found := bring(INDEX, output):
        return found
    crops, left_out = read_crops(data)
    index, unplaced, by = split_crops(crops)
    left_out = pd.concat([left_out, unplaced], ignore_index=True)
    write_index(index, left_out, output, leaks=find_leaks(index), split_by=by)
    return "No index.csv here or attached: made as 01_explore_data makes it, at its defaults."


def describe_split(index: pd.DataFrame, split_by: str) -> str:
    """Markdown: what the data was taken for, what `check_splits` proved, and how far it reaches."""
    datasets = recognised(index)
    lines = [
        f"- {escaped(row['name'])} ({row['layout']}): {row['told_apart']}"
        + "; ".join(["", row["labels"]] if row["labels"] else [])
        + f"; {row['cut']}"
        + "; the faces are drawn" * (row["faces"] == DRAWN)
        for row in datasets
    ]
    if len({row["cut"] for row in datasets}) > 1:
        lines.append(SEVERAL_CUTS)
    lines += [f"- {check.replace('_', ' ')}: holds" for check in check_splits(index)]
    told = how_far_apart({"split_by": split_by, "datasets": datasets, **count_known(index)})
    sources, videos = index["source"].nunique(), sum(row["videos"] for row in datasets)
    return "\n".join([*lines, "", f"{sources:,} sources, {videos:,} videos. {told}"])


def split_summary(index: pd.DataFrame) -> pd.DataFrame:
    """Sources, videos, crops and videos a class in each split; index = split."""
    videos = index.drop_duplicates(VIDEO)
    table = pd.crosstab(videos["split"], videos["label"]).reindex(index=SPLITS, columns=CLASSES)
    table = table.assign(
        sources=index.groupby("split")["source"].nunique(),
        videos=videos.groupby("split").size(),
        crops=index.groupby("split").size(),
    )
    return table[["sources", "videos", "crops", *CLASSES]].fillna(0).astype(int)


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
    """The same features and classifier under a split by frame, by video, by source, and further.

    Nearest neighbours remember: under a split by frame they find a near copy of the test crop in
    the training rows. What a laxer split adds over the split by source was never detection. Where
    a fake keeps its original's look, a split by video can even fall below: the nearest training
    crop then is the original, of the other class. Rows are split 70/30, REPEATS times.

    Args:
        index: a row a crop: `dataset, video, frame, label, source`, the numeric `features`, and, if
            known, `person` (the target counts) or `group`, which give a rung of their own.
        seed: of the sample (of MAX_ROWS), the splits and the resamples.
    Returns:
        Rows "frame", "video", "source", and "person" or "group", in column `split`; `roc_auc`, by
        crop; `low`, `high`: the 95% interval of one split, resampling test sources (all three are
        means over the splits); `flatters`: `roc_auc` minus that of the last row. NaN where no split
        has both classes on both sides.
    """
    keys = [key for key in (*VIDEO, "frame", "face", "path") if key in index]
    rows = _thin(index.sort_values(keys, kind="stable"), seed)
    x, y_true = rows[list(features)].to_numpy(np.float64), y_true_of(rows)
    video, source = (rows.groupby(by).ngroup().to_numpy() for by in (VIDEO, "source"))
    ladder, rungs = [], {"frame": np.arange(len(rows)), "video": video, "source": source}
    for name in ("person", "group"):
        if name in rows and len(rungs) == 3:
            ids = members(rows, name).str[0]
            if ids[ids != ""].nunique() > 3:
                rungs[name] = ids.where(ids != "", rows["source"]).to_numpy()
    for name, groups in rungs.items():
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
