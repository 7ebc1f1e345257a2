"""From a table of crops to index.csv and data_audit.json."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from utils.data.baselines import leakage_ladder, zero_pixel_baseline
from utils.data.crops import STATISTICS, fingerprint, inspect_crops, scan_crops, summarise_left_out
from utils.data.splits import check_splits, source_groups, split_by_source, split_summary
from utils.run.artifacts import ARTIFACTS, bring, write_json, write_table

#: What the leakage ladder looks at.
FEATURES = [*STATISTICS, "file_bytes"]
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
    crops = crops.assign(source=source_groups(crops))
    crops["split"] = split_by_source(crops, seed=seed)
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
        "left_out": summarise_left_out(left_out),
        "splits": split_summary(index).to_dict("index"),
        "checks": check_splits(index),
        "zero_pixel": zero_pixel,
        "leakage_ladder": ladder,
        "fingerprint": fingerprint(index),
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
    scanned, left_out = scan_crops(data)
    crops, unreadable = inspect_crops(scanned)
    index, beside = split_crops(crops)
    write_index(
        index,
        pd.concat([left_out, unreadable, beside], ignore_index=True),
        output,
        zero_pixel=zero_pixel_baseline(index),
        ladder=leakage_ladder(index, FEATURES),
    )
    return "No index.csv here or attached: made as 01_explore_data makes it, at its defaults."
