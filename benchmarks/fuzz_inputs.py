"""Broken and hostile files, judged: each gets a row, none takes its process down or keeps it long.

    python -m benchmarks.fuzz_inputs --files 600

Sound files of many containers and formats are written, and then spoilt at random, from a seed: bits
flipped, cut short, pieces moved or doubled, headers that lie about sizes and counts; names that lie
about the content. With them go kinds that do harm by themselves: a codec that nobody knows, a text
that names another video, tags that are no text, frames that lie years apart, progressive and
enormous pictures. Every file is judged as `make predict` does, in processes that a hang ends.
What is printed: files, rows, refusals, the slowest file, the most memory of a process.
"""

from __future__ import annotations

import argparse
import io
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from importlib.util import find_spec
from pathlib import Path

import av
import numpy as np
import pandas as pd
from PIL import Image, features

from tests.faces.test_media import write_heic
from utils.faces.detection import CropRecipe
from utils.inference.judging import judge_file, load_judge
from utils.model.network import build_model, save_model
from utils.run.jobs import run_jobs
from utils.run.machine import get_device

#: Seconds after which a file counts as a hang, and its process is ended.
HANG = 20
VIDEOS = {  # suffix to codec and options of the container
    "mp4": ("libx264", {"movflags": "+faststart"}),
    "mov": ("mpeg4", {}),
    "mkv": ("libx264", {}),
    "webm": ("libvpx", {}),
    "avi": ("mpeg4", {}),
    "ts": ("mpeg2video", {}),
    "flv": ("flv1", {}),
}
IMAGES = {
    "png": {}, "jpg": {"quality": 90}, "webp": {}, "gif": {}, "bmp": {}, "tiff": {}, "dds": {},
    "progressive.jpg": {"progressive": True}, "avif": {},
}  # fmt: skip


