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
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from utils.faces.media import VIDEO_SUFFIXES
from utils.run.artifacts import CLASSES, SPLITS, read_any_json, read_text_csv
from utils.run.machine import input_roots, inside

CROP_LAYOUTS = ("faces", "deepfake_faces", "folders")
#: How deep below DATA a data set is looked for; Kaggle's longest mount form needs five.
MAX_DEPTH = 6


class Dataset(NamedTuple):
    """One data set found on disk."""

    name: str
    root: Path
    layout: str


def find_datasets(data: str | Path = "") -> list[Dataset]:
    """Every known data set at or below a folder ("": any Kaggle input), by path, named apart.

    Raises:
        FileNotFoundError: the folder does not exist, or nothing known is below it.
    """
    tops = [Path(data)] if data else input_roots()
    for top in tops:
        if not top.is_dir():
            raise FileNotFoundError(f"DATA {str(top)!r} is not a folder")
    found = {root.resolve(): layout for top in tops for root, layout in _search(top)}
    if not found:
        where = str(data) if data else "the attached Kaggle inputs"
        raise FileNotFoundError(
            f"no known data set in {where}: looked for metadata.csv with crops in folders or in "
            "faces_224/, real/ and fake/ folders, metadata.json beside videos, FaceForensics++, "
            "Celeb-DF, and a CSV with filename and label of videos. Set DATA to the folder of a "
            "data set, or attach one on Kaggle."
        )
    datasets: dict[str, Dataset] = {}
    for path, layout in sorted(found.items()):
        # Two parts may share a folder name; their parents then tell them apart.
        names = ["-".join(path.parts[-depth:]) for depth in range(1, len(path.parts))]
        name = next(name for name in names if name not in datasets)
        datasets[name] = Dataset(name, path, layout)
    return list(datasets.values())


def _search(top: Path) -> Iterator[tuple[Path, str]]:
    """Folder and layout of each data set; it is not entered, for it may hold 100,000 crops."""
    seen: dict[str, int] = {}  # a folder may hold itself by a link
    for folder, folders, files in os.walk(top, followlinks=True):
        real, depth = os.path.realpath(folder), len(Path(folder).relative_to(top).parts)
        known = seen.get(real, MAX_DEPTH) <= depth
        layout = "" if known else _layout(Path(folder), set(files), folders)
        if layout:
            yield Path(folder), layout
        deeper = not known and not layout and depth + 1 < MAX_DEPTH
        folders[:] = sorted(name for name in folders if deeper and not name.startswith("."))
        seen[real] = min(depth, seen.get(real, MAX_DEPTH))


def _layout(folder: Path, files: set[str], folders: list[str]) -> str:
    """Name the layout of a folder, "" if it is none."""
    if "metadata.csv" in files and _find_labels(folder, {"metadata.csv"}):
        return "labelled_videos"
    if "metadata.csv" in files:
        header = read_text_csv(folder / "metadata.csv", nrows=0).columns
        return "deepfake_faces" if "videoname" in header or "faces_224" in folders else "faces"
    if {"original_sequences", "manipulated_sequences"} & set(folders):
        return "faceforensics"
    if {"Celeb-real", "Celeb-synthesis"} & set(folders):
        return "celebdf"
    if "metadata.json" in files and any(map(_is_video, files)):
        return "dfdc_videos"
    if _find_labels(folder, files):
        return "labelled_videos"
    return "folders" if {"real", "fake"} & {name.lower() for name in folders} else ""


def _is_video(name: str) -> bool:
    return name.lower().endswith(VIDEO_SUFFIXES)


def _find_labels(folder: Path, files: set[str]) -> str:
    """Name of the CSV that labels the videos at or below a folder, "" if there is none.

    `labels.csv` comes first, and what is wrong with it is a ValueError. Any other must name a video
    as REAL or FAKE, so that a submission or a table of images is none. `metadata.csv` describes
    crops unless a video that it names is there.
    """
    tables = sorted(name for name in files if name.lower().endswith(".csv"))
    for name in sorted(tables, key=lambda name: name.lower() != "labels.csv"):
        meant = name.lower() == "labels.csv"
        try:
            table = _read_labels(folder / name, nrows=100)
        except ValueError:
            if meant:
                raise
            continue
        if {"filename", "label"} <= {*table.columns}:
            films = table[table["filename"].map(_is_video).astype(bool)]
            if name == "metadata.csv":
                films = films.loc[[os.path.isfile(folder / film) for film in films["filename"]]]
            if meant or films["label"].isin(CLASSES).any():
                return name
        elif meant and any(map(_is_video, files)):
            raise ValueError(
                f"{folder / name}: columns filename and label are needed "
                f"(found: {', '.join(table.columns)})"
            )
    return ""


