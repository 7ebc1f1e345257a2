"""Crops on disk → one table, each opened once, with everything that was left out and why."""

from __future__ import annotations

import functools
import hashlib
import io
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd

from utils.data.datasets import Skip, find_datasets, holds, lacking, list_media
from utils.data.layouts import (
    CROP_TABLES,
    WAYS,
    Dataset,
    Video,
    list_frames,
    media_stem,
    name_group,
    read_crop_metadata,
    read_splits,
    stem,
)
from utils.faces.decoding import check_file
from utils.faces.detection import CROP_RECIPES, CropRecipe, named_recipe, read_recipe
from utils.faces.media import evenly_spaced, read_image
from utils.run.artifacts import check_fields, read_text_csv
from utils.run.jobs import map_threads
from utils.run.machine import inside, stable_hash

#: What names a video, for two data sets may use one name; and a face within one data set.
VIDEO, FACE = ["dataset", "video"], ["video", "frame", "face"]
COLUMNS = [
    *("path", *VIDEO, "frame", "face", "label", "method", "original", "official", "person"),
    # How it was recognised: layout, what a video is there, label as written.
    *("group", "layout", "unit", "word", "root"),
]
#: What `image_statistics` measures; the cheap features of the leakage ladder.
STATISTICS = ["brightness", "contrast", "sharpness", "red", "green", "blue"]
#: In place of a recipe, in words.
UNKNOWN_CUT = "cut nobody knows how"
#: What is kept, and a row a thing that is left out.
Kept = tuple[pd.DataFrame, pd.DataFrame]
#: What a video is, and the words for it in the audit.
UNITS = {
    "listed": "videos told by a table or by names",
    "folder": "videos, each a folder of frames",
    "image": "images, of which nothing says what they belong to",
}


def read_crops(
    data: str | Path = "", *, max_videos: int = 0, seed: int = 0, split_table: str | Path = ""
) -> Kept:
    """`scan_crops`, `take_split` if asked for, `inspect_crops`: what is readable, what left out."""
    scanned, left_out = scan_crops(data, max_videos=max_videos, seed=seed)
    if split_table:
        scanned, others = take_split(scanned, split_table)
        left_out = pd.concat([left_out, others], ignore_index=True)
    crops, unreadable = inspect_crops(scanned)
    return crops, pd.concat([left_out, unreadable], ignore_index=True)


def take_split(crops: pd.DataFrame, table: str | Path) -> Kept:
    """Crops of the videos that a table lists, its split as the official one, and the others.

    The table has `video`, `split` and, if known, `part`, as a model's `videos.csv.gz` has.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is no such table, or lists no video of these with a split.
    """
    path = Path(table).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"SPLIT_TABLE {str(table)!r} is no file")
    listed = read_text_csv(path)
    if missing := {"video", "split"} - {*listed}:
        raise ValueError(f"{path}: column {' and '.join(sorted(missing))} missing")
    listed = listed.drop_duplicates("video").set_index("video")
    official = crops["video"].map(read_splits(listed["split"], train_alone=True)).fillna("")
    known = official != ""
    if not known.any():
        raise ValueError(f"{path} lists none of these videos, such as {crops['video'].iloc[0]!r}")
    if "part" in listed:
        parts = crops["video"].map(listed["part"]).fillna("")
        crops = crops.assign(group=[name_group(f"part_{part}") if part else "" for part in parts])
    left_out = crops.loc[~known, ["dataset", "path"]].rename(columns={"path": "name"})
    left_out.insert(1, "reason", f"not in {path.name}")
    return crops.assign(official=official)[known].reset_index(drop=True), left_out


