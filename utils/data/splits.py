"""Split by source, so that no scene stands on both sides, and prove it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from utils.run.artifacts import CLASSES, SPLITS
from utils.run.machine import stable_hash

FRACTIONS = (0.70, 0.15, 0.15)


class LeakageError(ValueError):
    """A split that lets the test be known before it is taken."""


def source_groups(crops: pd.DataFrame) -> pd.Series:
    """Name the source of every crop: videos linked by `original` or by an identical crop are one.

    Args:
        crops: with `video`, `original` (video id or "") and, where the crops were opened,
            `digest` (of the file's bytes).
    Returns:
        The source of each row: the smallest id among the real videos of its group, or among all
        ids where no real one is named.
    """
    videos = crops.drop_duplicates(["video", "original"])
    links = [(v, o) for v, o in zip(videos["video"], videos["original"]) if o]
    if "digest" in crops:
        # A byte-identical crop in two videos would stand on both sides of a split: merge them.
        pairs = crops[["digest", "video"]].drop_duplicates()
        pairs = pairs[pairs["digest"].duplicated(keep=False)].sort_values(["digest", "video"])
        first = pairs.groupby("digest")["video"].transform("first")
        links += list(zip(pairs["video"], first))
    names = sorted({*crops["video"], *(name for link in links for name in link)})
    number = {name: i for i, name in enumerate(names)}
    rows = [number[a] for a, _ in links]
    columns = [number[b] for _, b in links]
    graph = coo_array((np.ones(len(links)), (rows, columns)), shape=(len(names), len(names)))
    _, group = connected_components(graph, directed=False)
    real = set(crops.loc[crops["label"] == "REAL", "video"]) | set(videos["original"])
    representative: dict[int, str] = {}
    for name in [*(n for n in names if n in real), *names]:
        representative.setdefault(int(group[number[name]]), name)
    sources = {name: representative[int(group[i])] for name, i in number.items()}
    return crops["video"].map(sources).rename("source")


def split_by_source(
    crops: pd.DataFrame, *, fractions: Sequence[float] = FRACTIONS, seed: int = 0
) -> pd.Series:
    """Give every crop a split; all crops of a source share it.

    Sources are dealt out from the largest to the smallest, ties by a hash of name and seed, each
    to the split that lacks its data set and class most. So the result is stratified, and depends
    on neither the order of files nor the machine. Official splits stand (`official`): what a
    data set lists as val or test is joined by nothing else of that data set, and a row that is
    linked to an official test or val video without being listed there gets "". An official train
    list without a val list only keeps its videos out of test.

    Args:
        crops: with `video, dataset, label, source` and optionally `official`.
        fractions: shares of videos for train, val and test.
    Returns:
        "train", "val", "test" or "" (left out) for each row.
    Raises:
        ValueError: too few sources of one class for three splits.
    """
    listed = crops["official"] if "official" in crops else pd.Series("", index=crops.index)
    with_val = crops["dataset"].isin(crops.loc[listed == "val", "dataset"])
    official = listed.where(with_val | (listed != "train"), "")
    fixed: dict[str, str] = {}
    for split in SPLITS:  # the later, the stricter: test wins over val, val over train
        fixed |= dict.fromkeys(crops.loc[official == split, "source"], split)
    # Only what an official list names may stand beside it on the val or test side.
    where = crops["source"].map(fixed)
    beside = where.isin(["val", "test"]) & (official != where)
    videos = crops[~beside].drop_duplicates(["dataset", "video"])
    table = pd.crosstab(videos["source"], [videos["dataset"], videos["label"]])
    counts = {str(name): row for name, row in zip(table.index, table.to_numpy())}
    lists = set(zip(crops["dataset"], official))
    strata = table.columns.get_level_values(0)
    closed = np.array([[s != "train" and (d, s) in lists for d in strata] for s in SPLITS])
    assigned = _deal(counts, fixed, np.asarray(fractions), closed, seed)
    _repair(assigned, fixed, videos)
    return crops["source"].map(assigned).where(~beside, "").rename("split")


def _deal(
    counts: dict[str, np.ndarray],
    fixed: dict[str, str],
    fractions: np.ndarray,
    closed: np.ndarray,
    seed: int,
) -> dict[str, str]:
    """Deal sources out by the largest remaining need of their strata.

    `closed`, shape (3, n_strata), marks the splits that an official list has filled.
    """
    total = np.sum(list(counts.values()), axis=0)  # videos a stratum, shape (n_strata,)
    need = np.outer(fractions, total).astype(float)  # (3, n_strata)
    assigned = {source: split for source, split in fixed.items() if source in counts}
    for source, split in assigned.items():
        need[SPLITS.index(split)] -= counts[source]
    order = sorted(
        (source for source in counts if source not in assigned),
        key=lambda source: (-counts[source].sum(), stable_hash(source, seed), source),
    )
    for source in order:
        # Relative need: the split whose share of these strata is furthest from full.
        weight = counts[source] / total
        lacking = (need / np.maximum(fractions[:, None] * total, 1e-12)) @ weight
        lacking[closed[:, weight > 0].any(axis=1)] = -np.inf
        best = int(np.argmax(np.round(lacking, 9)))
        assigned[source] = SPLITS[best]
        need[best] -= counts[source]
    return assigned


def _repair(assigned: dict[str, str], fixed: dict[str, str], videos: pd.DataFrame) -> None:
    """Make sure that every split holds both classes, or say why it cannot."""
    sources = {label: set(videos.loc[videos["label"] == label, "source"]) for label in CLASSES}
    for label in CLASSES:
        if len(sources[label]) < len(SPLITS):
            n = len(sources[label])
            which = "source" if n == 1 else "sources"
            raise ValueError(
                f"{n} {which} of {label} videos ({', '.join(sorted(sources[label])[:3])}) cannot "
                f"be split three ways: train, val and test need one each, so at least "
                f"{len(SPLITS)}. Add videos of other people."
            )
    for split in SPLITS:
        for label in CLASSES:
            if any(assigned[source] == split for source in sources[label]):
                continue
            held = Counter(assigned[source] for source in sources[label])
            # Take from the split that has most, and the smallest source that can be spared.
            donor = max(SPLITS, key=lambda name: held[name])
            size = videos["source"].value_counts()
            movable = [s for s in sources[label] if assigned[s] == donor and s not in fixed]
            if held[donor] < 2 or not movable:
                raise ValueError(
                    f"the {split} split would hold no {label} video; add {label} sources"
                )
            assigned[min(movable, key=lambda source: (size[source], source))] = split
    for split in SPLITS:
        for label in CLASSES:
            if not any(assigned[source] == split for source in sources[label]):
                raise ValueError(
                    f"no split of these sources gives {split} a {label} video; add {label} sources"
                )


def check_splits(index: pd.DataFrame) -> dict[str, bool]:
    """Prove that an index leaks nothing from one split into another.

    Args:
        index: with `dataset, video, source, split`; the checks on `original` and on `digest` run
            where these columns are present.
    Returns:
        {check: True}; a check that fails raises.
    Raises:
        LeakageError: names the check and the first offender.
    """
    names = index["dataset"] + "/" + index["video"]
    checks = {
        "sources_disjoint": _offender(index["source"], index["split"]),
        "videos_in_one_split": _offender(names, index["split"]),
    }
    if "original" in index:
        where = dict(zip(index["video"], index["split"]))
        fakes = index[(index["original"] != "") & index["original"].isin(where)]
        apart = fakes[fakes["original"].map(where) != fakes["split"]]
        checks["fakes_with_their_original"] = "" if apart.empty else str(apart["video"].iloc[0])
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


def split_summary(index: pd.DataFrame) -> pd.DataFrame:
    """Sources, videos, crops and videos a class in each split; index = split."""
    videos = index.drop_duplicates(["dataset", "video"])
    table = pd.crosstab(videos["split"], videos["label"]).reindex(index=SPLITS, columns=CLASSES)
    return (
        table.assign(
            sources=index.groupby("split")["source"].nunique(),
            videos=videos.groupby("split").size(),
            crops=index.groupby("split").size(),
        )[["sources", "videos", "crops", *CLASSES]]
        .fillna(0)
        .astype(int)
    )


def control_labels(index: pd.DataFrame, *, seed: int = 0) -> pd.Series:
    """Labels of a control run: in train and val, drawn anew a video and blind to the true ones.

    In each of these splits the same share of truly REAL and of truly FAKE videos is called FAKE,
    so the labels teach nothing about the truth. The test split keeps its true labels: a sound
    pipeline then scores an AUC about 0.5, and one that leaks scores more.
    """
    videos = index.drop_duplicates(["dataset", "video"]).sort_values(["dataset", "video"])
    labels = videos["label"].copy()
    rng = np.random.default_rng(seed)
    for split in ("train", "val"):
        share = (videos.loc[videos["split"] == split, "label"] == "FAKE").mean()
        for label in CLASSES:
            rows = videos.index[(videos["split"] == split) & (videos["label"] == label)]
            fake = rng.permutation(len(rows)) < round(share * len(rows))
            labels[rows] = np.where(fake, "FAKE", "REAL")
    keys = zip(videos["dataset"], videos["video"])
    drawn = dict(zip(keys, labels))
    return pd.Series(
        [drawn[key] for key in zip(index["dataset"], index["video"])], index=index.index
    )
