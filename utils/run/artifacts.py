"""The files that notebooks hand on: names, columns, checked reading, atomic writing."""

from __future__ import annotations

import json
import math
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from filecmp import cmpfiles
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from utils.run.machine import input_roots, mount_drive, printable

#: Class names in the order of their labels: 0 = REAL, 1 = FAKE, the positive class.
CLASSES = ("REAL", "FAKE")
SPLITS = ("train", "val", "test")


class Artifact(NamedTuple):
    """Which notebook writes the file, and the columns or keys it must hold, in their order."""

    written_by: str
    columns: list[str]


#: Of each notebook, the files it writes with their columns or keys.
_WRITES = {
    "00_extract_faces": {
        "faces/metadata.csv": "filename label split original dataset method fps width height",
        "faces/boxes.csv": "video frame face track x1 y1 x2 y2 probability",
        "faces/recipe.json": "image_size margin scale",
    },
    "01_explore_data": {
        "index.csv": "path dataset video frame face label source method split width height",
        "data_audit.json": "datasets videos crops left_out splits checks",
    },
    "02_augment": {"augment.json": "policy parameters"},
    "03_train": {
        "history.csv": "epoch train_loss val_loss val_auc lr images_per_s data_wait_s compute_s "
        "peak_memory_mb elapsed_s",
        "model/config.json": "architecture pretrained_cfg",
    },
    "04_evaluate": {
        "model/decision.json": "temperature threshold rule aggregation abstention",
        "predictions.csv": "path video frame face source label split logit score track decides",
        "video_predictions.csv": "video source label split n_faces score decision",
        "metrics.json": "frame video baselines robustness slices threshold temperature",
    },
    "05_inference": {
        "inference.csv": "input frame time_s track x1 y1 x2 y2 score",
        "verdicts.csv": "input n_faces n_people score decision reason",
        "submission.csv": "filename label",
    },
}
ARTIFACTS = {
    name: Artifact(notebook, fields.split())
    for notebook, files in _WRITES.items()
    for name, fields in files.items()
}
#: Columns that hold names, read as text: a video called "004" or "nan" keeps its name.
TEXT_COLUMNS = [
    *("path", "dataset", "video", "label", "source", "method", "split"),
    *("filename", "original", "decision", "input", "reason", "person", "group"),
]
#: Tables that people open, in a spreadsheet too, where a name that begins like a formula is one.
#: There such text gets an apostrophe in front, which `read_table` takes away again.
FOR_PEOPLE = ("predictions.csv", "inference.csv", "verdicts.csv")  # or an ending of the name
GUARD = {r"^('*[=+\-@\t\r\n])": r"'\1"}
UNGUARD = {r"^'('*[=+\-@\t\r\n])": r"\1"}
#: Most bytes of a JSON file, of a CSV of others and of its names; the largest known have a tenth.
LONGEST_JSON, LONGEST_CSV, LONGEST_LINE = 2**26, 2**30, 2**20


def write_table(table: pd.DataFrame, folder: str | Path, name: str) -> Path:
    """Write an artefact as CSV, contract columns first. Raises as `check_fields` does."""
    check_fields(name, table.columns, name)
    columns = ARTIFACTS[name].columns
    ordered = columns + [column for column in table.columns if column not in columns]
    return write_csv(table[ordered], Path(folder) / name)


def write_csv(table: pd.DataFrame, path: Path) -> Path:
    """Write a table as CSV, names in one of FOR_PEOPLE guarded."""
    table = table.replace(regex=GUARD) if path.name.endswith(FOR_PEOPLE) else table
    text = table.to_csv(index=False)
    if "\r" in text:  # of a name; csv quotes it only where it ends the lines too
        text = table.to_csv(index=False, lineterminator="\r\n")
    with atomic_path(path) as temporary:
        # File names may hold bytes that are no text.
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
    return path


def read_table(folder: str | Path, name: str) -> pd.DataFrame:
    """Read `folder/name` and check its columns.

    Raises FileNotFoundError that says which notebook writes it; ValueError where it is damaged or
    lacks a column.
    """
    with _reading(folder, name) as path:
        kinds = dict.fromkeys(TEXT_COLUMNS, str)
        gaps = {c: [""] for c in ARTIFACTS[name].columns if c not in TEXT_COLUMNS}
        table = _read_csv(path, dtype=kinds, na_values=gaps)
    check_fields(name, table.columns, path)
    return table.replace(regex=UNGUARD) if name.endswith(FOR_PEOPLE) else table


