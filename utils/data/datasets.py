"""Data sets on disk: where they lie, and which videos, folders of frames and images they hold."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from utils.data.layouts import (
    ACCEPTED,
    CROP_TABLES,
    LAYOUTS,
    WAYS,
    Dataset,
    Video,
    is_video,
    layout_of,
    name_group,
    read_label,
    read_splits,
)
from utils.faces.media import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from utils.report.words import escaped
from utils.run.artifacts import CLASSES
from utils.run.machine import input_roots, inside

#: How deep below DATA a data set is looked for; Kaggle's longest mount form needs five.
MAX_DEPTH = 6
#: Folders of pictures that show no face.
ASIDE = ("masks", "mask", "landmarks")
LINK = "link out of the data set"
#: Suffixes that most images have; to look at four characters is fastest.
FOUR = {suffix for suffix in IMAGE_SUFFIXES if len(suffix) == 4}
#: Notes a reason, and the names of the things that are left out for it.
Skip = Callable[[str, Iterable[Any]], None]


def find_datasets(data: str | Path = "") -> list[Dataset]:
    """Every known data set at or below a folder ("": any Kaggle input), by path, named apart.

    Raises:
        FileNotFoundError: the folder does not exist, or nothing known is below it.
    """
    tops = [Path(data).expanduser()] if data else input_roots()
    for top in tops:
        if not top.is_dir():
            raise FileNotFoundError(f"DATA or EXTRA_DATA {str(top)!r} is not a folder")
    links: list[str] = []
    found = {root.resolve(): layout for top in tops for root, layout in _search(top, links)}
    if not found:
        where = str(data) if data else "the attached Kaggle inputs"
        outside = f" {links[0]} leads out of it and was not followed." if links else ""
        raise FileNotFoundError(
            f"no known data set in {where}: looked for metadata.csv with crops in folders or in "
            "faces_224/, real/ and fake/ folders, metadata.json of labels, FaceForensics++, "
            f"Celeb-DF, and a CSV with filename and label.{outside} Set DATA to the folder of a "
            f"data set, or attach one on Kaggle. {WAYS}"
        )
    datasets: dict[str, Dataset] = {}
    for path, layout in sorted(found.items()):
        # Two parts may share a folder name; their parents then tell them apart.
        names = ["-".join(path.parts[-depth:]) for depth in range(1, len(path.parts))]
        name = next(name for name in names if name not in datasets)
        datasets[name] = Dataset(name, path, layout)
    return list(datasets.values())


def _search(top: Path, links: list[str]) -> Iterator[tuple[Path, str]]:
    """Folder and layout of each data set; it is not entered, for it may hold 100,000 crops.

    A link is followed where it stays below `top`; others go into `links`.
    """
    seen: dict[str, int] = {}  # a folder may hold itself by a link
    for folder, folders, files in os.walk(top, followlinks=True):
        real, depth = os.path.realpath(folder), len(Path(folder).relative_to(top).parts)
        known = seen.get(real, MAX_DEPTH) <= depth
        layout = "" if known else layout_of(Path(folder), set(files), folders)
        if layout:
            yield Path(folder), layout
        linked = [f"{folder}/{name}" for name in folders if os.path.islink(f"{folder}/{name}")]
        out = {path for path in linked if not inside(path, top)}
        links += sorted(out)
        deeper = not known and not layout and depth + 1 < MAX_DEPTH
        kept = [n for n in folders if deeper and n[0] != "." and f"{folder}/{n}" not in out]
        folders[:] = sorted(kept)
        seen[real] = min(depth, seen.get(real, MAX_DEPTH))


def walk(root: Path, skip: Skip, below: str = "") -> Iterator[tuple[str, list[str], list[str]]]:
    """Folders of a data set ("", or with "/" at the end), their videos, their images; no links."""
    entries = list(os.scandir(root / below))
    files = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
    folders: list[str] = []
    others: list[str] = []
    if len(files) < len(entries):
        for entry in entries:
            if entry.is_symlink() and not inside(entry.path, root):
                skip(LINK, [below + entry.name])
            elif entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            elif not entry.is_file(follow_symlinks=False):  # a link, a pipe
                (files if os.path.isfile(entry.path) else others).append(entry.name)
    images = [name for name in files if name[-4:] in FOUR and name[0] != "."]
    films: list[str] = []
    if len(images) < len(files):
        for name in {*files} - {*images}:
            if name[0] != ".":
                small = name.lower()
                kind = images if small.endswith(IMAGE_SUFFIXES) else others
                (films if small.endswith(VIDEO_SUFFIXES) else kind).append(name)
    if below:  # tables, licences and the like lie at the top
        skip("file name is no image", sorted(below + name for name in others))
    yield below, films, images
    for name in sorted(folders):
        if name[0] != "." and name.lower() not in ASIDE:
            yield from walk(root, skip, f"{below}{name}/")


def holds(dataset: Dataset) -> set[str]:
    """What a data set holds: "videos", "crops" (images of any kind), or both."""
    if dataset.layout in CROP_TABLES:
        return {"crops"}
    kinds: set[str] = set()
    for _, films, images in walk(dataset.root, lambda *_: None):
        kinds |= {"videos"} if films else set()
        kinds |= {"crops"} if images else set()
        if len(kinds) == 2:
            break
    return kinds


def list_media(
    dataset: Dataset, skip: Skip, *, videos: bool
) -> tuple[list[Video], dict[str, list[str]]]:
    """The videos of a data set, their `path` below it, and the images of those that are folders.

    With `videos` those that are films; else those of which there are images: a folder is a video,
    or each image by itself where a folder says nothing of a video.
    """
    layout, folders = LAYOUTS[dataset.layout], {}
    media: dict[str, list[str]] = {}
    for folder, films, images in walk(dataset.root, skip):
        if videos:
            media |= {folder + film: [] for film in films}
        elif images:
            folders[folder.rstrip("/")] = images
    own = layout.folders_of(dataset, folders) if folders else set()
    for folder, images in folders.items():
        below = f"{folder}/" if folder else ""
        media |= {folder: images} if folder in own else {below + image: [] for image in images}
    if not media and dataset.layout not in CROP_TABLES:
        return [], media
    read = list(layout.read(dataset, sorted(media)))
    words = pd.Series([video.split for video in read], dtype=str)
    splits = read_splits(words, train_alone=dataset.layout == "faceforensics")
    told = []
    for video, split in zip(read, splits.tolist(), strict=True):
        facts = {"label": read_label(video.label), "word": video.label, "split": split}
        video = video._replace(group=video.group or name_group(dataset.name), **facts)
        reason = _unusable(dataset, video, present=video.path in media)
        told.append(video._replace(reason=reason) if reason else video)
    return told, media


def _unusable(dataset: Dataset, video: Video, *, present: bool) -> str:
    """Say why a video cannot be used, "" if it can."""
    if video.reason or (present and video.label in CLASSES):
        return video.reason
    path = Path(video.path)
    if ".." in path.parts or path.is_absolute():
        return "name leads out of the data set"
    if present and not video.word:
        table = "metadata.json" if dataset.layout == "dfdc" else "the table of labels"
        return f"not listed in {table}"
    if video.label not in CLASSES:
        return f"unknown label {video.word!r}"
    outside = (dataset.root / path).exists() and not inside(dataset.root / path, dataset.root)
    return LINK if outside else "listed but absent"


def index_videos(data: str | Path = "") -> pd.DataFrame:
    """A row a `Video` of every data set of videos at or below a folder, by data set and video.

    Raises:
        FileNotFoundError: no video there.
        ValueError: a metadata file is damaged, or two videos share an id.
    """
    datasets = find_datasets(data)
    rows = [film for dataset in datasets for film in _list_films(dataset)]
    if not rows:
        crops = any("crops" in holds(dataset) for dataset in datasets)
        way = "it holds face crops: start with 01_explore_data" if crops else WAYS
        raise FileNotFoundError(f"no raw videos in {str(data)!r}; {way}")
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


def _list_films(dataset: Dataset) -> list[Video]:
    if dataset.layout in CROP_TABLES:
        return []
    linked: list[str] = []

    def skip(reason: str, paths: Iterable[str]) -> None:
        linked.extend(path for path in paths if reason == LINK and is_video(path))

    videos, _ = list_media(dataset, skip, videos=True)
    unread = set(linked) - {video.path for video in videos} if videos else ()
    videos += [Video(p, dataset.name, "", p, "", "", "", reason=LINK) for p in sorted(unread)]
    return [video._replace(path=f"{dataset.root}/{video.path}") for video in videos]


def describe_videos(videos: pd.DataFrame) -> str:
    """Markdown on a table of `index_videos`: how many can be used, and what 01 will ask for."""
    usable = videos[videos["reason"] == ""]
    lines = [f"**{len(usable):,} of {len(videos):,} videos can be used.**", *words_read(usable)]
    if lack := lacking(usable["label"], videos.loc[videos["reason"] != "", "reason"]):
        lines.append(f"Faces can be cut, but `01_explore_data` will stop: **{escaped(lack)}**")
    return "\n\n".join(lines)


def words_read(videos: pd.DataFrame) -> list[str]:
    """What was read out of numbers for labels, such as "1 read as FAKE: 12 videos"."""
    words = videos.drop_duplicates(["dataset", "video"])["word"].value_counts()
    return [
        f"{word} read as {read_label(word)}: {n:,} videos"
        for word, n in words.items()
        if word[:1].isdigit()
    ]


def lacking(labels: pd.Series, reasons: pd.Series) -> str:
    """What classes are missing, what was left out for which reasons, and a way out; "" if none."""
    missing = sorted({*CLASSES} - {*labels.unique()})
    told = "; ".join(f"{n:,} {reason}" for reason, n in reasons.value_counts().items())
    if not missing:
        return ""
    way = "Name the target of such a link as DATA. " * (LINK in reasons.values) + WAYS
    return (
        f"nothing is labelled {' or '.join(missing)}, and both classes are needed (labels "
        f"{ACCEPTED}). Left out: {told or 'nothing'}. {way}"
    )
