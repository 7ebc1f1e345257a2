"""Crops on disk → one table, each opened once, with everything that was left out and why."""

from __future__ import annotations

import functools
import hashlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from PIL import Image
from tqdm.auto import tqdm

from utils.data.layouts import (
    CROP_LAYOUTS,
    Dataset,
    find_datasets,
    is_plain_name,
    read_crop_metadata,
    stem,
)
from utils.faces.detection import read_recipe
from utils.faces.media import IMAGE_SUFFIXES, evenly_spaced
from utils.run.artifacts import CLASSES, check_fields, read_text_csv
from utils.run.machine import inside, is_folder, stable_hash


def spread_frames(index: pd.DataFrame, n_frames: int) -> pd.DataFrame:
    """Keep `n_frames` evenly spaced frames of every video, with all their faces; 0 keeps all.

    Neighbouring frames of a video are near copies: after a few they cost time and teach nothing.
    """
    if not n_frames:
        return index
    frames = index.drop_duplicates(["dataset", "video", "frame"])[["dataset", "video", "frame"]]
    frames = frames.sort_values("frame")
    groups = frames.groupby(["dataset", "video"])["frame"]
    rank, size = groups.cumcount(), groups.transform("size")
    wanted = {n: set(evenly_spaced(n, n_frames).tolist()) for n in size.unique()}
    chosen = [r in wanted[n] for r, n in zip(rank, size)]
    kept = pd.MultiIndex.from_frame(frames[chosen])
    return index[pd.MultiIndex.from_frame(index[["dataset", "video", "frame"]]).isin(kept)]


FACE = ["video", "frame", "face"]


def scan_crops(
    data: str | Path = "", *, max_videos: int = 0, seed: int = 0
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """List every crop of every known data set at or below a folder, without opening one.

    Args:
        data: a folder in any known crop layout, or one that holds several; "" means Kaggle's.
        max_videos: keep at most so many videos, drawn by source so that a fake keeps its
            original; 0 keeps all.
        seed: of that draw.
    Returns:
        crops: one row a crop, sorted by data set, video, frame, face. Columns `path` (POSIX,
            relative to the data set), `dataset, video, frame, face, label, method, original`
            (video id or ""), `official` (official split or ""), `root` (absolute).
        left_out: one row a thing that is not used: `dataset, reason, name`.
    Raises:
        FileNotFoundError: no data set, or raw videos only.
        ValueError: missing columns, no crop at all, one class only.
    """
    datasets = [dataset for dataset in find_datasets(data) if dataset.layout in CROP_LAYOUTS]
    if not datasets:
        raise FileNotFoundError(
            f"{str(data)!r} holds raw videos and no face crops: run 00_extract_faces on it first"
        )
    tables: list[pd.DataFrame] = []
    left_out: list[tuple[str, str, str]] = []
    for dataset in datasets:
        scan = _scan_folders if dataset.layout == "folders" else _scan_listed
        tables.append(scan(dataset, left_out))
    # An empty table has no types of its own and would blur those of the others.
    crops = pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)
    _require_two_classes(crops, datasets)
    for name, roots in crops.groupby("dataset")["root"].unique().items():
        if len(roots) > 1:
            raise ValueError(
                f"two data sets are called {name!r}: {roots[0]} and {roots[1]}; set DATA to one"
            )
    if max_videos:
        crops = _draw_videos(crops, max_videos, seed, left_out)
    return crops, pd.DataFrame(left_out, columns=["dataset", "reason", "name"])


def _require_two_classes(crops: pd.DataFrame, datasets: list[Dataset]) -> None:
    where = ", ".join(
        str(dataset.root if dataset.layout == "folders" else dataset.root / "metadata.csv")
        for dataset in datasets
    )
    if crops.empty:
        raise ValueError(f"{where}: no crop of any listed video; the data set is empty")
    labels = sorted(crops["label"].unique())
    if len(labels) == 1:
        raise ValueError(
            f"{where}: column label holds {labels[0]} only, among videos that have crops; "
            f"both {' and '.join(CLASSES)} are needed"
        )