def scan_crops(
    data: str | Path = "", *, max_videos: int = 0, seed: int = 0, both: bool = True
) -> Kept:
    """List every crop of every known data set at or below a folder, without opening one.

    Args:
        data: a folder in any known layout of crops, or one that holds several; "" means Kaggle's.
        max_videos, seed: keep at most so many videos, drawn so that a fake keeps its original; 0
            keeps all.
        both: refuse data of one class.
    Returns:
        A row a crop, sorted by data set, video, frame, face: COLUMNS with `path` (POSIX) relative
        to the data set, whose absolute one is `root`, `original` (video id or "") and `official`
        (split or ""); and a row a thing that is not used: `dataset, reason, name`.
    Raises:
        FileNotFoundError: no data set, or raw videos only.
        ValueError: missing columns, no crop at all, one class only.
    """
    left_out: list[tuple[str, str, str]] = []

    def skip(dataset: str, reason: str, names: Any) -> None:
        left_out.extend((dataset, reason, str(name)) for name in names)

    tables: dict[Dataset, pd.DataFrame] = {}
    for dataset in find_datasets(data):
        table = _scan(dataset, functools.partial(skip, dataset.name))
        if table is not None:
            tables[dataset] = table
    if not tables:
        raw = any("videos" in holds(dataset) for dataset in find_datasets(data))
        way = "holds raw videos: run 00_extract_faces on it first" if raw else f"is empty. {WAYS}"
        raise FileNotFoundError(f"{str(data)!r} holds no face crops; it {way}")
    # An empty table has no types of its own and would blur those of the others.
    full = [table for table in tables.values() if len(table)] or list(tables.values())
    crops = pd.concat(full, ignore_index=True) if len(full) > 1 else full[0]
    unused = pd.DataFrame(left_out, columns=["dataset", "reason", "name"])
    lack = lacking(crops["label"], unused["reason"])
    if lack and (both or crops.empty):
        names = {d: "metadata.csv" if d.layout in CROP_TABLES else "" for d in tables}
        where = ", ".join(str(dataset.root / name) for dataset, name in names.items())
        raise ValueError(f"{where}: {lack}")
    roots: dict[str, Path] = {}
    for dataset, table in tables.items() if len(tables) > 1 else ():
        for name in table["dataset"].unique():
            first, again = roots.setdefault(name, dataset.root), dataset.root
            if first != again:
                raise ValueError(
                    f"two data sets are called {name!r}: {first} and {again}; set DATA to one"
                )
    if max_videos:
        crops, dropped = _draw_videos(crops, max_videos, seed)
        beyond = dropped.assign(reason="beyond MAX_VIDEOS", name=dropped["video"])
        unused = pd.concat([unused, beyond[unused.columns]], ignore_index=True)
    return crops, unused


def _scan(dataset: Dataset, skip: Skip) -> pd.DataFrame | None:
    """A row a crop of a data set; None if it holds no image."""
    videos, media = list_media(dataset, skip, videos=False)
    if not videos:
        return None
    ids = {(video.dataset, video.filename): video.video for video in videos}
    named: dict[tuple[str, str], str] = {}
    rows, found = [], _Found()
    for video in sorted(videos, key=lambda video: (video.dataset, video.video)):
        path, key = video.path, (video.dataset, video.video)
        if video.reason:
            skip(video.reason, [video.filename])
            continue
        if named.setdefault(key, path) != path:
            raise ValueError(
                f"two videos share the id {video.video!r}: {named[key]} and {path} in "
                f"{dataset.root}; rename one"
            )
        frames, others = list_frames(media[path], path.rpartition("/")[2])
        skip("file name is no frame", [f"{path}/{name}" for name in others])
        found.add(frames, f"{path}/") if media[path] else found.add([(0, 1, path)], "")
        unit = "folder" if media[path] else "image"
        original = ids.get((video.dataset, video.original), media_stem(video.original))
        unit = unit if dataset.layout == "folders" else "listed"
        rows.append((*video._replace(original=original), unit))
    columns = [*Video._fields, "unit"]
    told = pd.DataFrame(rows, columns=columns).rename(columns={"split": "official"})
    return found.table(told, dataset)


