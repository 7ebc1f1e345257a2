"""Split so that nothing that is known of the test stands in train, and prove it."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.cluster.hierarchy import DisjointSet

from utils.data.crops import VIDEO, crop_paths
from utils.run.artifacts import CLASSES, SPLITS
from utils.run.machine import stable_hash

#: Shares of the videos for train, val and test.
FRACTIONS = np.array([0.70, 0.15, 0.15])
#: What SPLIT_BY of 01 may say.
SPLIT_BY = ("auto", "official", "person", "group", "source")
#: Shares of the videos between which "auto" takes a split by person or group.
BANDS = {"train": (0.6, 0.8), "val": (0.1, 0.25), "test": (0.1, 0.25)}


class LeakageError(ValueError):
    """A split that lets the test be known before it is taken."""


def split_crops(
    crops: pd.DataFrame, *, by: str = "auto", seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame, str]:
    """Give every crop of `inspect_crops` its `source` and `split`.

    Args:
        by: of SPLIT_BY. "official" and "source" keep official lists and split the rest by source;
            "person" and "group" deal out people and groups instead, whatever is listed. Where the
            donors of fakes link nearly all people (Celeb-DF), a split by person is one by target:
            the donor of a fake may be on another side. "auto" takes the official split where some
            video is listed as test; else people, else groups, if that gives shares within BANDS
            and both classes everywhere; else sources.
        seed: of the split.
    Returns:
        The crops; those that have no place in the split: `dataset, reason, name`; and what it was
        split by.
    Raises:
        ValueError: unknown `by`, nothing is known of what it asks for, or too few for three splits.
    """
    if by not in SPLIT_BY:
        raise ValueError(f"SPLIT_BY is {by!r}; accepted: {', '.join(SPLIT_BY)}")
    crops = crops.assign(source=source_groups(crops))
    official = (crops["official"] == "test").any() if "official" in crops else False
    known = {"official": official, "source": True}
    known |= {name: name in crops and (crops[name] != "").any() for name in ("person", "group")}
    if by != "auto" and not known[by]:
        raise ValueError(
            f"SPLIT_BY={by}: nothing in the data tells of that; known: "
            f"{', '.join(name for name in SPLIT_BY[1:] if known[name])}"
        )
    order = ["official"] if official else ["person", "group", "source"]
    for way in [name for name in order if known[name]] if by == "auto" else [by]:
        found = _split_by(crops, way, seed, asked=by != "auto")
        if found is not None:
            break
    placed = found != ""
    left_out = crops.loc[~placed, ["dataset", "path"]].rename(columns={"path": "name"})
    left_out["reason"] = "linked to an official test or val video"
    kept = crops.assign(split=found)[placed].reset_index(drop=True)
    return kept, left_out, way


def _split_by(crops: pd.DataFrame, way: str, seed: int, *, asked: bool) -> pd.Series | None:
    """The split by one way; None where "auto" should go on to the next."""
    if way in ("official", "source"):
        return split_by_source(crops, seed=seed)
    ids = members(crops, way)
    # A group is a data set of its own: dealt by data set, all of them would go to train.
    plain = crops.assign(official="", dataset=crops["dataset"] if way == "person" else "")
    # All who are seen; else, of people, those whose video it is.
    tries = [ids, ids.str[:1]] if way == "person" else [ids]
    for seen in tries:
        plain["source"] = _joined(crops["source"], seen, way)
        with suppress(ValueError):
            split = split_by_source(plain, seed=seed)
            if _within_bands(crops.assign(split=split)):
                return split
    return split_by_source(plain, seed=seed) if asked else None


def members(table: pd.DataFrame, by: str) -> pd.Series:
    """All who are seen in a row, the one whose video it is first; or its one group. [""]: unknown.

    `by` is "person" or "group"; the table has such a column.
    """
    names = table[by].fillna("")
    return names.str.split("+") if by == "person" else names.map(lambda name: [name])


def _joined(source: pd.Series, ids: pd.Series, kind: str) -> pd.Series:
    """Name of what belongs together: sources that share an id, directly or by others."""
    pairs = pd.DataFrame({"source": source, "id": ids}).explode("id")
    pairs = pairs[pairs["id"].fillna("") != ""].drop_duplicates()
    links = [(name, f"{kind} {i}") for name, i in zip(pairs["source"], pairs["id"])]
    named: dict[str, str] = {}
    for names in _linked(source, links):
        named |= dict.fromkeys(names, min(names))
    return source.map(named)


def _linked(names: Iterable[str], links: list[tuple[str, str]]) -> Iterable[set[str]]:
    """What is linked, directly or by others, a set each; names without a link by themselves."""
    groups = DisjointSet({*names, *(name for link in links for name in link)})
    for link in links:
        groups.merge(*link)
    return groups.subsets()


def _within_bands(crops: pd.DataFrame) -> bool:
    videos = crops.drop_duplicates(VIDEO)
    shares = videos["split"].value_counts(normalize=True)
    within = all(low <= shares.get(name, 0) <= high for name, (low, high) in BANDS.items())
    return within and (videos.groupby("split")["label"].nunique() == len(CLASSES)).all()


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
    real = set(crops.loc[crops["label"] == "REAL", "video"]) | set(videos["original"])
    sources: dict[str, str] = {}
    for names in _linked(crops["video"], links):
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


def drawn_by(table: pd.DataFrame, audit: Mapping[str, Any]) -> pd.Series:
    """What an interval resamples: the person of a row where the split is by person, or the source.

    The person is the one whose video it is; where that is not known, the source stands for them.
    """
    if audit.get("split_by") != "person" or "person" not in table:
        return table["source"]
    first = members(table, "person").str[0]
    return first.where(first != "", table["source"])


def trained_on(extra: pd.DataFrame, train: pd.DataFrame, data: str | Path) -> pd.Series:
    """Which rows of `extra`, of `scan_crops` with `source`, show a video or source of `train`.

    They are known by data set and name; by name alone where it is one of DFDC's, ten letters that
    mean the same video wherever it lies; or by content: the first crop of a video is, to the byte,
    a crop of `train`, an index whose crops lie below `data`.
    """
    names = {*train["video"], *train["source"]}
    seen = {pair for name in ("video", "source") for pair in zip(train["dataset"], train[name])}
    dfdc = {name for name in names if re.fullmatch("[a-z]{10}", name)}
    known = pd.Series(False, index=extra.index)
    for name in ("video", "source"):
        pairs = zip(extra["dataset"], extra[name])
        known |= extra[name].isin(dfdc) | np.array([pair in seen for pair in pairs], dtype=bool)
    first = extra[~known].drop_duplicates(VIDEO)
    paths = [f"{root}/{path}" for root, path in zip(first["root"], first["path"])]
    sizes = {os.path.getsize(path) for path in paths}
    alike = [path for path in crop_paths(train, data) if os.path.getsize(path) in sizes]
    contents = {Path(path).read_bytes() for path in alike}
    copies = first.loc[[Path(path).read_bytes() in contents for path in paths], "source"]
    return known | extra["source"].isin(copies)


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
