"""Known layouts on disk: recognise a data set by its marker files and list its videos.

| layout | marker | what it holds |
|---|---|---|
| `faces` | `metadata.csv` with `filename` | crops, a folder a video (main set, notebook 00) |
| `deepfake_faces` | `metadata.csv` with `videoname` | one crop a video in `faces_224/` |
| `folders` | `real/` or `fake/` | loose images |
| `dfdc_videos` | `metadata.json` beside videos | raw DFDC |
| `faceforensics` | `original_sequences/` or `manipulated_sequences/` | raw FaceForensics++ |
| `celebdf` | `Celeb-real/` or `Celeb-synthesis/` | raw Celeb-DF v2 |
| `labelled_videos` | a CSV with `filename,label` that names videos | any other raw videos |
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from utils.faces.media import VIDEO_SUFFIXES
from utils.run.artifacts import CLASSES, SPLITS, read_any_json, read_text_csv
from utils.run.machine import input_roots, inside, is_folder

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


CROP_LAYOUTS = ("faces", "deepfake_faces", "folders")
READERS = {
    "dfdc_videos": read_dfdc,
    "faceforensics": read_faceforensics,
    "celebdf": read_celebdf,
    "labelled_videos": read_labelled,
}
VIDEO_LAYOUTS = tuple(READERS)
#: How deep below DATA a data set is looked for; Kaggle's longest mount form needs five.
MAX_DEPTH = 6


@dataclass(frozen=True)
class Dataset:
    """One data set found on disk."""

    name: str
    root: Path
    layout: str


def find_datasets(data: str | Path = "") -> list[Dataset]:
    """Find every known data set at or below a folder, however deep Kaggle mounted it.

    Args:
        data: a folder; "" searches every attached Kaggle input.
    Returns:
        Data sets sorted by path, with unique names.
    Raises:
        FileNotFoundError: the folder does not exist, or nothing known is below it.
    """
    tops = [Path(data)] if data else input_roots()
    for top in tops:
        if not top.is_dir():
            raise FileNotFoundError(f"DATA {str(top)!r} is not a folder")
    found = {root.resolve(): (root, layout) for top in tops for root, layout in _search(top)}
    if not found:
        where = str(data) if data else "the attached Kaggle inputs"
        raise FileNotFoundError(
            f"no known data set in {where}: looked for metadata.csv with crops in folders or in "
            "faces_224/, real/ and fake/ folders, metadata.json beside videos, FaceForensics++, "
            "Celeb-DF, and a CSV with filename and label of videos. Set DATA to the folder of a "
            "data set, or attach one on Kaggle."
        )
    datasets: list[Dataset] = []
    for path, (_, layout) in sorted(found.items()):
        # Two parts may share a folder name; their parents then tell them apart.
        taken = {dataset.name for dataset in datasets}
        names = ["-".join(path.parts[-depth:]) for depth in range(1, len(path.parts))]
        datasets.append(Dataset(next(n for n in names if n not in taken), path, layout))
    return datasets


def _search(top: Path) -> Iterator[tuple[Path, str]]:
    """Walk breadth first; a recognised folder is not entered (it may hold 100,000 crops)."""
    level, seen = [top], set()
    for _ in range(MAX_DEPTH):
        below: list[Path] = []
        for folder in level:
            real = folder.resolve()
            if real in seen:  # a folder that holds itself by a link
                continue
            seen.add(real)
            names, folders = _listing(folder)
            layout = _layout(folder, names, folders)
            if layout:
                yield folder, layout
            else:
                below += [folder / name for name in folders if not name.startswith(".")]
        level = below


def _listing(folder: Path) -> tuple[set[str], list[str]]:
    try:
        with os.scandir(folder) as entries:
            items = [(entry.name, is_folder(entry)) for entry in entries]
    except OSError:  # not ours to read, so not a data set of ours
        return set(), []
    files = {name for name, is_folder in items if not is_folder}
    return files, sorted(name for name, is_folder in items if is_folder)


def _layout(folder: Path, files: set[str], folders: list[str]) -> str:
    """Name the layout of a folder, "" if it is none."""
    if "metadata.csv" in files and find_labels(folder, {"metadata.csv"}):
        return "labelled_videos"
    if "metadata.csv" in files:
        header = read_text_csv(folder / "metadata.csv", nrows=0).columns
        return "deepfake_faces" if "videoname" in header or "faces_224" in folders else "faces"
    if {"original_sequences", "manipulated_sequences"} & set(folders):
        return "faceforensics"
    if {"Celeb-real", "Celeb-synthesis"} & set(folders):
        return "celebdf"
    if "metadata.json" in files and any(name.lower().endswith(VIDEO_SUFFIXES) for name in files):
        return "dfdc_videos"
    if find_labels(folder, files):
        return "labelled_videos"
    return "folders" if {"real", "fake"} & {name.lower() for name in folders} else ""


def read_crop_metadata(dataset: Dataset) -> pd.DataFrame:
    """Read `metadata.csv` of a crop data set as it stands, one row a line, nothing judged yet.

    Returns:
        Columns `filename, label, original, method, split, dataset`, all text, "" where unknown.
    Raises:
        ValueError: a column is missing; names the file and the columns.
    """
    path = dataset.root / "metadata.csv"
    table = read_text_csv(path)
    name = "videoname" if dataset.layout == "deepfake_faces" else "filename"
    missing = [column for column in (name, "label", "original") if column not in table]
    if missing:
        raise ValueError(
            f"{path}: column {', '.join(missing)} missing (found: {', '.join(table.columns)}); "
            f"{name}, label and original are needed, the last one to split without leaks"
        )
    table = table.rename(columns={name: "filename"})
    optional = {"method": "", "split": "", "dataset": dataset.name}
    for column, default in optional.items():
        if column not in table:
            table[column] = default
    table["dataset"] = table["dataset"].where(table["dataset"] != "", dataset.name)
    # A `split` column that only ever says "train" (DFDC's) is a folder name, not a split.
    if not (table["split"] == "test").any():
        table["split"] = ""
    return table[["filename", "label", "original", "method", "split", "dataset"]]


def is_plain_name(name: str) -> bool:
    """Tell whether a listed name can only mean a file beside its list."""
    return bool(stem(name)) and not set("/\\\0") & set(name) and stem(name) not in {".", ".."}


def stem(name: str) -> str:
    """A file name without its suffix, which is the id of a video."""
    name_only, _, suffix = name.rpartition(".")
    return name_only if name_only and suffix else name


class Video(NamedTuple):
    """One row of `index_videos`."""

    path: str
    dataset: str
    video: str
    filename: str
    label: str
    original: str
    method: str
    split: str
    reason: str


def index_videos(data: str | Path = "") -> pd.DataFrame:
    """List the raw videos of every video data set at or below a folder.

    Returns:
        One row a video, sorted by data set and video: `path` (absolute), `dataset`, `video`
        (unique, safe as a folder name), `filename`, `label`, `original` (file name of the real
        video that a fake was made from, "" for REAL), `method` ("original" for REAL, "unknown"
        where a data set does not tell), `split` (official "train"/"val"/"test", else ""), `reason`
        ("" or why the video cannot be used: absent, a link out of the data set, not listed, ...).
    Raises:
        FileNotFoundError: no video data set there.
        ValueError: a metadata file is damaged, or two videos share an id.
    """
    rows = [
        Video(*row, reason=_unusable(dataset, *row))
        for dataset in find_datasets(data)
        if dataset.layout in VIDEO_LAYOUTS
        for row in READERS[dataset.layout](dataset.root, dataset.name)
    ]
    if not rows:
        raise FileNotFoundError(
            f"no raw videos in {str(data)!r}; if it holds face crops, start with 01_explore_data"
        )
    videos = pd.DataFrame(rows, columns=Video._fields, dtype=str)
    usable = videos[videos["reason"] == ""]
    twice = usable[usable["video"].duplicated(keep=False)].sort_values("video")
    if len(twice):
        raise ValueError(
            f"two videos share the id {twice['video'].iloc[0]!r}: "
            + " and ".join(twice["path"].iloc[:2])
            + "; extract these data sets into two OUTPUT folders"
        )
    return videos.sort_values(["dataset", "video"], ignore_index=True)


def _unusable(dataset: Dataset, path: str, *rest: str) -> str:
    """Say why a video cannot be used, "" if it can."""
    filename, label = rest[2], rest[3]
    if ".." in Path(filename).parts or Path(filename).is_absolute():
        return "name leads out of the data set"
    if Path(path).parent != dataset.root and dataset.layout == "dfdc_videos":
        return "name is not a plain file name"
    if not Path(path).is_file():
        return "listed but absent"
    if not inside(path, dataset.root):
        return "link out of the data set"
    if not label:
        listing = "metadata.json" if dataset.layout == "dfdc_videos" else "the table of labels"
        return f"not listed in {listing}"
    return "" if label in CLASSES else f"unknown label {label!r}"