class _Found:
    """Crops found, as flat lists: a tuple a crop would make the garbage collector the slowest."""

    def __init__(self) -> None:
        self.frames: list[int] = []
        self.faces: list[int] = []
        self.paths: list[str] = []
        self.counts: list[int] = []

    def add(self, crops: Sequence[tuple[int, int, str]], prefix: str) -> None:
        """Take the crops of the next video: frame, face, and name after `prefix`."""
        frames, faces, names = zip(*crops) if crops else ((), (), ())
        self.frames += frames
        self.faces += faces
        self.paths += [prefix + name for name in names]
        self.counts.append(len(crops))

    def table(self, videos: pd.DataFrame, dataset: Dataset) -> pd.DataFrame:
        """A row a crop, of a row a video in the order in which they were added."""
        # NumPy reads a list of numbers five times as fast as pandas.
        frames, faces = (np.array(values, np.int64) for values in (self.frames, self.faces))
        places = {"path": self.paths, "frame": frames, "face": faces}
        videos = videos.assign(layout=dataset.layout, root=str(dataset.root))
        videos = videos[[name for name in COLUMNS if name not in places]]
        crops = videos.loc[videos.index.repeat(self.counts)].reset_index(drop=True)
        for name, values in places.items():
            crops.insert(COLUMNS.index(name), name, values)
        return crops


def _draw_videos(crops: pd.DataFrame, max_videos: int, seed: int) -> Kept:
    """Crops of whole families (an original and its fakes), as many as fit; and the other videos."""
    videos = crops.drop_duplicates(VIDEO)
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
    return crops.merge(kept[VIDEO], on=VIDEO), dropped


def inspect_crops(crops: pd.DataFrame, *, both: bool = True) -> Kept:
    """Open every crop once, in parallel, and describe it.

    Args:
        crops: of `scan_crops`.
        both: refuse crops of one class.
    Returns:
        The readable ones, with `width, height` (pixels), `file_bytes`, `digest` (of the file's
        bytes) and STATISTICS; `dataset, reason, name` of the others.
    Raises:
        ValueError: not one crop can be read, or one class is left.
    """
    paths = [f"{root}/{path}" for root, path in zip(crops["root"], crops["path"])]
    facts = map_threads(_inspect, paths, desc="decode check", unit="crop")
    columns = ["reason", "width", "height", "file_bytes", "digest", *STATISTICS]
    table = pd.DataFrame(list(facts), columns=columns, index=crops.index)
    readable = table["reason"] == ""
    left_out = crops[["dataset"]].assign(reason=table["reason"], name=crops["path"])[~readable]
    kept = pd.concat([crops, table.drop(columns="reason")], axis=1)[readable]
    if kept["label"].nunique() < 1 + both:
        example = f" (such as {paths[int(np.argmin(readable))]})" if len(left_out) else ""
        raise ValueError(
            f"crops of both classes are needed; {len(left_out)} cannot be read{example}"
        )
    return kept.reset_index(drop=True), left_out.reset_index(drop=True)


def _inspect(path: str) -> tuple[Any, ...]:
    try:
        check_file(path)
        content = Path(path).read_bytes()
        pixels = np.asarray(read_image(io.BytesIO(content)))
    except (OSError, ValueError) as error:
        reason = "truncated image" if "truncated" in str(error).lower() else "unreadable image"
        return (reason, 0, 0, 0, "", *[np.nan] * len(STATISTICS))
    height, width = pixels.shape[:2]
    digest = hashlib.blake2b(content, digest_size=16).hexdigest()
    return ("", width, height, len(content), digest, *image_statistics(pixels).values())


def image_statistics(pixels: np.ndarray) -> dict[str, float]:
    """The numbers in `STATISTICS` for an image: RGB, uint8, shape (H, W, 3).

    Brightness, contrast (standard deviation) and the means of the colours lie in [0, 1]; sharpness
    is the log10 variance of the Laplacian.
    """
    gray = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    mean, deviation = cv2.meanStdDev(gray)
    _, edges = cv2.meanStdDev(cv2.Laplacian(gray, cv2.CV_64F))
    sharpness = float(np.log10(edges[0, 0] ** 2 + 1))
    brightness, contrast = float(mean[0, 0]) / 255, float(deviation[0, 0]) / 255
    colours = [channel / 255 for channel in cv2.mean(pixels)[:3]]
    return dict(zip(STATISTICS, [brightness, contrast, sharpness, *colours], strict=True))


