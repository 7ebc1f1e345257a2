"""Who says what of a data set: a tree of folders, a table, or the names of files.

| layout | marker | video, label, original, split and person are told by |
|---|---|---|
| `faces` | `metadata.csv` with `filename` | the table; a folder of crops a video (main set, 00) |
| `deepfake_faces` | `metadata.csv` with `videoname` | the table; one crop a video in `faces_224/` |
| `labelled` | a CSV with `filename,label` | the table |
| `dfdc` | `metadata.json` of labels | the table |
| `faceforensics` | `original_sequences/` or `manipulated_sequences/` | the tree, and names |
| `celebdf` | `Celeb-real/` or `Celeb-synthesis/` | the tree, and names |
| `folders` | `real/` and `fake/`, also below or above `train/`, `val/`, `test/` | the tree |

Whether videos, folders of frames or single images lie there is another question: all but the first
two, CROP_TABLES, may hold any of them.
"""

from __future__ import annotations

import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from utils.faces.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from utils.run.artifacts import CLASSES, SPLITS, read_any_json, read_text_csv

CROP_TABLES = ("faces", "deepfake_faces")
#: Words for the classes in tables, in any case. Celeb-DF's own list has 1 for real ones.
LABELS = {"real": "REAL", "0": "REAL", "fake": "FAKE", "1": "FAKE"}
ACCEPTED = f"accepted in any case: {', '.join(LABELS)}"
#: Words for an official split, in tables and as folders, in any case.
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
#: Folders that say what kind of picture lies in them and nothing of the video; the best come last.
KINDS = ("videos", "video", "frames", "images", "imgs", "crops", "face", "face_images", "faces")
#: Share of the first images of a folder that are named like frames, if it is a video.
FRAMES, SAMPLE = 0.9, 100
WAYS = (
    "Two ways to label data of your own: put it into folders real/ and fake/; or write labels.csv "
    "beside it, with filename,label and, if known, original,method,split,person,group."
)


class Dataset(NamedTuple):
    """One data set found on disk."""

    name: str
    root: Path
    layout: str


class Video(NamedTuple):
    """A video, all text, "" where there is none."""

    path: str  # of the film, the folder of its images, or its one image
    dataset: str
    video: str  # unique, and safe as a folder name
    filename: str
    label: str
    original: str  # file name of the real video that a fake was made from
    method: str  # "original" for REAL, "unknown" where a data set does not tell
    split: str = ""  # the official one
    person: str = ""  # who is seen, target before donor: `dataset:id`, joined by "+"
    group: str = ""  # what must stay together for another reason, such as DFDC's part
    reason: str = ""  # why it cannot be used: absent, a link out of the data set, not listed, …
    word: str = ""  # the label as it is written


#: Paths of films, of folders of images, or of images, below a data set, in order → its videos.
Reader = Callable[[Dataset, list[str]], Iterator[Video]]


def layout_of(folder: Path, files: set[str], folders: list[str]) -> str:
    """Name the layout of a folder, "" if it is none."""
    if "metadata.csv" in files and _find_labels(folder, {"metadata.csv"}):
        return "labelled"
    if "metadata.csv" in files:
        header = read_text_csv(folder / "metadata.csv", nrows=0).columns
        return "deepfake_faces" if "videoname" in header or "faces_224" in folders else "faces"
    if {"original_sequences", "manipulated_sequences"} & set(folders):
        return "faceforensics"
    if {"celeb-real", "celeb-synthesis"} & {name.lower() for name in folders}:
        return "celebdf"
    if "metadata.json" in files and (any(map(is_video, files)) or _lists_labels(folder)):
        return "dfdc"
    if _find_labels(folder, files):
        return "labelled"
    return "folders" if _class_folders(folder, folders) else ""


# words ------------------------------------------------------------------------------------------


def read_label(word: str) -> str:
    """REAL or FAKE, or the word itself where it is none of LABELS."""
    return LABELS.get(word.strip().lower().removesuffix(".0"), word)


