"""The folder that face crops are written to: what may be replaced there, and what may not."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd

from utils.artifacts import ARTIFACTS, atomic_path

METADATA, BOXES = "metadata.csv", "boxes.csv"
#: Where an extraction that is under way keeps its list of videos and its unfinished crops.
PARTIAL = ".partial"


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
def working_folder(folder: Path, names: list[str]) -> Iterator[Path]:
    """Take away what a former run wrote and the new one will not replace; give a scratch folder.

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
    with atomic_path(listed) as temporary:
        temporary.write_text("\n".join(sorted(owned | ours)))
    for rest in partial.iterdir():
        if rest.is_dir():
            shutil.rmtree(rest)
    for name in (METADATA, BOXES):
        (folder / name).unlink(missing_ok=True)
    for name in sorted(owned - ours):
        remove_folder(folder / name)
    yield partial
    shutil.rmtree(partial)


def remove_folder(folder: Path) -> None:
    """Remove a folder and all it holds, if it is there."""
    if folder.exists():
        shutil.rmtree(folder)