def _read_labels(path: Path, nrows: int | None = None) -> pd.DataFrame:
    table = read_text_csv(path, nrows=nrows).rename(columns=lambda name: name.strip().lower())
    table = table.fillna("").apply(lambda column: column.str.strip())
    return table.assign(label=table["label"].str.upper()) if "label" in table else table


def read_crop_metadata(dataset: Dataset) -> pd.DataFrame:
    """Read `metadata.csv` of a crop data set as it stands: all text, "" where unknown.

    Raises ValueError where a column that is needed is missing.
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
    columns = ["filename", "label", "original", "method", "split", "dataset"]
    table = table.rename(columns={name: "filename"}).reindex(columns=columns, fill_value="")
    table["dataset"] = table["dataset"].where(table["dataset"] != "", dataset.name)
    # A `split` column that only ever says "train" (DFDC's) is a folder name, not a split.
    if not (table["split"] == "test").any():
        table["split"] = ""
    return table


def is_plain_name(name: str) -> bool:
    """Tell whether a listed name can only mean a file beside its list."""
    return bool(stem(name)) and not set("/\\\0") & set(name) and stem(name) not in {".", ".."}


def stem(name: str) -> str:
    """A file name without its suffix, which is the id of a video."""
    name_only, _, suffix = name.rpartition(".")
    return name_only if name_only and suffix else name


class Video(NamedTuple):
    """A raw video, all text, "" where there is none."""

    path: str  # absolute
    dataset: str
    video: str  # unique, and safe as a folder name
    filename: str
    label: str
    original: str  # file name of the real video that a fake was made from
    method: str  # "original" for REAL, "unknown" where a data set does not tell
    split: str = ""  # the official one
    reason: str = ""  # why it cannot be used: absent, a link out of the data set, not listed, …


def index_videos(data: str | Path = "") -> pd.DataFrame:
    """A row a `Video` of every video data set at or below a folder, by data set and video.

    Raises:
        FileNotFoundError: no video data set there.
        ValueError: a metadata file is damaged, or two videos share an id.
    """
    rows = [
        video._replace(reason=_unusable(dataset, video))
        for dataset in find_datasets(data)
        if dataset.layout in READERS
        for video in READERS[dataset.layout](dataset.root, dataset.name)
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


def _unusable(dataset: Dataset, video: Video) -> str:
    """Say why a video cannot be used, "" if it can."""
    dfdc = dataset.layout == "dfdc_videos"
    if ".." in Path(video.filename).parts or Path(video.filename).is_absolute():
        return "name leads out of the data set"
    if dfdc and Path(video.path).parent != dataset.root:
        return "name is not a plain file name"
    if not Path(video.path).is_file():
        return "listed but absent"
    if not inside(video.path, dataset.root):
        return "link out of the data set"
    if not video.label:
        return f"not listed in {'metadata.json' if dfdc else 'the table of labels'}"
    return "" if video.label in CLASSES else f"unknown label {video.label!r}"


def read_dfdc(root: Path, name: str) -> Iterator[Video]:
    """`metadata.json`: {file: {label, split, original}}; our own `method` is read if present."""
    listing = root / "metadata.json"
    metadata = read_any_json(listing)
    if not isinstance(metadata, dict) or not all(isinstance(v, dict) for v in metadata.values()):
        raise ValueError(f"{listing} does not hold {{file: {{label, split, original}}}}")
    there = sorted(entry.name for entry in root.iterdir() if _is_video(entry.name))
    for filename in dict.fromkeys([*metadata, *there]):
        facts = metadata.get(filename, {})
        label, original = str(facts.get("label", "")), str(facts.get("original") or "")
        method = str(facts.get("method") or ("original" if label == "REAL" else "unknown"))
        path, video = str(root / filename), Path(filename).stem
        yield Video(path, name, video, filename, label, original, method)


def read_faceforensics(root: Path, name: str) -> Iterator[Video]:
    """`<original|manipulated>_sequences/<method>/<compression>/videos/<target>[_<source>].mp4`."""
    splits: dict[str, str] = {}
    for split in SPLITS:
        official = root / "splits" / f"{split}.json"
        if official.is_file():
            splits |= {str(number): split for pair in read_any_json(official) for number in pair}
    films = sorted(film for film in root.glob("*_sequences/*/*/videos/*") if _is_video(film.name))
    films = [film for film in films if film.parts[-3] != "masks"]  # where fakes were altered
    several = len({film.parts[-3] for film in films}) > 1
    first: dict[str, str] = {}  # real video → its file in the first compression
    for film in films:
        sequences, method, compression = film.parts[-5:-2]
        suffix = f"_{compression}" if several else ""
        if sequences == "original_sequences":
            # YouTube originals are known by their number; the actors' ones by a name of their own.
            label, method, video = "REAL", "original", f"{film.stem}{suffix}"
            # The same scene in another compression goes back to the first.
            original = first.get(film.stem, "")
            first.setdefault(film.stem, f"{video}{film.suffix}")
        else:
            label, video = "FAKE", f"{method}_{film.stem}{suffix}"
            # `004_982` was made from 004; DeepFakeDetection's `01_02__scene__ID` from `01__scene`.
            actors, *scene = film.stem.split("__")[:2]
            original = "__".join([actors.split("_")[0], *scene]) + suffix + film.suffix
        dataset = f"{name}-{compression}" if several else name
        split = splits.get(film.stem.split("_")[0], "")
        yield Video(str(film), dataset, video, film.name, label, original, method, split)


def read_celebdf(root: Path, name: str) -> Iterator[Video]:
    """`Celeb-synthesis/id0_id1_0000.mp4` was made from `Celeb-real/id0_0000.mp4`."""
    listing = root / "List_of_testing_videos.txt"
    lines = listing.read_text(encoding="utf-8").splitlines() if listing.is_file() else []
    tested = {line.split()[-1] for line in lines if line.strip()}
    for folder in ("Celeb-real", "YouTube-real", "Celeb-synthesis"):
        for film in sorted(film for film in (root / folder).glob("*") if _is_video(film.name)):
            label, original, method = "REAL", "", "original"
            if folder == "Celeb-synthesis":
                parts = film.stem.split("_")
                label, original, method = "FAKE", f"{parts[0]}_{parts[-1]}{film.suffix}", folder
            split = "test" if f"{folder}/{film.name}" in tested else ""
            yield Video(str(film), name, film.stem, film.name, label, original, method, split)


def read_labelled(root: Path, name: str) -> Iterator[Video]:
    """A CSV with `filename,label` and, if known, `original,method,split`; videos in any folder.

    A name is a path below the CSV, or the bare name of a video in one of the folders there.
    """
    listing = root / _find_labels(root, {entry.name for entry in root.iterdir()})
    films = _Films(root, listing)
    columns = ["filename", "label", "original", "method", "split"]
    table = _read_labels(listing).reindex(columns=columns, fill_value="")
    table["filename"] = table["filename"].map(films.find)
    table["label"] = table["label"].where(table["label"] != "", "(none)")
    # Where two rows disagree, neither is believed.
    labels = table.groupby("filename")["label"].agg(lambda label: " and ".join(sorted({*label})))
    table = table.drop_duplicates("filename").set_index("filename").assign(label=labels)
    unlisted = sorted(set(films.paths) - set(table.index))
    table = table.reindex([*table.index, *unlisted], fill_value="").reset_index()
    stems = table["filename"].map(lambda film: Path(film).stem)
    for row, alone in zip(table.itertuples(index=False), ~stems.duplicated(keep=False)):
        film, real = row.filename, row.label == "REAL"
        unique = Path(film).stem if alone else film.replace("/", "__")
        yield Video(
            *(str(root / film), name, re.sub(r"[\\/:\n\0]|\.\.+|^\.", "_", unique), film),
            label=row.label,
            original=films.find(row.original) if row.original and not real else "",
            method=row.method or ("original" if real else "unknown"),
            split=row.split.lower() if row.split.lower() in SPLITS else "",
        )


class _Films:
    """The videos at or below a folder, and what a name in its table means."""

    def __init__(self, root: Path, listing: Path) -> None:
        self.listing = listing
        self.paths: list[str] = []
        for folder, folders, files in os.walk(root):
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            films = [Path(folder, name) for name in sorted(files) if _is_video(name)]
            self.paths += [film.relative_to(root).as_posix() for film in films]
        self.named: dict[str, list[str]] = defaultdict(list)
        for path in self.paths:
            for name in {path, Path(path).name, Path(path).stem}:
                self.named[name].append(path)

    def find(self, name: str) -> str:
        """The path of a video by its path, bare name, or id; what is not there keeps its name."""
        name = name.replace("\\", "/")
        found = self.named.get(name, [name])
        if len(found) > 1 and name not in found:
            raise ValueError(
                f"{self.listing}: {name!r} is there more than once ({found[0]}, {found[1]}); "
                "write its path below the table"
            )
        return name if name in found else found[0]


READERS = {
    "dfdc_videos": read_dfdc,
    "faceforensics": read_faceforensics,
    "celebdf": read_celebdf,
    "labelled_videos": read_labelled,
}
VIDEO_LAYOUTS = tuple(READERS)