def read_splits(words: pd.Series, *, train_alone: bool = False) -> pd.Series:
    """Official splits by SPLIT_WORDS, "" for others.

    What only ever says "train" is a folder's name (DFDC's) and no split, unless `train_alone`.
    """
    splits = words.fillna("").str.strip().str.lower().map(SPLIT_WORDS).fillna("").astype(str)
    told = train_alone or splits.isin(["val", "test"]).any()
    return splits if told else splits.mask(splits == "train", "")


def name_group(name: str) -> str:
    """DFDC's part in a name: "part_0" of `part-0-1`, "part_7" of `dfdc_train_part_07`; or ""."""
    found = re.search(r"part[-_](\d+)", name.lower())
    return f"part_{int(found[1])}" if found else ""


def is_video(name: str) -> bool:
    """Whether a file is named like a video."""
    return name.lower().endswith(VIDEO_SUFFIXES)


def is_plain_name(name: str) -> bool:
    """Tell whether a listed name can only mean a file beside its list."""
    return bool(stem(name)) and not set("/\\\0") & set(name) and stem(name) not in {".", ".."}


def stem(name: str) -> str:
    """A file name without its suffix, which is the id of a video."""
    name_only, _, suffix = name.rpartition(".")
    return name_only if name_only and suffix else name


def media_stem(path: str) -> str:
    """The last telling part of a path, without the suffix of a video or an image."""
    name = (_telling(path.split("/")) or [path])[-1]
    return stem(name) if name.lower().endswith(VIDEO_SUFFIXES + IMAGE_SUFFIXES) else name


def _telling(parts: Iterable[str]) -> list[str]:
    """The parts of a path that are not just the kind of what lies there."""
    return [part for part in parts if part.lower() not in KINDS]


def _video_id(path: str, *, alone: bool) -> str:
    """A name for a folder: the stem of a path where no other has it, else all of the path."""
    name = media_stem(path) if alone else path.replace("/", "__")
    return re.sub(r"[\\/:\n\0]|\.\.+|^\.", "_", name)


# The same few hundred names recur in every folder, so the cache saves most of the parsing.
@lru_cache(maxsize=65536)
def parse_frame_name(name: str) -> tuple[int, int] | None:
    """Read `12.png`, `12_2.png`, `frame_0012.PNG` as (frame, number of the face), or None.

    The number is 1 where there is none. Some count faces from 0: see `list_frames`.
    """
    form = r"(?:[a-z]+[_-]?)?(\d{1,9})(?:[_-](\d{1,4}))?(\.[a-z]+)"
    match = re.fullmatch(form, name.lower(), re.ASCII)
    return (int(match[1]), int(match[2] or 1)) if match and match[3] in IMAGE_SUFFIXES else None


def list_frames(names: Iterable[str], video: str) -> tuple[list[tuple[int, int, str]], list[str]]:
    """(frame, face, name) of the images of one video, in order, and names that are no frames.

    Faces are counted from 1, also where their names count from 0. The name of the video may come
    first. Of two names of one face the first one counts.
    """
    names = list(names)
    parsed = [parse_frame_name(name) for name in names]
    others = []
    if None in parsed:
        shorter = [n[len(video) :].lstrip("_-") if n.startswith(video) else n for n in names]
        parsed = [frame or parse_frame_name(n) for frame, n in zip(parsed, shorter)]
        others = [name for name, frame in zip(names, parsed) if frame is None]
        names = [name for name, frame in zip(names, parsed) if frame is not None]
        parsed = [frame for frame in parsed if frame is not None]
    # Columns, not rows, wherever it can be: a data set may have a million crops.
    frames, faces = zip(*parsed) if parsed else ((), ())
    if 0 in faces:
        faces = [face + 1 for face in faces]
    found = sorted(zip(frames, faces, names))
    if len({*frames}) < len(found) and len({*parsed}) < len(found):
        twice = {b[2] for a, b in pairwise(found) if a[:2] == b[:2]}
        others += twice
        found = [one for one in found if one[2] not in twice]
    return found, sorted(others)


