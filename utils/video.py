"""Videos in and out: evenly spaced upright frames, and files that every browser plays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from PIL import Image

from utils.artifacts import atomic_path
from utils.decoding import Packets, decode, list_packets, open_video, read_frames
from utils.sound import open_sound

#: Threads of the encoder. x264 writes other bytes for another number of threads, so the number
#: is fixed and does not follow the machine.
ENCODER_THREADS = 2
#: PyAV 17 and newer convert colours in threads that are started anew for each frame: that takes
#: several times as long as the conversion.
ONE_THREAD: dict[str, Any] = {"threads": 1} if int(av.__version__.partition(".")[0]) >= 17 else {}


@dataclass(frozen=True)
class VideoInfo:
    """What a video file holds; width and height in pixels as displayed, after its rotation."""

    width: int
    height: int
    fps: float
    n_frames: int
    duration_s: float


def evenly_spaced(n_total: int, n: int) -> np.ndarray:
    """Numbers of `n` frames spread over the whole of `n_total`, each in the middle of its part.

    Args:
        n_total: number of frames that there are, at least 0.
        n: number of frames wanted; 0, or more than there are, means all.
    Returns:
        Strictly rising frame numbers from 0, shape (min(n, n_total),) or (n_total,).
    Raises:
        ValueError: a number is negative.
    """
    if n_total < 0 or n < 0:
        raise ValueError(f"n_total and n must be 0 or more, not {n_total} and {n}")
    if n == 0 or n >= n_total:
        return np.arange(n_total)
    # floor((i + 1/2) * n_total / n) in whole numbers; steps of at least 1 keep them apart.
    return (2 * np.arange(n) + 1) * n_total // (2 * n)


def probe(path: str | Path) -> VideoInfo:
    """Read size, rate and length of a video; decodes one frame, for the rotation.

    Returns:
        `VideoInfo`; `duration_s` is the number of frames over the rate where the file says none.
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no video stream or no frame that can be decoded.
    """
    packets = list_packets(path)
    with open_video(path) as (container, stream):
        frame = next(decode(container, stream), None)
        if frame is None:
            raise _no_frame(path)
        width, height = frame.width, frame.height
        if _quarter_turns(frame) % 2:
            width, height = height, width
        duration = packets.n_frames / packets.fps if packets.fps else 0.0
        if stream.duration and stream.time_base:
            duration = stream.duration * float(stream.time_base)
    return VideoInfo(width, height, packets.fps, packets.n_frames, duration)


def sample_frames(
    path: str | Path, n_frames: int = 0, *, threads: int = 0
) -> Iterator[tuple[int, float, Image.Image]]:
    """Yield evenly spaced frames of a whole video, one at a time.

    They are the very frames of decoding everything, but for a few of a long video little else is
    decoded. A file that is cut short gives frames spread over the part that is there.

    Args:
        path: video file.
        n_frames: number of frames wanted; 0 means all.
        threads: of the decoder; 0: as many as FFmpeg thinks fit.
    Yields:
        Frame number from 0, its time in seconds after the first frame, and the RGB image upright
        as displayed (rotated if the file says so; pixels are not made square).
    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the file holds no video stream or no frame that can be decoded.
    """
    packets = list_packets(path)
    yield from _read(path, packets, evenly_spaced(packets.n_frames, n_frames), threads)


def frames_at(
    path: str | Path, numbers: Sequence[int], *, threads: int = 0
) -> Iterator[tuple[int, float, Image.Image]]:
    """Yield the frames of these numbers, as `sample_frames` does; those past the end are left out.

    Args:
        path: video file.
        numbers: rising frame numbers from 0.
        threads: of the decoder; 0: as many as FFmpeg thinks fit.
    """
    packets = list_packets(path)
    if wanted := [number for number in numbers if number < packets.n_frames]:
        yield from _read(path, packets, wanted, threads)


def _read(
    path: str | Path, packets: Packets, wanted: Sequence[int] | np.ndarray, threads: int
) -> Iterator[tuple[int, float, Image.Image]]:
    number, times = -1, packets.times
    for number, frame in read_frames(path, packets, wanted, threads=threads):
        time_s = number / (packets.fps or 1)
        if packets.timed and number < len(times):
            time_s = float(times[number] - times[0]) * packets.unit
        try:
            image = _to_upright(frame)
        except FFmpegError as error:
            raise ValueError(f"{path}: frame {number}: {error.strerror}") from error
        yield number, time_s, image
    if number < 0:
        raise _no_frame(path)


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray],
    *,
    fps: float,
    codec: str = "libx264",
    crf: int = 23,
    preset: str = "medium",
    sound_from: str | Path | None = None,
) -> Path:
    """Write RGB frames as a video that browsers play (yuv420p, index at the front).

    The same frames give the same bytes, on any number of cores. An odd width or height is made
    even by repeating the last column or row, because yuv420p halves both. `path` is replaced only
    once the whole video is written.

    Args:
        path: file to write; its suffix (`.mp4`) names the container.
        frames: images of one size, each uint8 of shape (height, width, 3), RGB.
        fps: frames a second, above 0.
        codec: an encoder of FFmpeg, for example "libx264" or "mpeg4".
        crf: quality of libx264, 0 (lossless) to 51; other encoders run at a fixed fine quantiser.
        preset: how hard libx264 tries to make it small, "ultrafast" to "veryslow".
        sound_from: file whose first audio stream is added as AAC, cut where the frames end; where
            it has none that can be read, the video is silent.
    Returns:
        `path`.
    Raises:
        ValueError: no frame at all, a frame of another size or type, or an unknown codec.
    """
    path = Path(path)
    if not fps > 0:
        raise ValueError(f"fps must be above 0, not {fps}")
    if codec not in av.codecs_available:
        raise ValueError(f"codec {codec!r} is not in this build of FFmpeg; use 'libx264'")
    # BT.601 is what both ends assume where nothing is said; saying it keeps players from guessing.
    options = {"colorspace": "smpte170m", "color_range": "tv", "threads": str(ENCODER_THREADS)}
    if codec.startswith("libx26"):
        options |= {"crf": str(crf), "preset": preset}
        if codec == "libx264":
            # Macroblock trees gave other bytes from one run to the next for videos of a few frames,
            # on a processor with AVX-512.
            options["x264-params"] = "mbtree=0"
    else:
        options |= {"flags": "+qscale", "global_quality": str(3 * 118)}  # 118 = one step of q
    flags = {"movflags": "+faststart"} if path.suffix.lower() in {".mp4", ".mov", ".m4v"} else {}
    images = enumerate(frames)
    _, first = next(images, (0, None))
    if first is None:
        raise ValueError(f"no frames to write to {path.name}")
    shape = np.shape(first)
    _check_image(first, shape, 0)
    height, width = shape[0] + shape[0] % 2, shape[1] + shape[1] % 2
    rate = Fraction(fps).limit_denominator(60_000)
    with atomic_path(path) as temporary, av.open(str(temporary), "w", options=flags) as container:
        stream = container.add_stream(codec, rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        with open_sound(sound_from, container) as sound_until:
            for index, image in chain([(0, first)], images):
                _check_image(image, shape, index)
                even = np.pad(
                    image, [(0, height - shape[0]), (0, width - shape[1]), (0, 0)], "edge"
                )
                frame = av.VideoFrame.from_ndarray(even, format="rgb24").reformat(
                    format="yuv420p", **ONE_THREAD
                )
                frame.pts, frame.time_base = index, 1 / rate
                container.mux(stream.encode(frame))
                container.mux(sound_until((index + 1) / fps))
        container.mux(stream.encode())
    return path


def _check_image(image: np.ndarray, shape: tuple[int, ...], index: int) -> None:
    if getattr(image, "dtype", None) != np.uint8 or len(shape) != 3 or shape[2] != 3:
        raise ValueError(
            f"frame {index} must be uint8 of shape (height, width, 3), "
            f"not {getattr(image, 'dtype', type(image).__name__)} of shape {np.shape(image)}"
        )
    if image.shape != shape:
        raise ValueError(f"frame {index} has shape {image.shape}, the first one had {shape}")


def _quarter_turns(frame: av.VideoFrame) -> int:
    """Quarter turns counter-clockwise, 0 to 3, that bring a frame upright."""
    return round(frame.rotation / 90) % 4


def _to_upright(frame: av.VideoFrame) -> Image.Image:
    pixels = frame.to_ndarray(format="rgb24", **ONE_THREAD)  # (H, W, 3)
    return Image.fromarray(np.ascontiguousarray(np.rot90(pixels, _quarter_turns(frame))))


def _no_frame(path: str | Path) -> ValueError:
    return ValueError(f"{path}: no frame of its video stream can be decoded")
