"""Split by source, so that no scene stands on both sides; prove it; find what files give away."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import DisjointSet
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupShuffleSplit
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits

from utils.data.crops import STATISTICS, VIDEO, Kept, read_crops
from utils.run.artifacts import ARTIFACTS, CLASSES, SPLITS, bring, write_json, write_table
from utils.run.machine import stable_hash
from utils.stats.metrics import bootstrap, y_true_of

#: Shares of the videos for train, val and test.
FRACTIONS = np.array([0.70, 0.15, 0.15])
INDEX = ("index.csv", "data_audit.json")
ZERO_PIXEL_FEATURES = ("file_bytes", "width", "height", "crops", "frames", "faces_per_frame")
#: What the leakage ladder looks at.
FEATURES = (*STATISTICS, "file_bytes")
#: Random splits of each kind.
REPEATS = 5
#: Above so many rows at most so many crops a video, then whole sources, are kept.
MAX_ROWS, CROPS_PER_VIDEO = 20_000, 10


class LeakageError(ValueError):
    """A split that lets the test be known before it is taken."""


def split_crops(crops: pd.DataFrame, *, seed: int = 0) -> Kept:
    """`crops` of `inspect_crops` with `source` and `split`, and those that have no place in it."""
    crops = crops.assign(source=source_groups(crops))
    crops["split"] = split_by_source(crops, seed=seed)
    placed = crops["split"] != ""
    left_out = crops.loc[~placed, ["dataset", "path"]].rename(columns={"path": "name"})
    left_out["reason"] = "linked to an official test or val video"
    return crops[placed].reset_index(drop=True), left_out


def source_groups(crops: pd.DataFrame) -> pd.Series:
    """Name the source of every crop: videos linked by `original` or by an identical crop are one.

    It is the smallest id of a real video in the group, or of any where no real one is named.

    Args:
        crops: with `video, label, original` and, where they were opened, `digest`.
    """
    videos = crops.drop_duplicates(["video", "original"])
    links = [(v, o) for v, o in zip(videos["video"], videos["original"]) if o]
    if "digest" in crops:
        # A byte-identical crop in two videos would stand on both sides of a split: merge them.
        pairs = crops[["digest", "video"]].drop_duplicates()
        first = pairs.groupby("digest")["video"].transform("first")
        links += [(v, o) for v, o in zip(pairs["video"], first) if v != o]
    groups = DisjointSet({*crops["video"], *(name for link in links for name in link)})
    for link in links:
        groups.merge(*link)
    real = set(crops.loc[crops["label"] == "REAL", "video"]) | set(videos["original"])
    sources: dict[str, str] = {}
    for names in groups.subsets():
        sources |= dict.fromkeys(names, min(names & real or names))
    return crops["video"].map(sources).rename("source")


def split_by_source(crops: pd.DataFrame, *, seed: int = 0) -> pd.Series:
    """Give every crop "train", "val", "test" or "" (left out); all crops of a source share it.

    Sources are dealt out from the largest to the smallest, ties by a hash of name and seed, each
    to the split that lacks its data set and class most. So the result is stratified, and depends
    on neither the order of files nor the machine. Official splits stand: what a data set lists as
    val or test is joined by nothing else of that data set, and a row that is linked to an official
    test or val video without being listed there gets "". An official train list without a val list
    only keeps its videos out of test.

    Args:
        crops: with `video, dataset, label, source` and `official` (a split or "").
    Raises:
        ValueError: too few sources of one class for three splits.
    """
    with_val = crops["dataset"].isin(crops.loc[crops["official"] == "val", "dataset"])
    official = crops["official"].where(with_val | (crops["official"] != "train"), "")
    fixed: dict[str, str] = {}
    for split in SPLITS:  # the later, the stricter: test wins over val, val over train
        fixed |= dict.fromkeys(crops.loc[official == split, "source"], split)
    # Only what an official list names may stand beside it on the val or test side.
    where = crops["source"].map(fixed)
    beside = where.isin(["val", "test"]) & (official != where)
    videos = crops[~beside].drop_duplicates(VIDEO)
    counts = pd.crosstab(videos["source"], [videos["dataset"], videos["label"]])
    lists = set(zip(crops["dataset"], official))
    strata = counts.columns.get_level_values(0)
    closed = np.array([[s != "train" and (d, s) in lists for d in strata] for s in SPLITS])
    assigned = _deal(counts, closed, fixed, seed)
    _repair(assigned, fixed, videos)
    return crops["source"].map(assigned).where(~beside, "").rename("split")


def _deal(
    counts: pd.DataFrame, closed: np.ndarray, fixed: dict[str, str], seed: int
) -> dict[str, str]:
    """Deal sources out by the largest remaining need of their strata.

    A stratum is a data set and class; `closed`, (3, n_strata), marks what official lists filled.
    """
    videos = {str(source): row for source, row in zip(counts.index, counts.to_numpy())}
    total = counts.sum().to_numpy()  # (n_strata,)
    need = np.outer(FRACTIONS, total)  # (3, n_strata)
    assigned = {source: split for source, split in fixed.items() if source in videos}
    for source, split in assigned.items():
        need[SPLITS.index(split)] -= videos[source]
    order = sorted(
        (source for source in videos if source not in assigned),
        key=lambda source: (-videos[source].sum(), stable_hash(source, seed), source),
    )
    for source in order:
        # Relative need: the split whose share of these strata is furthest from full.
        weight = videos[source] / total
        lacking = (need / np.maximum(FRACTIONS[:, None] * total, 1e-12)) @ weight
        lacking[closed[:, weight > 0].any(axis=1)] = -np.inf
        best = int(np.argmax(np.round(lacking, 9)))
        assigned[source] = SPLITS[best]
        need[best] -= videos[source]
    return assigned


def _repair(assigned: dict[str, str], fixed: dict[str, str], videos: pd.DataFrame) -> None:
    """Make sure that every split holds both classes, or say why it cannot."""
    sources = {label: set(videos.loc[videos["label"] == label, "source"]) for label in CLASSES}
    for label, names in sources.items():
        if (n := len(names)) < len(SPLITS):
            raise ValueError(
                f"{n} {'source' if n == 1 else 'sources'} of {label} videos "
                f"({', '.join(sorted(names)[:3])}) cannot be split three ways: train, val and test "
                f"need one each, so at least {len(SPLITS)}. Add videos of other people."
            )
    size = videos["source"].value_counts()
    for split, label in product(SPLITS, CLASSES):
        held = Counter(assigned[source] for source in sources[label])
        if held[split]:
            continue
        # Take from the split that has most, and the smallest source that can be spared.
        donor = max(SPLITS, key=lambda name: held[name])
        movable = [s for s in sources[label] if assigned[s] == donor and s not in fixed]
        if held[donor] < 2 or not movable:
            raise ValueError(f"the {split} split would hold no {label} video; add {label} sources")
        assigned[min(movable, key=lambda source: (size[source], source))] = split
    for split, label in product(SPLITS, CLASSES):  # what was moved may be missing where it was
        if not any(assigned[source] == split for source in sources[label]):
            raise ValueError(
                f"no split of these sources gives {split} a {label} video; add {label} sources"
            )


def check_splits(index: pd.DataFrame) -> dict[str, bool]:
    """Prove that an index leaks nothing from one split into another: {check: True}.

    Two checks need `original` and `digest`, and run where these columns are present.

    Raises:
        LeakageError: names the check that fails and the first offender.
    """
    names = index["dataset"] + "/" + index["video"]
    checks = {
        "sources_disjoint": _offender(index["source"], index["split"]),
        "videos_in_one_split": _offender(names, index["split"]),
    }
    if "original" in index:
        where = index["original"].map(dict(zip(index["video"], index["split"])))
        apart = index.loc[where.notna() & (where != index["split"]), "video"]
        checks["fakes_with_their_original"] = "" if apart.empty else str(apart.iloc[0])
    if "digest" in index:
        checks["no_identical_crop_across_splits"] = _offender(index["digest"], index["split"])
    for check, offender in checks.items():
        if offender:
            raise LeakageError(f"the split leaks ({check} fails): {offender} is in two splits")
    return dict.fromkeys(checks, True)


def _offender(names: pd.Series, split: pd.Series) -> str:
    """The first name that stands in more than one split, or ""."""
    spread = split.groupby(names).nunique()
    return str(spread.index[spread > 1][0]) if (spread > 1).any() else ""


def describe_split(index: pd.DataFrame) -> str:
    """Markdown: what `check_splits` proved, and how much the data says of what belongs together."""
    lines = [f"- {check.replace('_', ' ')}: holds" for check in check_splits(index)]
    videos = index.groupby("source")["video"].nunique()
    alone = int((videos == 1).sum())
    note = f"{alone:,} of {len(videos):,} sources have a single video."
    if alone == len(videos):
        note += (
            " **Nothing here says which images belong together.** If several show one person or "
            "scene, some may stand on both sides of the split, and every figure from here on may "
            "flatter."
        )
    return "\n".join([*lines, "", note])


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


def control_labels(index: pd.DataFrame, *, seed: int = 0) -> pd.Series:
    """Labels of a control run: in train and val, drawn anew a video and blind to the true ones.

    In each of these splits the same share of truly REAL and of truly FAKE videos is called FAKE,
    so the labels teach nothing about the truth. The test split keeps its true labels: a sound
    pipeline then scores an AUC about 0.5, and one that leaks scores more.
    """
    videos = index.drop_duplicates(VIDEO).sort_values(VIDEO)
    labels = videos["label"].copy()
    rng = np.random.default_rng(seed)
    for split in ("train", "val"):
        share = (videos.loc[videos["split"] == split, "label"] == "FAKE").mean()
        for label in CLASSES:
            rows = videos.index[(videos["split"] == split) & (videos["label"] == label)]
            fake = rng.permutation(len(rows)) < round(share * len(rows))
            labels[rows] = np.where(fake, "FAKE", "REAL")
    drawn = index[VIDEO].merge(videos[VIDEO].assign(label=labels), on=VIDEO, how="left")
    return drawn["label"].set_axis(index.index)


def write_index(
    index: pd.DataFrame,
    left_out: pd.DataFrame,
    output: str | Path,
    *,
    leaks: dict[str, Any],
    seed: int = 0,
) -> str:
    """Write index.csv and data_audit.json; return the fingerprint of the data.

    Args:
        index: of `split_crops`, with this `seed`.
        left_out: `dataset, reason, name` of all that is not used.
        leaks: of `find_leaks`.
    Raises:
        LeakageError: the split leaks.
    """
    audit = {
        "datasets": [
            {"name": name, "videos": rows["video"].nunique(), "crops": len(rows)}
            for name, rows in index.groupby("dataset")
        ],
        "videos": index.drop_duplicates(VIDEO)["label"].value_counts().to_dict(),
        "crops": index["label"].value_counts().to_dict(),
        "left_out": {
            reason: {"count": len(names), "examples": sorted(names)[:5]}
            for reason, names in left_out.groupby("reason")["name"]
        },
        "splits": split_summary(index).to_dict("index"),
        "checks": check_splits(index),
        **leaks,
        "fingerprint": fingerprint(index),
        "seed": seed,
    }
    write_json(audit, output, "data_audit.json")
    write_table(index[ARTIFACTS["index.csv"].columns], output, "index.csv")
    return str(audit["fingerprint"])


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
    index, unplaced = split_crops(crops)
    left_out = pd.concat([left_out, unplaced], ignore_index=True)
    write_index(index, left_out, output, leaks=find_leaks(index))
    return "No index.csv here or attached: made as 01_explore_data makes it, at its defaults."


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
