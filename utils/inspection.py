"""Open every crop once: does it decode, how large is it, how does it look?"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from PIL import Image
from tqdm.auto import tqdm

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
