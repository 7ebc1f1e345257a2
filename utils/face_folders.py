"""The folder that face crops are written to: what may be replaced there, and what is finished."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd

from utils.artifacts import ARTIFACTS, atomic_path

METADATA, BOXES, RECIPE = "metadata.csv", "boxes.csv", "recipe.json"
#: Where an extraction that is under way keeps its list of videos and its unfinished crops.
PARTIAL = ".partial"
#: A file for each finished video: what was found, and from what and how it was made.
RECORDS = ".records"


def check_names(names: Sequence[object]) -> None:
    """Refuse video names that are not the plain names of different folders.

    Raises:
        ValueError: a name is empty, hidden, holds a separator or "..", or is there twice.
    """
    for name in names:
        bad = not isinstance(name, str) or not name or name[0] == "." or name != name.strip()
        if bad or ".." in str(name) or any(sign in str(name) for sign in "/\\:\0\n"):
            raise ValueError(f"video {name!r} cannot name a folder: use letters, digits, - and _")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"video {twice[0]!r} is in the table twice; names must be unique")


@contextmanager
def working_folder(folder: Path, names: list[str]) -> Iterator[None]:
    """Take away what a former run wrote and the new one does not know; tidy up in the end.

    Only folders that a former run, finished or not, listed as its own are ever removed.
    """
    partial = folder / PARTIAL
    listed, ours = partial / "videos.txt", set(names)
    owned: set[str] = set(listed.read_text().splitlines()) if listed.exists() else set()
    if (folder / METADATA).exists():
        table = pd.read_csv(folder / METADATA, dtype=str, keep_default_na=False)
        if not {*ARTIFACTS["faces/metadata.csv"].columns} <= {*table.columns}:
            raise ValueError(f"{folder} holds a data set from elsewhere; choose another OUTPUT")
        owned |= {Path(name).stem for name in table["filename"]}
    check_names(sorted(owned))
    foreign = sorted(name for name in ours - owned if (folder / name).exists())
    if foreign:
        raise ValueError(
            f"{folder / foreign[0]} was not made by an extraction and is not replaced; "
            "choose another OUTPUT or move it away"
        )
    partial.mkdir(parents=True, exist_ok=True)
    (folder / RECORDS).mkdir(exist_ok=True)
    with atomic_path(listed) as temporary:
        temporary.write_text("\n".join(sorted(owned | ours)))
    for rest in partial.iterdir():
        if rest.is_dir():
            shutil.rmtree(rest)
    for name in (METADATA, BOXES, RECIPE):
        (folder / name).unlink(missing_ok=True)
    for name in sorted(owned - ours):
        remove_video(folder, name)
    yield
    shutil.rmtree(partial)


def fingerprint(path: str, **how: Any) -> str:
    """Tell a source file, by size and time of change, and the way that it is worked on.

    Raises:
        FileNotFoundError: there is no such file.
    """
    status = os.stat(path)
    told = json.dumps([status.st_size, status.st_mtime_ns, how], sort_keys=True)
    return hashlib.sha256(told.encode()).hexdigest()


def read_record(folder: Path, name: str, key: str) -> dict[str, Any] | None:
    """What was found in a video, if it was finished with this fingerprint and is still whole."""
    path = folder / RECORDS / f"{name}.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(record, dict) or record.get("key") != key:
        return None
    crops = folder / name
    present = set(os.listdir(crops)) if crops.is_dir() else set()
    return record if present == {crop_name(*row[:2]) for row in record["faces"]} else None


def write_record(folder: Path, made: Path, record: dict[str, Any]) -> None:
    """Put the crops of a finished video in their place as a whole, and then its record."""
    name = record["video"]
    remove_video(folder, name)
    if record["faces"]:
        os.replace(made, folder / name)
    with atomic_path(folder / RECORDS / f"{name}.json") as temporary:
        temporary.write_text(json.dumps(record), encoding="utf-8")


def crop_name(frame: int, face: int) -> str:
    """`<frame>.png`; further faces of a frame are `<frame>_2.png`, `<frame>_3.png`."""
    return f"{frame}_{face}.png" if face > 1 else f"{frame}.png"


def remove_video(folder: Path, name: str) -> None:
    """Remove the record and the crops of a video, if they are there."""
    (folder / RECORDS / f"{name}.json").unlink(missing_ok=True)
    if (folder / name).exists():
        shutil.rmtree(folder / name)