# tables -----------------------------------------------------------------------------------------


def read_crop_metadata(dataset: Dataset) -> pd.DataFrame:
    """Read `metadata.csv` of a crop data set: all text, "" where unknown, `label` as it stands.

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
    table = _filled(table.rename(columns={name: "filename"}), dataset.name)
    return table.assign(split=read_splits(table["split"]))


def read_crop_table(dataset: Dataset, paths: list[str]) -> Iterator[Video]:
    """`metadata.csv` of crops: each row a folder, or in `deepfake_faces` an image, by its id."""
    table = read_crop_metadata(dataset)
    table["video"] = table["filename"].map(stem)
    # The row that names an original wins, whatever the order of the file.
    table = table.sort_values(["original", "method", "split", "filename"], ascending=False)
    labels = table["label"].map(read_label).where(lambda words: words.isin(CLASSES))
    twice = table["video"].duplicated()
    reasons = pd.Series("", table.index).mask(twice, "duplicate row")
    several = labels.groupby(table["video"]).transform("nunique") > 1
    reasons = reasons.mask(several, "conflicting label").mask(labels.isna(), "")
    # Such a name (`../x`, `/etc/x`) never becomes part of a path.
    plain = table["filename"].map(is_plain_name).astype(bool)
    reasons = reasons.mask(~plain, "name is not a plain file name")
    there: dict[str, str] = {}
    for path in paths:
        there.setdefault(media_stem(path), path)
    # As plain objects: a column of text makes each of its cells anew, slowly.
    for row, reason in zip(table.astype(object).itertuples(index=False), reasons.tolist()):
        real = read_label(row.label) == "REAL"
        method = row.method or ("original" if real else "unknown")
        path = there.get(row.video, row.filename)
        facts = (row.filename, row.label, stem(row.original), method, row.split, row.person)
        yield Video(path, row.dataset, row.video, *facts, row.group, reason)
    listed = {there.get(video) for video in table["video"]}
    for path in paths:
        if path not in listed:
            reason = "not listed in metadata.csv"
            yield Video(path, dataset.name, media_stem(path), path, "", "", "", reason=reason)


def _filled(table: pd.DataFrame, dataset: str) -> pd.DataFrame:
    """A table of videos with all columns, "" where unknown; persons get the data set's name."""
    columns = ["filename", "label", "original", "method", "split", "dataset", "person", "group"]
    table = table.reindex(columns=[*columns, "part"], fill_value="").fillna("")
    table["dataset"] = table["dataset"].where(table["dataset"] != "", dataset)
    people = table["person"].str.split("+").map(lambda ids: [i for i in ids if i])
    table["person"] = ["+".join(i if ":" in i else f"{dataset}:{i}" for i in p) for p in people]
    groups = table["group"].where(table["group"] != "", table.pop("part"))
    return table.assign(group=[name_group(name or dataset) or name for name in groups])


