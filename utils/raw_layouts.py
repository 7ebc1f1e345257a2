"""What is known about the raw videos of each layout: a row a video."""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

import pandas as pd

from utils.artifacts import CLASSES, SPLITS, read_any_json, read_text_csv

VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")

#: path, dataset, video, filename, label, original, method, split: as in `layouts.index_videos`.
Row = tuple[str, str, str, str, str, str, str, str]


def read_dfdc(root: Path, name: str) -> Iterator[Row]:
    """`metadata.json`: {file: {label, split, original}}; our own `method` is read if present."""
    listing = root / "metadata.json"
    metadata = read_any_json(listing)
    if not isinstance(metadata, dict) or not all(isinstance(v, dict) for v in metadata.values()):
        raise ValueError(f"{listing} does not hold {{file: {{label, split, original}}}}")
    unlisted: dict[str, dict[str, str]] = {
        entry.name: {}
        for entry in sorted(root.iterdir())
        if entry.suffix.lower() in VIDEO_SUFFIXES and entry.name not in metadata
    }
    for filename, facts in {**metadata, **unlisted}.items():
        label = str(facts.get("label", ""))
        original = str(facts.get("original") or "")
        method = str(facts.get("method") or ("original" if label == "REAL" else "unknown"))
        path = str(root / filename)
        yield path, name, Path(filename).stem, filename, label, original, method, ""


def read_faceforensics(root: Path, name: str) -> Iterator[Row]:
    """`<original|manipulated>_sequences/<method>/<compression>/videos/<target>[_<source>].mp4`."""
    splits: dict[str, str] = {}
    for split in ("train", "val", "test"):
        official = root / "splits" / f"{split}.json"
        if official.is_file():
            splits |= {str(number): split for pair in read_any_json(official) for number in pair}
    videos = sorted(root.glob("*_sequences/*/*/videos/*"))
    videos = [video for video in videos if video.suffix.lower() in VIDEO_SUFFIXES]
    videos = [video for video in videos if video.parts[-3] != "masks"]  # where fakes were altered
    several = len({video.parts[-3] for video in videos}) > 1
    first: dict[str, str] = {}
    for video in videos:
        method, compression = video.parts[-4], video.parts[-3]
        real = video.parts[-5] == "original_sequences"
        target = video.stem.split("_")[0]
        suffix = f"_{compression}" if several else ""
        dataset = f"{name}-{compression}" if several else name
        # YouTube originals are known by their number; the actors' ones by a name of their own.
        identity = video.stem if real else f"{method}_{video.stem}"
        original = "" if real else f"{_ff_original(video.stem, method)}{suffix}{video.suffix}"
        if real:  # the same scene in another compression goes back to the first
            original = first.setdefault(video.stem, "")
            first[video.stem] = original or f"{identity}{suffix}{video.suffix}"
        yield (
            *(str(video), dataset, f"{identity}{suffix}", video.name),
            *("REAL" if real else "FAKE", original, "original" if real else method),
            splits.get(target, ""),
        )


def _ff_original(stem: str, method: str) -> str:
    """`004_982` was made from 004; DeepFakeDetection's `01_02__scene__ID` from `01__scene`."""
    if method == "DeepFakeDetection":
        actors, scene = stem.split("__")[:2]
        return f"{actors.split('_')[0]}__{scene}"
    return stem.split("_")[0]


def read_celebdf(root: Path, name: str) -> Iterator[Row]:
    """`Celeb-synthesis/id0_id1_0000.mp4` was made from `Celeb-real/id0_0000.mp4`."""
    listing = root / "List_of_testing_videos.txt"
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    tested = {line.split()[-1] for line in lines if line.strip()}
    for folder in ("Celeb-real", "YouTube-real", "Celeb-synthesis"):
        for video in sorted((root / folder).glob("*")):
            if video.suffix.lower() not in VIDEO_SUFFIXES:
                continue
            real = folder != "Celeb-synthesis"
            parts = video.stem.split("_")
            original = "" if real else f"{parts[0]}_{parts[-1]}{video.suffix}"
            yield (
                *(str(video), name, video.stem, video.name),
                *("REAL" if real else "FAKE", original, "original" if real else folder),
                "test" if f"{folder}/{video.name}" in tested else "",
            )