def write_json(value: dict[str, Any], folder: str | Path, name: str) -> Path:
    """Check the keys of an artefact and write it as indented JSON; NaN becomes null."""
    check_fields(name, value, name)
    path = Path(folder) / name
    with atomic_path(path) as temporary:
        text = json.dumps(_plain(value), indent=2, allow_nan=False, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
    return path


def _plain(value: Any) -> Any:
    """Turn tables, arrays and NumPy's numbers into what JSON knows."""
    if isinstance(value, pd.DataFrame):
        return _plain(value.to_dict("records"))
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(folder: str | Path, name: str) -> dict[str, Any]:
    """Read `folder/name` and check its keys. Raises as `read_table` does."""
    with _reading(folder, name) as path:
        value = read_any_json(path)
    check_fields(name, value, path)
    return value


@contextmanager
def _reading(folder: str | Path, name: str) -> Iterator[Path]:
    """Path of an artefact that is there; what is wrong with its text tells what to run again."""
    path = Path(folder) / name
    if not path.is_file():
        raise _missing(name, Path(folder))
    try:
        yield path
    except ValueError as error:
        raise ValueError(f"{error}; run {_artifact(name).written_by} again") from error


def read_text_csv(path: Path, nrows: int | None = None) -> pd.DataFrame:
    """Read a foreign CSV, every cell as the text it is. Raises ValueError that names it."""
    if nrows is None and path.stat().st_size > LONGEST_CSV:
        raise ValueError(printable(f"{path} is longer than {LONGEST_CSV / 1e9:.1f} GB"))
    return _read_csv(path, dtype=str, nrows=nrows)


def _read_csv(path: Path, **how: Any) -> pd.DataFrame:
    try:
        with open(path, "rb") as file:
            if len(file.readline(LONGEST_LINE)) == LONGEST_LINE:
                raise ValueError(f"its first line is longer than {LONGEST_LINE:,} bytes")
        # A comma at the end of each line must not shift the columns.
        return pd.read_csv(path, keep_default_na=False, index_col=False, **how)
    except ValueError as error:  # empty, ragged or not text
        told = f"{path} cannot be read as CSV ({str(error).strip()})"
        raise ValueError(printable(told)) from error


def read_any_json(path: Path) -> Any:
    """Read a foreign JSON file, NaN as None. Raises ValueError that names it."""
    try:
        if path.stat().st_size > LONGEST_JSON:
            raise ValueError(f"longer than {LONGEST_JSON / 1e6:.0f} MB")
        return json.loads(path.read_text("utf-8-sig"), parse_constant=lambda _: None)
    except (ValueError, RecursionError) as error:  # of the text, its encoding, its depth
        raise ValueError(printable(f"{path} is not valid JSON ({error})")) from error


def check_fields(name: str, present: Any, where: Any) -> None:
    """Check that the columns or keys of an artefact are there. Raises ValueError that names it."""
    writer, columns = _artifact(name)
    present = present if isinstance(present, Mapping | pd.Index) else ()  # other JSON has no keys
    if missing := [column for column in columns if column not in present]:
        raise ValueError(f"{where}: {', '.join(missing)} missing; {writer} writes this file")


def check_number(name: str, value: Any, low: float, high: float) -> None:
    """Refuse what is no number from `low` to `high`, both included; ValueError names it."""
    is_number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not is_number or not low <= value <= high:
        raise ValueError(f"{name} is {value!r:.60}; it must be a number from {low:g} to {high:g}")


def _artifact(name: str) -> Artifact:
    if name not in ARTIFACTS:
        raise ValueError(f"unknown artefact {name!r}; known: {', '.join(ARTIFACTS)}")
    return ARTIFACTS[name]


def find_artifact(name: str, output: str | Path) -> Path:
    """The folder that holds the artefact `name`: OUTPUT, else the Kaggle input that does.

    Raises FileNotFoundError that says which notebook writes it and how to attach it; ValueError as
    `find_all` does.
    """
    if found := find_all([name], [Path(output)], input_roots()):
        return found
    raise _missing(name, Path(output))


def find_all(names: Sequence[str], *places: Sequence[Path]) -> Path | None:
    """The first folder that holds all files, of the first of `places` in which there is one.

    Raises ValueError if they, or the decision of a model, differ in another one there.
    """
    for folders in places:
        found = [folder for folder in folders if all((folder / n).is_file() for n in names)]
        for other in found[1:]:
            if cmpfiles(found[0], other, [*names, "decision.json"], shallow=False)[1]:
                both = f"{found[0]} and {other} hold different {' and '.join(names)}"
                raise ValueError(f"{both}: detach one of them, or name the other (05: MODEL)")
        if found:
            return found[0]
    return None


def _missing(name: str, folder: Path) -> FileNotFoundError:
    writer = _artifact(name).written_by
    return FileNotFoundError(
        f"{name} is not in {folder}. The notebook {writer} writes it: run that one first "
        "with the same OUTPUT, or on Kaggle attach its output (Add Input > Your Work)."
    )


def data_folder(data: str | Path, output: str | Path) -> str:
    """Where a notebook looks for crops: DATA, else what 00 wrote to OUTPUT, else Kaggle ("")."""
    mount_drive(data)
    data = os.path.expanduser(data)
    if not data and (Path(output) / "faces" / "metadata.csv").is_file():
        return str(Path(output) / "faces")
    return data


def bring(names: Sequence[str], output: str | Path, *, first: str | Path = "") -> str:
    """Copy artefacts that belong together to OUTPUT, unless they are there.

    They come from `first`, or from the attached input that holds them all. Returns one sentence
    for the notebook, "" if they are nowhere. Raises as `find_all` does.
    """
    output, listed = Path(output), " and ".join(names)
    root = find_all(names, [output], [Path(first)] if first else [], input_roots())
    if root is None or root == output:
        return f"{listed}: in OUTPUT." if root else ""
    for name in names:
        with atomic_path(output / name) as temporary:
            shutil.copyfile(root / name, temporary)
    return f"{listed}: brought along from {root}."


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary sibling to write to; it replaces `path` once the block has succeeded.

    The sibling keeps the suffix, from which writers tell the format. If the block raises, `path`
    is left as it was and the sibling is removed.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # The stem is cut, for a name has 255 bytes at most; mkstemp would make a private file.
    temporary = path.with_name(f".{path.stem[:40]}-{secrets.token_hex(8)}{path.suffix}")
    temporary.touch(exist_ok=False)
    mode = temporary.stat().st_mode
    try:
        yield temporary
        temporary.chmod(mode)  # of safetensors and others, which make the file anew
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