def _scan_listed(dataset: Dataset, left_out: list[tuple[str, str, str]]) -> pd.DataFrame:
    """A data set with `metadata.csv`: judge its rows, then list the crops of each video."""

    def skip(reason: str, names: Any) -> None:
        left_out.extend((dataset.name, reason, str(name)) for name in names)

    rows = read_crop_metadata(dataset)
    videos = _judge_rows(rows, skip)
    flat = dataset.layout == "deepfake_faces"
    top = dataset.root / "faces_224" if flat else dataset.root
    present, linked_out = _entries(top, dataset.root, skip, folders=not flat)
    listed = set(rows["filename"].map(stem))  # rows that were judged unfit are listed too
    skip("unlisted image" if flat else "unlisted folder", sorted(set(present) - listed))

    # Three flat lists: a tuple a crop would make the garbage collector the slowest part.
    paths: list[str] = []
    frames: list[int] = []
    faces: list[int] = []
    counts: list[int] = []
    for video in videos["video"]:
        found = []
        if video in present and flat:
            found = [(0, 1, f"faces_224/{present[video]}")]
        elif video in present:
            found = _frames(f"{top}/{video}", f"{video}/", dataset.root, skip)
        frames += [frame for frame, _, _ in found]
        faces += [face for _, face, _ in found]
        paths += [path for _, _, path in found]
        counts.append(len(found))
        if not found and video not in linked_out:
            missing = "no image" if flat else "no folder"
            skip("empty folder" if video in present else missing, [video])
    crops = videos.loc[videos.index.repeat(counts)].reset_index(drop=True)
    return crops.assign(path=paths, frame=frames, face=faces, root=str(dataset.root))[COLUMNS]


COLUMNS = [
    *("path", "dataset", "video", "frame", "face", "label"),
    *("method", "original", "official", "root"),
]


def _judge_rows(rows: pd.DataFrame, skip: Any) -> pd.DataFrame:
    """Keep one trustworthy row a video; the rest is handed to `skip` with a reason."""
    # A name that is not a plain file name (`../x`, `/etc/x`) never becomes part of a path.
    plain = rows["filename"].map(is_plain_name).astype(bool)
    skip("name is not a plain file name", rows.loc[~plain, "filename"])
    rows = rows[plain].assign(video=lambda r: r["filename"].map(stem))
    known = rows["label"].isin(CLASSES)
    skip("unknown label", rows.loc[~known, "filename"])
    rows = rows[known]
    conflicting = rows.groupby("video")["label"].transform("nunique") > 1
    skip("conflicting label", rows.loc[conflicting, "filename"])
    # The row that names an original wins, whatever the order of the file.
    by = ["original", "method", "split", "filename"]
    rows = rows[~conflicting].sort_values(by, ascending=False)
    repeated = rows["video"].duplicated()
    skip("duplicate row", rows.loc[repeated, "filename"])
    rows = rows[~repeated].sort_values("video", ignore_index=True)
    default = rows["label"].map({"REAL": "original", "FAKE": "unknown"})
    return rows.assign(
        method=rows["method"].where(rows["method"] != "", default),
        original=rows["original"].map(stem),
        official=rows["split"],
    )


def _entries(
    folder: Path, root: Path, skip: Any, *, folders: bool
) -> tuple[dict[str, str], set[str]]:
    """Name → file name of the folders (or images) in `folder`, and those that lead out of it."""
    present: dict[str, str] = {}
    linked_out: set[str] = set()
    if not inside(folder, root):
        skip("link out of the data set", [folder.name])
    elif folder.is_dir():
        with os.scandir(folder) as found:
            entries = sorted(found, key=lambda entry: entry.name)
        for entry in (entry for entry in entries if not entry.name.startswith(".")):
            image = entry.name.lower().endswith(IMAGE_SUFFIXES)
            name = entry.name if folders else stem(entry.name)
            if not folders and (not image or is_folder(entry)):
                skip("file name is no image", [entry.name])
            elif folders and not is_folder(entry):
                skip("image outside the folders", [name] if image else [])
            elif entry.is_symlink() and not inside(entry.path, root):
                linked_out.add(name)
            elif name in present:
                skip("second image of a video", [entry.name])
            else:
                present[name] = entry.name
    skip("link out of the data set", sorted(linked_out))
    return present, linked_out


def _frames(folder: str, prefix: str, root: Path, skip: Any) -> list[tuple[int, int, str]]:
    """(frame, face, path) of the crops in one video's folder, in order."""
    found = []
    with os.scandir(folder) as entries:
        for entry in entries:
            frame = parse_frame_name(entry.name)
            if frame is None:
                skip("file name is no frame", [prefix + entry.name])
            elif entry.is_symlink() and not inside(entry.path, root):
                skip("link out of the data set", [prefix + entry.name])
            else:
                found.append((*frame, prefix + entry.name))
    return sorted(found)


