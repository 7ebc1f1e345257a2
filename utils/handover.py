"""What an earlier notebook hands on: there, brought along, or made again by the same functions."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from utils import baselines, datasets, inspection, splits
from utils.artifacts import ARTIFACTS, atomic_path, write_json, write_table
from utils.datasets import IMAGE_SUFFIXES
from utils.layouts import VIDEO_SUFFIXES
from utils.runtime import input_roots
from utils.transforms import make_policy, policy_to_dict

#: What the leakage ladder looks at.
FEATURES = [*inspection.STATISTICS, "file_bytes"]
INDEX = ("index.csv", "data_audit.json")


def split_crops(crops: pd.DataFrame, *, seed: int = 0) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Give every crop its source and its split.

    Args:
        crops: of `inspect_crops`.
        seed: of the split.
    Returns:
        index: `crops` with `source` and `split`.
        left_out: `dataset, reason, name` of the crops that an official split leaves no place for.
    """
    crops = crops.assign(source=splits.source_groups(crops))
    crops["split"] = splits.split_by_source(crops, seed=seed)
    placed = crops["split"] != ""
    left_out = crops.loc[~placed, ["dataset", "path"]].rename(columns={"path": "name"})
    left_out["reason"] = "linked to an official test or val video"
    return crops[placed].reset_index(drop=True), left_out


def write_index(
    index: pd.DataFrame,
    left_out: pd.DataFrame,
    output: str | Path,
    *,
    zero_pixel: Mapping[str, Any],
    ladder: pd.DataFrame,
    seed: int = 0,
) -> str:
    """Write index.csv and data_audit.json; return the fingerprint of the data.

    Args:
        index: of `split_crops`.
        left_out: `dataset, reason, name` of all that is not used.
        output: OUTPUT.
        zero_pixel, ladder: of `baselines`.
        seed: of the split.
    Raises:
        ValueError: the split leaks.
    """
    videos = index.drop_duplicates(["dataset", "video"])
    audit = {
        "datasets": [
            {"name": name, "videos": rows["video"].nunique(), "crops": len(rows)}
            for name, rows in index.groupby("dataset")
        ],
        "videos": videos["label"].value_counts().to_dict(),
        "crops": index["label"].value_counts().to_dict(),
        "left_out": datasets.summarise_left_out(left_out),
        "splits": splits.split_summary(index).to_dict("index"),
        "checks": splits.check_splits(index),
        "zero_pixel": zero_pixel,
        "leakage_ladder": ladder,
        "fingerprint": inspection.fingerprint(index),
        "seed": seed,
    }
    write_json(audit, output, "data_audit.json")
    write_table(index[ARTIFACTS["index.csv"].columns], output, "index.csv")
    return str(audit["fingerprint"])


def ensure_index(data: str | Path, output: str | Path) -> str:
    """See to it that OUTPUT holds index.csv and data_audit.json.

    An attached one is brought along, so that this notebook's output is enough for the next. Where
    there is none, both are made as 01_explore_data makes them at its defaults: the same data gives
    the same split.

    Args:
        data: DATA, as for `scan_crops`.
        output: OUTPUT.
    Returns:
        One sentence for the notebook: where they came from.
    Raises:
        FileNotFoundError, ValueError: as `scan_crops` does, if they have to be made.
    """
    found = bring(INDEX, output)
    if found:
        return found
    scanned, left_out = datasets.scan_crops(data)
    crops, unreadable = inspection.inspect_crops(scanned)
    index, beside = split_crops(crops)
    write_index(
        index,
        pd.concat([left_out, unreadable, beside], ignore_index=True),
        output,
        zero_pixel=baselines.zero_pixel_baseline(index),
        ladder=baselines.leakage_ladder(index, FEATURES),
    )
    return "No index.csv here or attached: made as 01_explore_data makes it, at its defaults."


def ensure_policy(output: str | Path) -> str:
    """See to it that OUTPUT holds augment.json: there, brought along, or the reference policy.

    Returns:
        One sentence for the notebook.
    """
    found = bring(["augment.json"], output)
    if found:
        return found
    write_json(policy_to_dict(make_policy("reference")), output, "augment.json")
    return "No augment.json here or attached: the policy is `reference`, 02_augment's default."


def bring(names: Sequence[str], output: str | Path, *, first: str | Path = "") -> str:
    """Copy artefacts that lie in one attached input to OUTPUT, unless they are there.

    Args:
        names: of artefacts that belong together.
        output: OUTPUT.
        first: a folder that is asked before the attached inputs.
    Returns:
        One sentence for the notebook, "" if they are nowhere.
    """
    output = Path(output)
    listed = " and ".join(names)
    if all((output / name).is_file() for name in names):
        return f"{listed}: in OUTPUT."
    for root in [*([Path(first)] if first else []), *input_roots()]:
        if all((root / name).is_file() for name in names):
            for name in names:
                with atomic_path(output / name) as temporary:
                    shutil.copyfile(root / name, temporary)
            return f"{listed}: brought along from {root}."
    return ""


def keep_model(folder: str | Path, output: str | Path) -> Path:
    """Copy an attached model folder to OUTPUT, where its decision can be written beside it.

    Args:
        folder: of `find_model_folder`.
        output: OUTPUT.
    Returns:
        `output / "model"`.
    """
    home = Path(output) / "model"
    if Path(folder) != home:
        shutil.copytree(folder, home, copy_function=shutil.copyfile, dirs_exist_ok=True)
        home.chmod(home.parent.stat().st_mode)  # the copy of a folder that cannot be written
    return home


def attached_media() -> list[str]:
    """Attached inputs with images or videos: what 05 judges beside a model that comes alone.

    Raises:
        FileNotFoundError: there are none; says what to do.
    """
    suffixes = IMAGE_SUFFIXES + VIDEO_SUFFIXES
    found = [
        str(root)
        for root in input_roots()
        if any(path.suffix.lower() in suffixes for path in root.rglob("*"))
    ]
    if not found:
        raise FileNotFoundError(
            "nothing to judge: name files in INPUTS, attach a data set with images or videos, or, "
            "for held-out examples, the output of 04_evaluate"
        )
    return found