def _find_labels(folder: Path, files: set[str]) -> str:
    """Name of the CSV that labels what lies at or below a folder, "" if there is none.

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
            films = table[table["filename"].map(is_video).astype(bool)]
            if name == "metadata.csv":
                films = films.loc[[os.path.isfile(folder / film) for film in films["filename"]]]
            if meant or films["label"].map(read_label).isin(CLASSES).any():
                return name
        elif meant:
            raise ValueError(
                f"{folder / name}: columns filename and label are needed "
                f"(found: {', '.join(table.columns)})"
            )
    return ""


def _read_labels(path: Path, nrows: int | None = None) -> pd.DataFrame:
    table = read_text_csv(path, nrows=nrows).rename(columns=lambda name: name.strip().lower())
    return table.fillna("").apply(lambda column: column.str.strip())


def read_labelled(dataset: Dataset, paths: list[str]) -> Iterator[Video]:
    """A CSV with `filename,label` and what else is known, of what lies in any folder below it.

    A name is a path below the CSV, or the bare name of a video, a folder or an image there.
    """
    listing, table = _labels_of(dataset)
    named = defaultdict(list)
    for path in paths:
        for name in {path, path.rpartition("/")[2], media_stem(path)}:
            named[name].append(path)

    def find(name: str) -> str:
        """A path of `paths` by its path, bare name, or id; what is not there keeps its name."""
        name = name.replace("\\", "/")
        found = named.get(name) or named.get(media_stem(name)) or [name]
        if len(found) > 1 and name not in found:
            raise ValueError(
                f"{listing}: {name!r} is there more than once ({found[0]}, {found[1]}); "
                "write its path below the table"
            )
        return name if name in found else found[0]

    table["filename"] = table["filename"].map(find)
    # Where two rows disagree, neither is believed.
    words = table["label"].where(table["label"] != "", "(none)").groupby(table["filename"])
    words = words.agg(lambda words: " and ".join(sorted({*words})))
    table = table.drop_duplicates("filename").set_index("filename").assign(label=words)
    unlisted = sorted(set(paths) - set(table.index))
    table = table.reindex([*table.index, *unlisted], fill_value="").reset_index()
    stems = Counter(map(media_stem, table["filename"]))
    for row in table.astype(object).itertuples(index=False):
        path, real = row.filename, read_label(row.label) == "REAL"
        original = find(row.original) if row.original and not real else ""
        method = row.method or ("original" if real else "unknown")
        video = _video_id(path, alone=stems[media_stem(path)] == 1)
        facts = (path, row.label, original, method, row.split, row.person, row.group)
        yield Video(path, dataset.name, video, *facts)


def _labels_of(dataset: Dataset) -> tuple[Path, pd.DataFrame]:
    listing = dataset.root / _find_labels(dataset.root, set(os.listdir(dataset.root)))
    return listing, _filled(_read_labels(listing), dataset.name)


def _listed_folders(dataset: Dataset, folders: Mapping[str, list[str]]) -> set[str]:
    """Folders that the table names, by path, name or id."""
    names = _labels_of(dataset)[1]["filename"].str.replace("\\", "/")
    listed = {*names, *names.map(media_stem)}
    return {folder for folder in folders if {folder, media_stem(folder)} & listed}


def _lists_labels(folder: Path) -> bool:
    try:
        return any("label" in facts for facts in _read_dfdc(folder).values())
    except ValueError:
        return False


def _read_dfdc(root: Path) -> dict[str, dict[str, Any]]:
    listing = root / "metadata.json"
    table = read_any_json(listing)
    if not isinstance(table, dict) or not all(isinstance(v, dict) for v in table.values()):
        raise ValueError(f"{listing} does not hold {{file: {{label, split, original}}}}")
    return table


def read_dfdc(dataset: Dataset, paths: list[str]) -> Iterator[Video]:
    """`metadata.json`: {file: {label, split, original}}; our own `method` is read if present."""
    metadata = _read_dfdc(dataset.root)
    there = {media_stem(path): path for path in paths if "/" not in path}
    listed = {stem(name) for name in metadata}
    for filename in [*metadata, *(path for name, path in there.items() if name not in listed)]:
        facts = metadata.get(filename, {})
        word, original = str(facts.get("label", "")), str(facts.get("original") or "")
        method = "original" if read_label(word) == "REAL" else "unknown"
        path = there.get(stem(filename), filename)
        told = (filename, word, original, str(facts.get("method") or method))
        reason = "" if is_plain_name(filename) else "name is not a plain file name"
        yield Video(path, dataset.name, Path(filename).stem, *told, reason=reason)


# trees ------------------------------------------------------------------------------------------


def read_faceforensics(dataset: Dataset, paths: list[str]) -> Iterator[Video]:
    """`<original|manipulated>_sequences/<method>/<compression>/<kind>/<target>[_<donor>]`."""
    root, name = dataset.root, dataset.name
    splits: dict[str, str] = {}
    for split in SPLITS:
        for official in (root / "splits" / f"{split}.json", root / f"{split}.json"):
            pairs = read_any_json(official) if official.is_file() else []
            splits |= {str(number): split for pair in pairs for number in pair}
    # Where several kinds of pictures of one video lie side by side, the best.
    best: dict[tuple[str, ...], tuple[int, str]] = {}
    for path in paths:
        top, *rest = path.split("/")
        if top.endswith("_sequences") and (telling := _telling(rest[2:])):
            kind = max((KINDS.index(p.lower()) for p in rest[2:] if p.lower() in KINDS), default=0)
            key = (top, *rest[:2], telling[-1])
            best[key] = max(best.get(key, (-1, "")), (kind, path))
    several = len({compression for _, _, compression, _ in best}) > 1
    first: dict[str, str] = {}  # real video → its file in the first compression
    for (top, method, compression, filename), (_, path) in sorted(best.items()):
        film, suffix = media_stem(filename), f"_{compression}" if several else ""
        ending = filename.removeprefix(film)
        # `004_982` was made of 004 and shows 982; DeepFakeDetection's `01_02__scene__ID` likewise.
        actors, *scene = film.split("__")[:2]
        people = actors.split("_")
        if top == "original_sequences":
            # YouTube originals are known by their number; the actors' ones by a name of their own.
            label, method, video = "REAL", "original", f"{film}{suffix}"
            # The same scene in another compression goes back to the first.
            original = first.get(film, "")
            first.setdefault(film, f"{video}{ending}")
        else:
            label, video = "FAKE", f"{method}_{film}{suffix}"
            original = "__".join([people[0], *scene]) + suffix + ending
        part = f"{name}-{compression}" if several else name
        facts = (filename, label, original, method, splits.get(film.split("_")[0], ""))
        yield Video(path, part, video, *facts, "+".join(f"{name}:{who}" for who in people))


def read_celebdf(dataset: Dataset, paths: list[str]) -> Iterator[Video]:
    """`Celeb-synthesis/[<kind>/<method>/]id0_id1_0000` was made of `Celeb-real/id0_0000`."""
    listing = dataset.root / "List_of_testing_videos.txt"
    try:
        lines = listing.read_text("utf-8-sig").splitlines() if listing.is_file() else []
    except UnicodeDecodeError as error:  # not to be passed over: the official split stands in it
        raise ValueError(f"{listing} is not UTF-8 text ({error}); save it as such") from error
    tested = {stem(line.split()[-1]).lower() for line in lines if line.strip()}
    labels = {"celeb-real": "REAL", "youtube-real": "REAL", "celeb-synthesis": "FAKE"}
    for path in paths:
        top, *rest = path.split("/")
        rest, label = _telling(rest), labels.get(top.lower(), "")
        if not label or not rest:
            continue
        film = media_stem(rest[-1])
        parts, video, original, method = film.split("_"), film, "", "original"
        if label == "FAKE":
            original = f"{parts[0]}_{parts[-1]}{rest[-1].removeprefix(film)}"
            method = rest[-2] if len(rest) > 1 else top
            video = f"{method}_{film}" if len(rest) > 1 else film
        split = "test" if f"{top}/{film}".lower() in tested else ""
        people = "+".join(f"{dataset.name}:{p}" for p in parts if re.fullmatch(r"id\d+", p))
        facts = (rest[-1], label, original, method, split, people)
        yield Video(path, dataset.name, video, *facts)


def read_folders(dataset: Dataset, paths: list[str]) -> Iterator[Video]:
    """`real/` and `fake/`: the folder is the label; a film or folder of frames is a video.

    A fake is made of the real video of its name, if there is one.
    """
    tops = _class_folders(dataset.root)
    placed = {path: place for path in paths if (place := _place(tops, path))}
    stems = Counter(map(media_stem, placed))
    reals: dict[tuple[str, str], set[str]] = defaultdict(set)
    for path, (label, split, rest) in placed.items():
        if label == "REAL":
            for name in {"/".join(rest), rest[-1]}:
                reals[split, stem(name)].add(path)
    for path, (label, split, rest) in placed.items():
        loose = path.lower().endswith(IMAGE_SUFFIXES)
        original, method, video = "", "original", path.replace("/", "__")
        if label == "FAKE":
            method = rest[-2] if len(rest) > 1 else "unknown"
            twins = reals.get((split, stem("/".join(rest)))) or reals[split, stem(rest[-1])]
            original = min(twins) if len(twins) == 1 and not loose else ""
        if not loose:
            video = _video_id(path, alone=stems[media_stem(path)] == 1)
        yield Video(path, dataset.name, video, path, label, original, method, split)


def _class_folders(root: Path, folders: list[str] | None = None) -> dict[str, tuple[str, str]]:
    """`real`, `test/fake`, `fake/train` and their like: label and word of the split by path."""
    folders = _folders(root) if folders is None else folders
    tops: dict[str, tuple[str, str]] = {}
    for name, label in _classes(folders).items():
        parted = [part for part in _folders(root / name) if part.lower() in SPLIT_WORDS]
        tops |= {name: (label, ""), **{f"{name}/{part}": (label, part) for part in parted}}
    for part in (name for name in folders if name.lower() in SPLIT_WORDS):
        labels = _classes(_folders(root / part))
        tops |= {f"{part}/{name}": (label, part) for name, label in labels.items()}
    return tops


def _folders(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in os.scandir(folder) if entry.is_dir())
    except OSError:  # a link to itself, or not ours to read
        return []


def _classes(folders: Iterable[str]) -> dict[str, str]:
    """Folder to label: `real` and `fake`, or, where there are both, names that hold one word."""
    exact = {name: name.upper() for name in folders if name.upper() in CLASSES}
    words = {name: {*re.split("[^A-Z]+", name.upper())} & {*CLASSES} for name in folders}
    told = {name: found.pop() for name, found in words.items() if len(found) == 1}
    return exact or (told if len({*told.values()}) == 2 else {})


def _place(tops: Mapping[str, tuple[str, str]], path: str) -> tuple[str, str, list[str]] | None:
    """Label, split, and what else the path of a video tells; None outside the class folders."""
    parts = path.split("/")
    depth = 2 if "/".join(parts[:2]) in tops else 1
    found, rest = tops.get("/".join(parts[:depth])), _telling(parts[depth:])
    return (*found, rest) if found and rest else None


def _frame_folders(dataset: Dataset, folders: Mapping[str, list[str]]) -> set[str]:
    """Folders that are videos: their images are named like frames, and their class has several.

    `fake/stylegan/` with 5,000 images is no video.
    """
    tops, found = _class_folders(dataset.root), defaultdict(set)
    for folder, images in folders.items():
        if place := _place(tops, folder):
            some = images[:SAMPLE]
            if len(list_frames(some, place[2][-1])[0]) >= FRAMES * len(some):
                found[place[0]].add(folder)
    return {folder for several in found.values() if len(several) > 1 for folder in several}


class Layout(NamedTuple):
    """How a layout is read: its videos, and which folders of images are a video each."""

    read: Reader
    folders_of: Callable[[Dataset, Mapping[str, list[str]]], set[str]]


def _deep(depth: int) -> Callable[[Dataset, Mapping[str, list[str]]], set[str]]:
    """Folders whose path tells something beyond its first `depth` parts."""
    return lambda _, folders: {f for f in folders if _telling(f.split("/")[depth:])}


def _at_the_top(_: Dataset, folders: Mapping[str, list[str]]) -> set[str]:
    return {folder for folder in folders if folder and "/" not in folder}


LAYOUTS = {
    "faces": Layout(read_crop_table, _at_the_top),
    "deepfake_faces": Layout(read_crop_table, lambda *_: set()),
    "dfdc": Layout(read_dfdc, _at_the_top),
    "faceforensics": Layout(read_faceforensics, _deep(3)),
    "celebdf": Layout(read_celebdf, _deep(1)),
    "labelled": Layout(read_labelled, _listed_folders),
    "folders": Layout(read_folders, _frame_folders),
}