# The same few hundred names recur in every folder, so the cache saves most of the parsing.
@functools.lru_cache(maxsize=65536)
def parse_frame_name(name: str) -> tuple[int, int] | None:
    """Read `<frame>.png` or `<frame>_<k>.png` (the k-th face, from 2) as (frame, face).

    Returns:
        (frame, face) with face = 1 where no suffix stands, or None if it is no such name.
    """
    match = re.fullmatch(r"(\d{1,9})(?:_([2-9]|[1-9]\d{1,3}))?\.(?:png|jpe?g)", name, re.ASCII)
    return (int(match[1]), int(match[2] or 1)) if match else None


def _scan_folders(dataset: Dataset, left_out: list[tuple[str, str, str]]) -> pd.DataFrame:
    """`real/` and `fake/`: the folder is the label, and every image is a video of its own."""
    rows = []
    for top in sorted(dataset.root.iterdir()):
        label = top.name.upper()
        if label not in CLASSES or not top.is_dir():
            continue
        for path in _walk_images(top, dataset, left_out):
            # "/" would make a folder of an id, and two suffixes may share a stem: keep both.
            rows.append((path, path.replace("/", "__"), label))
    crops = pd.DataFrame(rows, columns=["path", "video", "label"])
    method = crops["label"].map({"REAL": "original", "FAKE": "unknown"})
    facts = {"dataset": dataset.name, "frame": 0, "face": 1, "original": "", "official": ""}
    return crops.assign(**facts, method=method, root=str(dataset.root))[COLUMNS]


def _walk_images(
    top: Path, dataset: Dataset, left_out: list[tuple[str, str, str]]
) -> Iterator[str]:
    if not inside(top, dataset.root):
        left_out.append((dataset.name, "link out of the data set", top.name))
        return
    for folder, folders, files in os.walk(top):
        folders.sort()
        linked = [name for name in folders if Path(folder, name).is_symlink()]
        for name in sorted([*files, *linked]):
            path = Path(folder, name)
            relative = path.relative_to(dataset.root).as_posix()
            if path.is_symlink() and not inside(path, dataset.root):
                left_out.append((dataset.name, "link out of the data set", relative))
            elif name in linked or not name.lower().endswith(IMAGE_SUFFIXES):
                left_out.append((dataset.name, "file name is no image", relative))
            else:
                yield relative


def _draw_videos(
    crops: pd.DataFrame, max_videos: int, seed: int, left_out: list[tuple[str, str, str]]
) -> pd.DataFrame:
    """Keep whole families (an original and its fakes), in a drawn order, as far as they fit."""
    videos = crops.drop_duplicates(["dataset", "video"])
    family = videos["original"].where(videos["original"] != "", videos["video"])
    older = dict(zip(videos["video"], family))  # an original may itself be a copy of another
    family = family.map(lambda name: older.get(name, name))
    sizes, room, taken = family.value_counts().to_dict(), max_videos, set()
    for name in sorted(sizes, key=lambda name: (stable_hash(name, seed), name)):
        if sizes[name] <= room:
            taken.add(name)
            room -= sizes[name]
    kept, dropped = videos[family.isin(taken)], videos[~family.isin(taken)]
    if kept["label"].nunique() < 2:
        raise ValueError(
            f"MAX_VIDEOS={max_videos} leaves {len(kept)} videos and not both classes, since an "
            "original and its fakes stay together; set it higher, or to 0 for all videos"
        )
    left_out += [(d, "beyond MAX_VIDEOS", v) for d, v in zip(dropped["dataset"], dropped["video"])]
    keys = pd.MultiIndex.from_frame(kept[["dataset", "video"]])
    rows = pd.MultiIndex.from_frame(crops[["dataset", "video"]]).isin(keys)
    return crops[rows].reset_index(drop=True)


def crop_paths(index: pd.DataFrame, data: str | Path = "") -> list[str]:
    """Where the crops of an index lie on this machine.

    Args:
        index: with `dataset` and `path`.
        data: as for `scan_crops`.
    Returns:
        Absolute paths in the order of the rows.
    Raises:
        FileNotFoundError: a data set of the index, or its first crop, is not below `data`.
    """
    roots: dict[str, Path] = {}
    for dataset in find_datasets(data):
        if dataset.layout == "faces":
            names = set(read_crop_metadata(dataset)["dataset"])
        else:
            names = {dataset.name} if dataset.layout in CROP_LAYOUTS else set()
        roots |= dict.fromkeys(names, dataset.root)
    for name, group in index.groupby("dataset"):
        if name not in roots or not (roots[str(name)] / group["path"].iloc[0]).is_file():
            raise FileNotFoundError(
                f"the crops of data set {name!r} in index.csv are not below DATA={str(data)!r}; "
                "set DATA to the folder that 01_explore_data read, or run that notebook again"
            )
    return [str(roots[dataset] / path) for dataset, path in zip(index["dataset"], index["path"])]