def find_pairs(crops: pd.DataFrame, *, seed: int = 0) -> pd.DataFrame:
    """A fake crop beside one of its original, for each original, in an order that `seed` draws.

    Returns:
        `real, fake` (paths; of the same frame where both have one, else as near as can be) and the
        `method` of the fake.
    """
    first = crops[crops["face"] == 1].assign(crop=lambda rows: rows["root"] + "/" + rows["path"])
    reals = first.loc[first["label"] == "REAL", ["video", "frame", "crop"]]
    fakes = first[(first["label"] == "FAKE") & (first["original"] != "")]
    fakes = fakes[["path", "frame", "original", "method", "crop"]]
    pairs = fakes.merge(reals, left_on="original", right_on="video", suffixes=("", "_real"))
    pairs["apart"] = (pairs["frame"] - pairs["frame_real"]).abs()
    pairs = pairs.sort_values(["apart", "path"], kind="stable").drop_duplicates("original")
    pairs = pairs.sample(frac=1, random_state=seed, ignore_index=True)
    return pairs.rename(columns={"crop_real": "real", "crop": "fake"})[["real", "fake", "method"]]


def spread_frames(index: pd.DataFrame, n_frames: int) -> pd.DataFrame:
    """Keep `n_frames` evenly spaced frames of every video, with all their faces; 0 keeps all.

    Neighbouring frames of a video are near copies: after a few they cost time and teach nothing.
    """
    if not n_frames:
        return index
    names = [*VIDEO, "frame"]
    frames = index[names].drop_duplicates().sort_values("frame")
    groups = frames.groupby(VIDEO)["frame"]
    rank, size = groups.cumcount(), groups.transform("size")
    wanted = {n: set(evenly_spaced(n, n_frames).tolist()) for n in size.unique()}
    kept = frames[[r in wanted[n] for r, n in zip(rank, size)]]
    return index[pd.MultiIndex.from_frame(index[names]).isin(pd.MultiIndex.from_frame(kept))]


def crop_paths(index: pd.DataFrame, data: str | Path = "") -> list[str]:
    """Where the crops of an index lie on this machine: absolute paths in the order of the rows.

    Raises:
        FileNotFoundError: a data set of the index, or its first crop, is not below `data`.
        ValueError: a path leads out of its data set.
    """
    roots = {name: dataset.root for name, dataset in _datasets(data).items()}
    for name, group in index.groupby("dataset"):
        if stray := name in roots and _stray(group["path"], roots[str(name)]):
            raise ValueError(
                f"index.csv: {stray!r} leads out of {name!r}; run 01_explore_data again"
            )
        if name not in roots or not (roots[str(name)] / group["path"].iloc[0]).is_file():
            raise FileNotFoundError(
                f"the crops of data set {name!r} in index.csv are not below DATA={str(data)!r}; "
                "set DATA to the folder that 01_explore_data read, or run that notebook again"
            )
    return [f"{roots[dataset]}/{path}" for dataset, path in zip(index["dataset"], index["path"])]


def _stray(paths: pd.Series, root: Path) -> str:
    """One of the crops' paths that leads out of their resolved folder; "" where none does."""
    for folder, path in {path[: path.rfind("/") + 1]: path for path in paths.tolist()}.items():
        place = os.path.realpath(f"{root}/{folder}")
        if folder.startswith("/") or not f"{place}/".startswith(f"{root}/"):
            return path
        links = set()
        with suppress(OSError), os.scandir(place) as entries:  # sooner than to ask for each crop
            links = {folder + entry.name for entry in entries if entry.is_symlink()}
        for path in links.intersection(paths) if links else ():
            if not inside(f"{root}/{path}", root):
                return path
    return ""


