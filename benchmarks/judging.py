"""Judging videos beside decoding them: what an answer costs over the least that it can cost.

Ours judges all videos together, 16 frames each, with EfficientNetV2-S at 03's defaults (random
weights: they cost the same). The baseline decodes every frame of each, one video after the other,
with all of FFmpeg's threads, and does nothing else. Videos are those below BENCH_DATA, or drawn.

    python -m benchmarks.judging    also says where the time of a single video goes
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import torch
from PIL import Image

from tools.demo.scenes import sample_scene
from utils.faces.detection import cut_faces
from utils.faces.media import VIDEO_SUFFIXES, open_media, write_video
from utils.inference.answers import judge_files
from utils.inference.judging import Judge, load_judge
from utils.model.network import build_model, save_model
from utils.run.machine import get_device

NAME = "judging, 16 frames a video"
BASELINE = "bare decoding"
UNIT = "s/video"
FRAMES, RUNS = 16, 5
MODEL, SIZE = "tf_efficientnetv2_s.in1k", 224
DRAWN, SECONDS, FPS = 4, 10, 30


def bench_videos(folder: Path) -> list[str]:
    """Videos below BENCH_DATA, or 720p ones of 10 s drawn into `folder`."""
    data = os.environ.get("BENCH_DATA", "")
    found = sorted(p for p in Path(data).rglob("*") if p.suffix in VIDEO_SUFFIXES) if data else []
    return [str(path) for path in found] or [draw_video(folder, n) for n in range(DRAWN)]


def draw_video(folder: Path, seed: int) -> str:
    """A drawn person of the demo, to and fro for 10 s, with the noise of a camera."""
    rng = np.random.default_rng(seed)
    scene = sample_scene(rng, n_people=1)
    frames = [cv2.resize(scene.frame(t), (1280, 720)) for t in range(scene.n_frames)]
    frames += frames[-2:0:-1]

    def filmed() -> Iterable[np.ndarray]:
        for t in range(SECONDS * FPS):
            noise = rng.integers(0, 10, (720, 1280, 3), dtype=np.uint8)
            yield cv2.add(frames[t % len(frames)], noise)

    return str(write_video(folder / f"{seed}.mp4", filmed(), fps=FPS, preset="veryfast"))


def bench_judge(folder: Path) -> Judge:
    """A judge with a model of random weights."""
    torch.manual_seed(0)
    model = build_model(MODEL, image_size=SIZE, pretrained=False)
    save_model(model, folder / "model", extra={}, card="")
    return load_judge(folder / "model", device=get_device())


def decode_all(path: str) -> None:
    """Every frame, one after the other, with as many threads as FFmpeg wants."""
    with av.open(path) as container:
        container.streams.video[0].thread_type = "AUTO"
        for _ in container.decode(video=0):
            pass


def seconds(work: Callable[[], Any]) -> float:
    """How long it takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def measure() -> list[tuple[float, float]]:
    """(seconds a video of ours, of the baseline) of each paired run."""
    with tempfile.TemporaryDirectory() as name:
        videos, judge = bench_videos(Path(name)), bench_judge(Path(name))

        def ours() -> Any:
            return judge_files(judge, videos, frames_per_video=FRAMES, workers=1, progress=False)

        assert all(len(answer.faces) >= FRAMES // 2 for answer in ours())  # warms up, too
        pairs = [
            (seconds(ours), sum(seconds(partial(decode_all, path)) for path in videos))
            for _ in range(RUNS)
        ]
    return [(one / len(videos), two / len(videos)) for one, two in pairs]


def shares(judge: Judge, path: str) -> dict[str, float]:
    """Seconds of each step for one video, one step after the other, on one thread."""
    torch.set_num_threads(1)
    found: dict[str, float] = {}
    frames: list[Image.Image] = []
    found["decoding"] = seconds(
        lambda: frames.extend(f[2] for f in open_media(path, FRAMES, threads=1))
    )
    recipe = judge.recipe
    small = [f.resize(recipe.shrunk(*f.size), Image.Resampling.BICUBIC) for f in frames]
    found["detecting"] = seconds(lambda: [judge.detector.detect(image) for image in small])
    crops: list[Image.Image] = []
    both = seconds(
        lambda: crops.extend(
            face.crop for f in frames for face in cut_faces(judge.detector, f, recipe)
        )
    )
    found["shrinking and cutting"] = max(0.0, both - found["detecting"])
    found["scoring"] = seconds(lambda: judge.scorer.score_crops(crops))
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        videos, judge = bench_videos(Path(name)), bench_judge(Path(name))
        for path in videos:
            shares(judge, path)  # warm
            parts = shares(judge, path)
            total = sum(parts.values())
            text = ", ".join(f"{k} {v:.2f} s ({v / total:.0%})" for k, v in parts.items())
            bare = seconds(partial(decode_all, path))
            print(f"{Path(path).name}: {text}; bare decoding {bare:.2f} s")


if __name__ == "__main__":
    main()