def find_labels(folder: Path, files: set[str]) -> str:
    """Name of the CSV that labels the videos at or below a folder, "" if there is none.

    `labels.csv` comes first. Any other needs `filename` and `label` too, and must name a video as
    REAL or FAKE, so that a submission or a table of images is none. `metadata.csv` describes crops
    unless a video that it names is there.

    Raises:
        ValueError: `labels.csv` is damaged, or lacks a column beside videos.
    """
    tables = sorted(name for name in files if name.lower().endswith(".csv"))
    for name in sorted(tables, key=lambda name: name.lower() != "labels.csv"):
        try:
            table = _read_labels(folder / name, nrows=100)
        except ValueError:
            if name.lower() == "labels.csv":
                raise
            continue
        if not {"filename", "label"} <= {*table.columns}:
            if name.lower() == "labels.csv" and any(
                f.lower().endswith(VIDEO_SUFFIXES) for f in files
            ):
                raise ValueError(
                    f"{folder / name}: columns filename and label are needed "
                    f"(found: {', '.join(table.columns)})"
                )
            continue
        films = table[table["filename"].str.lower().str.endswith(VIDEO_SUFFIXES)]
        if name == "metadata.csv":
            there = films["filename"].map(lambda film: os.path.isfile(folder / film))
            films = films[there.astype(bool)]
        if name.lower() == "labels.csv" or films["label"].isin(CLASSES).any():
            return name
    return ""


def _read_labels(path: Path, nrows: int | None = None) -> pd.DataFrame:
    table = read_text_csv(path, nrows=nrows).rename(columns=lambda name: name.strip().lower())
    table = table.fillna("").apply(lambda column: column.str.strip())
    return table.assign(label=table["label"].str.upper()) if "label" in table else table


def read_labelled(root: Path, name: str) -> Iterator[Row]:
    """A CSV with `filename,label` and, if known, `original,method,split`; videos in any folder.

    A name is a path below the CSV, or the bare name of a video in one of the folders there.
    """
    listing = root / find_labels(root, {entry.name for entry in root.iterdir()})
    table = _read_labels(listing)
    films = _Films(root, listing)
    for column in ("original", "method", "split"):
        if column not in table:
            table[column] = ""
    table["filename"] = table["filename"].map(films.find)
    table["label"] = table["label"].where(table["label"] != "", "(none)")
    # Where two rows disagree, neither is believed.
    labels = table.groupby("filename")["label"].agg(lambda label: " and ".join(sorted({*label})))
    table = table.drop_duplicates("filename").assign(
        label=lambda rows: rows["filename"].map(labels)
    )
    unlisted = sorted(set(films.paths) - set(table["filename"]))
    stems = Counter(Path(film).stem for film in [*table["filename"], *unlisted])
    columns = ["filename", "label", "original", "method", "split"]
    rows = table[columns].to_dict("records") + [
        dict.fromkeys(columns, "") | {"filename": film} for film in unlisted
    ]
    for row in rows:
        film, real = row["filename"], row["label"] == "REAL"
        unique = Path(film).stem if stems[Path(film).stem] == 1 else film.replace("/", "__")
        yield (
            *(str(root / film), name, re.sub(r"[\\/:\n\0]|\.\.+|^\.", "_", unique), film),
            *(row["label"], films.find(row["original"]) if row["original"] and not real else ""),
            row["method"] or ("original" if real else "unknown"),
            row["split"].lower() if row["split"].lower() in SPLITS else "",
        )


class _Films:
    """The videos at or below a folder, and what a name in its table means."""

    def __init__(self, root: Path, listing: Path) -> None:
        self.listing = listing
        self.paths: list[str] = []
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            films = [name for name in sorted(files) if name.lower().endswith(VIDEO_SUFFIXES)]
            self.paths += [Path(folder, film).relative_to(root).as_posix() for film in films]
        self.named: dict[str, list[str]] = defaultdict(list)
        for path in self.paths:
            for name in (path, Path(path).name, Path(path).stem):
                if path not in self.named[name]:
                    self.named[name].append(path)

    def find(self, name: str) -> str:
        """The path of a video by its path, bare name, or id; what is not there keeps its name."""
        name = name.replace("\\", "/")
        found = self.named.get(name, [])
        found = [name] if name in found else found
        if len(found) > 1:
            raise ValueError(
                f"{self.listing}: {name!r} is there more than once ({found[0]}, {found[1]}); "
                "write its path below the table"
            )
        return found[0] if found else name