def _datasets(data: str | Path) -> dict[str, Dataset]:
    """The data sets of crops at or below `data`, by their names in an index."""
    named: dict[str, Dataset] = {}
    for dataset in find_datasets(data):
        if dataset.layout == "faces":
            named |= dict.fromkeys(read_crop_metadata(dataset)["dataset"], dataset)
        elif dataset.layout == "faceforensics":  # each compression is one
            kinds = {folder.name for folder in dataset.root.glob("*_sequences/*/*")}
            named |= {f"{dataset.name}-{kind}": dataset for kind in kinds}
        named.setdefault(dataset.name, dataset)
    return named


def recipe_of(root: str | Path, layout: str) -> CropRecipe | None:
    """How the crops of a data set were cut; None where nobody knows.

    `recipe.json` at its top says so, else two layouts that were measured. Raises ValueError where
    that file is damaged.
    """
    known = {"faces": CROP_RECIPES["main"]}
    known["deepfake_faces"] = named_recipe("square", image_size=224)
    return read_recipe(root) or known.get(layout)


def crop_recipes(index: pd.DataFrame, data: str | Path) -> dict[str, CropRecipe | None]:
    """`recipe_of` each data set of an index, the one of most crops first."""
    datasets, names = _datasets(data), index["dataset"].value_counts().index
    return {name: recipe_of(datasets[name].root, datasets[name].layout) for name in names}


def describe_cuts(recipes: Mapping[str, CropRecipe | None]) -> str:
    """How the crops of data sets were cut, in words; once where all were cut alike."""
    told = {name: str(recipe or UNKNOWN_CUT) for name, recipe in recipes.items()}
    if len(set(told.values())) == 1:
        return next(iter(told.values()))
    return "; ".join(f"{name}: {how}" for name, how in told.items())


def face_facts(index: pd.DataFrame, data: str | Path, output: str | Path) -> pd.DataFrame:
    """What 00 knew of each face of an index when it cut it.

    That stands in `boxes.csv`: beside the crops of a data set, else in OUTPUT/faces.

    Returns:
        A row a row of `index`, under the same labels: `track`, `probability` of being a face,
        `side` (shorter side, in pixels of the frame that it was cut from) and `face_size` (larger
        side, in pixels of the video); NaN where not known. `track` is known of all crops of a video
        or of none; where no box is known, `face_size` is the larger side of the crop.
    Raises:
        ValueError: `boxes.csv`, or what lies beside it, is damaged; names the file.
    """
    rows = index[["dataset", *FACE]].reset_index(drop=True)
    datasets = _datasets(data).items()
    folders = {name: d.root for name, d in datasets if (d.root / "boxes.csv").is_file()}
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
    track, size = facts["track"].mask(mixed), facts["face_size"].fillna(side)
    return facts.assign(track=track, face_size=size).set_index(index.index)


def _read_boxes(folder: Path) -> pd.DataFrame:
    """A row a face in boxes.csv: `FACE`, the facts, and the data set that it was `cut_from`."""
    path, listing = folder / "boxes.csv", folder / "metadata.csv"
    recipe = read_recipe(folder) or CropRecipe()
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

    films = read_text_csv(listing) if listing.is_file() else pd.DataFrame()
    films = films.reindex(columns=["filename", "dataset", "width", "height"], fill_value="")
    sizes = films[["width", "height"]].apply(pd.to_numeric, errors="coerce").to_numpy()
    films["scale"] = [recipe.detail(w, h) if w > 0 and h > 0 else np.nan for w, h in sizes]
    films = films.set_index(films["filename"].map(stem))
    films = films[~films.index.duplicated()]
    cut_from = boxes["video"].map(films["dataset"]).astype(object).fillna("")
    side = np.minimum(*sides) * boxes["video"].map(films["scale"]).astype(float)
    return boxes.assign(side=side, face_size=np.maximum(*sides), cut_from=cut_from)