def scene(rng: np.random.Generator, n: int = 8, side: int = 160) -> list[np.ndarray]:
    """Frames of something that moves."""
    base = rng.integers(0, 255, (side // 8, side // 8, 3), np.uint8)
    still = np.kron(base, np.ones((8, 8, 1), np.uint8))
    return [np.roll(still, 5 * k, axis=1) for k in range(n)]


def write_video(path: Path, frames: list[np.ndarray], codec: str, options: dict, **facts) -> None:
    with av.open(str(path), "w", options=options) as container:
        container.metadata.update(facts.get("metadata", {}))
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height, stream.pix_fmt = *frames[0].shape[1::-1], "yuv420p"
        for number, pixels in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
            frame.pts = number * facts.get("step", 1)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def write_sound(folder: Path, rng: np.random.Generator) -> None:
    """The files that are spoilt, each of a kind."""
    frames = scene(rng)
    for suffix, (codec, options) in VIDEOS.items():
        if codec in av.codecs_available:
            write_video(folder / f"sound.{suffix}", frames, codec, options)
    pictures = [Image.fromarray(pixels) for pixels in frames]
    for suffix, options in IMAGES.items():
        if suffix == "avif" and not features.check("avif"):
            continue
        kind = {"jpg": "JPEG", "progressive.jpg": "JPEG"}.get(suffix, suffix.upper())
        pictures[0].save(folder / f"sound.{suffix}", kind, **options)
    if find_spec("pi_heif"):
        write_heic(folder / "sound.heic", frames[0])
    for suffix in ("gif", "webp", "png"):
        more = {"save_all": True, "append_images": pictures[1:], "duration": 100}
        pictures[0].save(folder / f"moving.{suffix}", **more)


def write_harmful(folder: Path, rng: np.random.Generator) -> None:
    """Kinds that do harm without being spoilt."""
    frames = scene(rng)
    write_video(folder / "other.mp4", frames, "libx264", {})
    (folder / "list.mp4").write_text("ffconcat version 1.0\nfile other.mp4\n")
    (folder / "http:host:9.mp4").write_bytes((folder / "other.mp4").read_bytes())
    write_video(folder / "far.mkv", frames[:2], "libx264", {}, step=20_000_000)
    write_video(folder / "tagged.mp4", frames, "libx264", {}, metadata={"title": "MARK" * 4})
    content = (folder / "tagged.mp4").read_bytes()
    (folder / "tagged.mp4").write_bytes(content.replace(b"MARKMARK", b"\xff\xfe\xc3(\xa0\xa1\xe2("))
    for name, old in (("codec.mp4", b"avc1"), ("codec.avi", b"FMP4")):
        sound = folder.parent / f"sound.{name[-3:]}"
        (folder / name).write_bytes(sound.read_bytes().replace(old, b"zzzz"))
    buffer = io.BytesIO()
    Image.new("1", (13_000, 13_000)).save(buffer, "PNG")
    (folder / "huge.png").write_bytes(buffer.getvalue())
    Image.new("L", (9_000, 9_000)).save(folder / "huge.jpg", "JPEG", progressive=True)
    Image.new("L", (60_000, 20)).save(folder / "strip.png")
    (folder / "empty.mp4").touch()


def spoil(content: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with one to three things wrong."""
    data = bytearray(content)

    def flip() -> None:
        for place in rng.integers(0, len(data), rng.integers(1, 40)):
            data[place] ^= 1 << int(rng.integers(8))

    def flip_head() -> None:
        for place in rng.integers(0, min(len(data), 200), rng.integers(1, 12)):
            data[place] = int(rng.integers(256))

    def cut() -> None:
        del data[int(rng.integers(1, len(data))) :]

    def move() -> None:
        a, b, size = rng.integers(0, len(data), 3)
        piece = data[a : a + size // 4]
        del data[a : a + size // 4]
        data[b:b] = piece

    def double() -> None:
        a = int(rng.integers(0, len(data)))
        data[a:a] = data[a : a + int(rng.integers(1, 2000))]

    def lie() -> None:
        place = int(rng.integers(0, max(1, len(data) - 8)))
        data[place : place + 4] = rng.choice([b"\xff" * 4, b"\x7f\xff\xff\xff", b"\0" * 4])

    actions: list[Callable[[], None]] = [flip, flip_head, cut, move, double, lie]
    for action in rng.choice(np.array(actions), rng.integers(1, 4)):
        if len(data) > 16:
            action()
    return bytes(data)


def draw_files(folder: Path, n: int, seed: int) -> Iterator[Path]:
    rng = np.random.default_rng(seed)
    write_sound(folder, rng)
    sound = sorted(path for path in folder.iterdir() if path.is_file())
    (folder / "harmful").mkdir()
    write_harmful(folder / "harmful", rng)
    yield from sound
    yield from sorted((folder / "harmful").iterdir())
    suffixes = [path.suffix for path in sound]
    for number in range(n):
        source = sound[number % len(sound)]
        suffix = rng.choice(suffixes) if rng.random() < 0.1 else source.suffix
        path = folder / f"{number:04}_{source.stem}{suffix}"
        path.write_bytes(spoil(source.read_bytes(), rng))
        yield path


def judge_one(model: str, path: Path) -> dict[str, object]:
    signal.alarm(HANG)  # its default ends the process
    began = time.perf_counter()
    answer = judge_file(_judge(model), str(path), frames_per_video=4, threads=1)
    signal.alarm(0)
    seconds = time.perf_counter() - began
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    row = {"name": path.name, "decision": answer.decision, "reason": answer.reason}
    return row | {"faces": len(answer.faces), "seconds": seconds, "memory_mb": memory}


@lru_cache(maxsize=1)
def _judge(model: str):
    return load_judge(model, device=get_device("cpu"))


def lost(path: Path) -> dict[str, object]:
    return {"name": path.name, "decision": "LOST", "reason": "took its process down, or hung"}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fuzz_inputs")
    parser.add_argument("--files", type=int, default=600, help="that are spoilt")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        network = build_model("mobilenetv3_small_050.lamb_in1k", image_size=64, pretrained=False)
        extra = {"prior": 0.5, "crop_recipe": CropRecipe().to_dict()}
        save_model(network, folder / "model", extra=extra, card="")
        (folder / "files").mkdir()
        paths = list(draw_files(folder / "files", args.files, args.seed))
        judge = partial(judge_one, str(folder / "model"))
        rows = pd.DataFrame(run_jobs(judge, paths, workers=2, lost=lost))
    counts, refused = Counter(rows["decision"]), int((rows["faces"] == 0).sum())
    slow, memory = rows.sort_values("seconds").iloc[-1], rows["memory_mb"].max()
    print(f"{len(paths)} files, {len(rows)} rows: {dict(counts)}; {refused} without a face")
    print(f"slowest {slow['seconds']:.1f} s ({slow['name']}); at most {memory:.0f} MB a process")
    harmful = rows[rows["name"].isin([p.name for p in paths if p.parent.name == "harmful"])]
    print(harmful[["name", "decision", "reason"]].to_string(index=False, max_colwidth=90))
    return int(len(rows) != len(paths) or counts["LOST"] > 0)


if __name__ == "__main__":
    from benchmarks import fuzz_inputs  # of a module that the processes can import

    sys.exit(fuzz_inputs.main())