def summarise_left_out(left_out: pd.DataFrame, examples: int = 5) -> dict[str, dict[str, Any]]:
    """Count what was left out by reason: {reason: {"count": n, "examples": [names]}}."""
    return {
        str(reason): {"count": len(group), "examples": sorted(group["name"])[:examples]}
        for reason, group in left_out.groupby("reason")
    }


#: What `image_statistics` measures; the cheap features of the leakage ladder.
STATISTICS = ["brightness", "contrast", "sharpness", "red", "green", "blue"]
CHUNK = 64


def inspect_crops(
    crops: pd.DataFrame, *, n_jobs: int = -1, progress: bool = True
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Open every crop once, in parallel, and describe it.

    Args:
        crops: as `scan_crops` gives it.
    Returns:
        readable: `crops` with `width, height` (pixels), `file_bytes`, `digest` (of the file's
            bytes) and `STATISTICS` (brightness, contrast and colour means in [0, 1]; sharpness is
            the log10 variance of the Laplacian), unreadable crops dropped.
        left_out: `dataset, reason, name` of the unreadable ones.
    Raises:
        ValueError: not one crop can be read, or one class is left.
    """
    paths = [f"{root}/{path}" for root, path in zip(crops["root"], crops["path"])]
    chunks = [paths[start : start + CHUNK] for start in range(0, len(paths), CHUNK)]
    # Threads: decoding and OpenCV let go of the interpreter lock, and nothing has to be copied.
    parallel = Parallel(n_jobs=n_jobs, prefer="threads", return_as="generator")
    facts: list[tuple[Any, ...]] = []
    with tqdm(total=len(paths), unit="crop", desc="decode check", disable=not progress) as bar:
        for chunk in parallel(delayed(_inspect_chunk)(chunk) for chunk in chunks):
            facts += chunk
            bar.update(len(chunk))
    columns = ["reason", "width", "height", "file_bytes", "digest", *STATISTICS]
    table = pd.DataFrame(facts, columns=columns, index=crops.index)
    readable = table["reason"] == ""
    left_out = pd.DataFrame(
        {
            "dataset": crops.loc[~readable, "dataset"],
            "reason": table.loc[~readable, "reason"],
            "name": crops.loc[~readable, "path"],
        }
    )
    kept = pd.concat([crops[readable], table.loc[readable].drop(columns="reason")], axis=1)
    if kept["label"].nunique() < 2:
        example = f" (such as {paths[int(np.argmin(readable))]})" if len(left_out) else ""
        raise ValueError(
            f"crops of both classes are needed; {len(left_out)} cannot be read{example}"
        )
    kinds = {"width": int, "height": int, "file_bytes": int}
    return kept.astype(kinds).reset_index(drop=True), left_out.reset_index(drop=True)


def _inspect_chunk(paths: list[str]) -> list[tuple[Any, ...]]:
    return [_inspect(path) for path in paths]


def _inspect(path: str) -> tuple[Any, ...]:
    try:
        content = Path(path).read_bytes()
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
            pixels = np.asarray(image.convert("RGB"))
    # Pillow raises these for files that are no image, cut short, or unreasonably large.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = "truncated image" if "truncated" in str(error).lower() else "unreadable image"
        return (reason, 0, 0, 0, "", *[np.nan] * len(STATISTICS))
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    return ("", width, height, len(content), digest, *image_statistics(pixels).values())


def image_statistics(pixels: np.ndarray) -> dict[str, float]:
    """Describe an image by the few numbers in `STATISTICS`.

    Args:
        pixels: RGB, uint8, shape (H, W, 3).
    """
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    mean, deviation = cv2.meanStdDev(gray)
    _, edges = cv2.meanStdDev(cv2.Laplacian(gray, cv2.CV_64F))
    red, green, blue, _ = cv2.mean(pixels)
    return {
        "brightness": float(mean[0, 0]) / 255,
        "contrast": float(deviation[0, 0]) / 255,
        "sharpness": float(np.log10(edges[0, 0] ** 2 + 1)),
        "red": red / 255,
        "green": green / 255,
        "blue": blue / 255,
    }


def fingerprint(crops: pd.DataFrame) -> str:
    """A short name of the data: 16 hex digits that change with any crop, label or file name.

    Args:
        crops: as `inspect_crops` gives it.
    """
    rows = sorted(zip(crops["dataset"], crops["path"], crops["label"], crops["digest"]))
    return hashlib.blake2b(repr(rows).encode(), digest_size=8).hexdigest()


def _roots(data: str | Path) -> dict[str, Path]:
    """Folder of each data set of crops at or below `data`, by its name in an index."""
    roots: dict[str, Path] = {}
    for dataset in find_datasets(data):
        if dataset.layout == "faces":
            roots |= dict.fromkeys(read_crop_metadata(dataset)["dataset"], dataset.root)
        elif dataset.layout in CROP_LAYOUTS:
            roots[dataset.name] = dataset.root
    return roots


def face_facts(index: pd.DataFrame, data: str | Path, output: str | Path) -> pd.DataFrame:
    """What 00 knew of each face of an index when it cut it.

    That stands in `boxes.csv`: beside the crops of a data set or, for crops that were cut there and
    lie elsewhere now, in OUTPUT/faces.

    Returns:
        A row a row of `index`, under the same labels: `track`, `probability` of being a face,
        `side` (shorter side, in pixels of the frame that it was cut from) and `face_size` (larger
        side, in pixels of the video); NaN where not known. `track` is known of all crops of a video
        or of none; where no box is known, `face_size` is the larger side of the crop.
    Raises:
        ValueError: `boxes.csv`, or what lies beside it, is damaged; names the file.
    """
    rows = index[["dataset", *FACE]].reset_index(drop=True)
    folders = {name: root for name, root in _roots(data).items() if (root / "boxes.csv").is_file()}
    where = {name: folders.get(name, Path(output) / "faces") for name in rows["dataset"].unique()}
    facts = pd.DataFrame(np.nan, rows.index, ["track", "probability", "side", "face_size"])
    for folder, part in rows.groupby(rows["dataset"].map(where)):
        if (folder / "boxes.csv").is_file():
            found = part.merge(_read_boxes(folder), on=FACE, how="left").set_index(part.index)
            # A video of the same name may have been cut there from another data set.
            ours = found["cut_from"].eq("") | (found["cut_from"] == found["dataset"])
            facts.loc[part.index] = found[facts.columns].where(ours)
    mixed = facts["track"].isna().groupby([rows["dataset"], rows["video"]]).transform("any")
    side = index[["width", "height"]].max(axis=1).reset_index(drop=True)
    facts = facts.assign(
        track=facts["track"].mask(mixed), face_size=facts["face_size"].fillna(side)
    )
    return facts.set_index(index.index)


def _read_boxes(folder: Path) -> pd.DataFrame:
    """A row a face in boxes.csv: `FACE`, the facts, and the data set that it was `cut_from`."""
    path, listing, recipe = folder / "boxes.csv", folder / "metadata.csv", read_recipe([folder])
    boxes = read_text_csv(path)
    check_fields("faces/boxes.csv", boxes.columns, path)
    numbers = ["frame", "face", "track", "probability", "x1", "y1", "x2", "y2"]
    try:
        boxes = boxes[["video"]].join(boxes[numbers].apply(pd.to_numeric))
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}; run 00_extract_faces again") from error
    named = (boxes[["frame", "face"]] % 1 == 0).all(axis=1)
    boxes = boxes[named].astype({"frame": int, "face": int}).drop_duplicates(FACE)
    sides = [boxes["x2"] - boxes["x1"], boxes["y2"] - boxes["y1"]]

    columns = ["filename", "dataset", "width", "height"]
    films = read_text_csv(listing) if listing.is_file() else pd.DataFrame(columns=columns)
    films = films.reindex(columns=columns, fill_value="").assign(video=films["filename"].map(stem))
    sizes = films[["width", "height"]].apply(pd.to_numeric, errors="coerce").to_numpy()
    films["scale"] = [recipe.shrunk(w, h)[0] / w if min(w, h) > 0 else np.nan for w, h in sizes]
    films = films.drop_duplicates("video").set_index("video")
    cut_from = boxes["video"].map(films["dataset"]).astype(object).fillna("")
    side = np.minimum(*sides) * boxes["video"].map(films["scale"]).astype(float)
    return boxes.assign(side=side, face_size=np.maximum(*sides), cut_from=cut_from)
