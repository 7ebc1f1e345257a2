"""Draw the demo data set: real and manipulated videos of drawn people, in the raw DFDC layout.

    python -m tools.demo --output FOLDER --sources 72 --seed 0

A fake is made from the frames of its original, under the same noise and with the same encoder, so
that only the manipulated part of the face tells the two apart.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import cv2
import numpy as np
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from tools.demo.fakes import METHODS, manipulate
from tools.demo.scenes import FPS, sample_scene
from utils.faces.detection import ABOUT, DRAWN
from utils.faces.media import write_video

PART, MARKER = "dfdc_train_part_0", "drawn_demo.json"
UNFINISHED = ".drawing-"
#: One source in so many shows two people; one of them is manipulated.
TWO_PEOPLE_EVERY = 12


def draw_demo(
    folder: str | Path,
    *,
    n_sources: int = 72,
    fakes_per_source: float = 1.4,
    n_faceless: int = 4,
    seed: int = 0,
    n_jobs: int = -1,
    progress: bool = True,
) -> Path:
    """Draw the demo data set; a former demo in `folder` is replaced.

    Writes `dfdc_train_part_0/<10 letters>.mp4`, `metadata.json` (`{file: {label, split, original,
    method}}`) and `about.json`, which says that the faces are drawn.
    The same arguments give the same files on any number of processes; a source does not depend on
    how many others there are.

    Args:
        folder: where to write; created.
        n_sources: real videos with a face, at least 1.
        fakes_per_source: mean number of fakes made from one of them, at least 0.
        n_faceless: videos of an empty room; every other one is labelled FAKE, its original is the
            one before it.
        seed: from 0; another seed draws other people.
        n_jobs: processes, as joblib counts them (-1: one a core).
        progress: show a bar.
    Returns:
        `folder`.
    Raises:
        ValueError: `folder` holds something else than a former demo, or a number is out of range.
    """
    folder = Path(folder)
    if n_sources < 1 or n_faceless < 0 or fakes_per_source < 0 or seed < 0:
        raise ValueError(
            f"n_sources={n_sources} must be at least 1, and n_faceless={n_faceless}, "
            f"fakes_per_source={fakes_per_source}, seed={seed} at least 0"
        )
    if folder.exists() and (not folder.is_dir() or _holds_other_things(folder)):
        raise ValueError(f"{folder} is not empty and holds no former demo; name another folder")
    folder.mkdir(parents=True, exist_ok=True)
    for left_over in folder.glob(f"{UNFINISHED}*"):  # by a run that was killed
        shutil.rmtree(left_over)
    with tempfile.TemporaryDirectory(dir=folder, prefix=UNFINISHED) as temporary:
        new = Path(temporary)
        (new / PART).mkdir()
        jobs = [delayed(_draw_source)(new, seed, i, fakes_per_source) for i in range(n_sources)]
        for i in range(0, n_faceless, 2):
            jobs.append(delayed(_draw_faceless)(new, seed, i, min(2, n_faceless - i)))
        results = Parallel(n_jobs=n_jobs, return_as="generator")(jobs)
        rows: dict[str, dict[str, Any]] = {}
        hidden = None if progress else True  # no bar in a file
        for part in tqdm(results, total=len(jobs), desc="drawing", disable=hidden):
            rows |= part
        _write_json(dict(sorted(rows.items())), new / PART / "metadata.json")
        _write_json({"faces": DRAWN}, new / PART / ABOUT)
        settings = {"n_sources": n_sources, "fakes_per_source": fakes_per_source}
        settings |= {"n_faceless": n_faceless, "seed": seed}
        _write_json(settings, folder / MARKER)
        shutil.rmtree(folder / PART, ignore_errors=True)
        (new / PART).rename(folder / PART)
    return folder


def _holds_other_things(folder: Path) -> bool:
    names = {path.name for path in folder.iterdir() if not path.name.startswith(UNFINISHED)}
    return bool(names) and MARKER not in names


def _write_json(value: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def _new_name(rng: np.random.Generator) -> str:
    return "".join(rng.choice(list(ascii_lowercase), 10))


def _row(label: str, original: str | None, method: str) -> dict[str, Any]:
    return {"label": label, "split": "train", "original": original, "method": method}


def _draw_source(
    folder: Path, seed: int, index: int, fakes_per_source: float
) -> dict[str, dict[str, Any]]:
    """Write one real video and its fakes; returns their rows of metadata.json."""
    rng = np.random.default_rng([seed, 1, index + 1])
    two = index % TWO_PEOPLE_EVERY == TWO_PEOPLE_EVERY // 2 - 1
    scene = sample_scene(rng, n_people=2 if two else 1)
    original = _new_name(rng) + ".mp4"
    n_fakes = int(fakes_per_source + rng.random())
    clean, noise = [scene.frame(t) for t in range(scene.n_frames)], scene.noise()
    noisy = (cv2.add(f, n, dtype=cv2.CV_8U) for f, n in zip(clean, noise, strict=True))
    write_video(folder / PART / original, noisy, fps=FPS, preset="veryfast")
    rows = {original: _row("REAL", None, "original")}
    for k in range(n_fakes):
        rng = np.random.default_rng([seed, 1, index + 1, k + 1])
        method, name = METHODS[(index + k) % 2], _new_name(rng)
        frames = manipulate(rng, scene, clean=clean, noise=noise, method=method)
        write_video(folder / PART / f"{name}.mp4", frames, fps=FPS, preset="veryfast")
        rows[f"{name}.mp4"] = _row("FAKE", original, method)
    return rows


def _draw_faceless(folder: Path, seed: int, index: int, n: int) -> dict[str, dict[str, Any]]:
    """Write a REAL video of an empty room, and for n = 2 a FAKE in which nothing was swapped."""
    rng = np.random.default_rng([seed, 2, index + 1])
    scene, rows, original = sample_scene(rng, n_people=0), {}, None
    for label, method in (("REAL", "original"), ("FAKE", METHODS[0]))[:n]:
        scene = replace(scene, noise_seed=int(rng.integers(2**31)))
        name = _new_name(rng)
        frames = (cv2.add(scene.frame(0), noise, dtype=cv2.CV_8U) for noise in scene.noise())
        write_video(folder / PART / f"{name}.mp4", frames, fps=FPS, preset="veryfast")
        rows[f"{name}.mp4"] = _row(label, original, method)
        original = f"{name}.mp4"
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Draw the demo from the command line."""
    parser = argparse.ArgumentParser(description="Draw the demo data set.")
    parser.add_argument("--output", required=True, metavar="FOLDER")
    parser.add_argument("--sources", type=int, default=72, metavar="N", help="real videos (72)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="other people (0)")
    chosen = parser.parse_args(arguments)
    draw_demo(chosen.output, n_sources=chosen.sources, seed=chosen.seed)
