"""Any image or video in, as upright RGB frames; videos out that every browser plays."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from fractions import Fraction
from functools import cache, partial
from io import BytesIO
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np
from av.error import FFmpegError
from PIL import ExifTags, Image, ImageOps
from PIL.Image import DecompressionBombError
from PIL.JpegImagePlugin import JpegImageFile

from utils.faces.decoding import (
    MAX_PIXELS,
    PYAV,
    check_file,
    check_size,
    decode,
    list_packets,
    open_container,
    open_video,
    read_frames,
)
from utils.run.artifacts import atomic_path

#: What is taken for a video or an image in a folder, on every road; a file that is named by itself
#: is tried whatever its name. GIF, APNG and WebP may be animations: 05 samples their frames as it
#: does a video's, and as a crop they are their first frame, so they are images everywhere.
VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".3gp", ".avi", ".mkv", ".webm", ".flv"),
    *(".mpg", ".mpeg", ".ts", ".mts", ".m2ts", ".wmv"),
)
IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jfif", ".webp", ".bmp"),
    *(".gif", ".apng", ".tif", ".tiff", ".avif", ".heic", ".heif", ".hif"),
)
#: Brands of HEIF files whose pictures are coded as HEVC, in the first bytes of such a file.
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
#: Image formats that are read; Pillow's others are rare, or run foreign programs (EPS).
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "HEIF", "JPEG2000", "PPM")
#: PyAV 17 and newer convert colours in threads that are started anew for each frame: that takes
#: several times as long as the conversion.
ONE_THREAD: dict[str, Any] = {"threads": 1} if PYAV >= 17 else {}
#: Number from 0, seconds after the first frame, and the picture.
Frame = tuple[int, float, Image.Image]


def collect_inputs(patterns: Sequence[str]) -> list[str]:
    """Resolve files, folders and globs to images and videos, each once, in order.

    Folders are searched to the bottom, through links but never round in a circle; hidden files
    are passed over. What has the name of an image or video and cannot be read is among them, so
    that it gets a row with the reason. Raises FileNotFoundError if a pattern matches nothing.
    """
    files: dict[str, str] = {}
    for pattern in map(os.path.expanduser, patterns):
        if os.path.isdir(pattern):
            found = list(_walk(pattern))
        elif os.path.lexists(pattern):  # named by itself: judged or listed, whatever it is
            found = [pattern]
        else:
            found = _match(pattern)
        if not found:
            raise FileNotFoundError(f"INPUTS: {pattern!r} names no image and no video")
        for name in found:  # a file that is named in two ways is one file
            files.setdefault(os.path.realpath(name), name)
    return list(files.values())


def _match(pattern: str) -> list[str]:
    """Images and videos that a glob matches; folders that a final `**` matches are searched."""
    path = Path(pattern)
    root = Path(path.anchor)
    found: list[str] = []
    try:
        for match in sorted(root.glob(str(path.relative_to(root)))):
            if match.is_dir():
                found += _walk(str(match)) if path.name == "**" else []
            elif _has_media_name(match.name):
                found.append(str(match))
    except ValueError as error:  # `***`, or `**` that is not a whole part
        raise FileNotFoundError(f"INPUTS: {pattern!r} is no pattern: {error}") from error
    return found


def _walk(folder: str) -> Iterator[str]:
    """Files below a folder that are named like media, and folders that cannot be listed."""
    refused: list[OSError] = []
    seen = set()
    for place, folders, names in os.walk(folder, followlinks=True, onerror=refused.append):
        known = os.stat(place)
        if (known.st_dev, known.st_ino) in seen:
            folders.clear()  # a link led here again
            continue
        seen.add((known.st_dev, known.st_ino))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(place, name) for name in sorted(names) if _has_media_name(name))
    yield from (str(error.filename) for error in refused)


def _has_media_name(name: str) -> bool:
    return name.lower().endswith(VIDEO_SUFFIXES + IMAGE_SUFFIXES) and not name.startswith(".")


def open_media(path: str, n_frames: int, *, threads: int = 0) -> Iterator[Frame]:
    """Yield evenly spaced frames of an image (one), an animated image or a video.

    What the file is says its content, not its name. Of a large JPEG (`read_image`) the frame is
    smaller than stored. `n_frames` and `threads` as for `sample_frames`; raises ValueError that
    names the file and says why it cannot be judged.
    """
    read = _animation_frames if is_image(path) else partial(sample_frames, threads=threads)
    yield from read(path, n_frames)


def is_image(path: str) -> bool:
    """Whether Pillow takes the content for an image, whatever its name; ValueError for no file."""
    _check(path)
    try:
        with Image.open(path, formats=_formats()):
            return True
    except DecompressionBombError:
        return True
    except Exception:  # whatever a damaged file brings about
        return False  # left to the video decoder


def _check(path: str | Path) -> None:
    """`check_file`, and no HEIC picture without pi-heif: FFmpeg would show one tile of it."""
    check_file(path)
    with open(path, "rb") as file:
        head = file.read(64)
    heic = head[4:8] == b"ftyp" and head[8:12] in HEIC and b"avif" not in head
    if heic and "HEIF" not in _formats():
        raise ValueError(f"{path} is a HEIC picture: pip install pi-heif, or save it as JPEG")


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this build of Pillow knows, HEIF where pi-heif is installed."""
    Image.init()
    with suppress(ImportError):
        importlib.import_module("pi_heif").register_heif_opener()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _animation_frames(path: str, n_frames: int) -> Iterator[Frame]:
    """Frames of an image, which has one unless it is an animation."""
    with _opened(path) as image:
        total = getattr(image, "n_frames", 1) if image.format in ("GIF", "WEBP", "PNG") else 1
        if total > os.path.getsize(path):
            raise ValueError(f"it says that it has {total:,} frames")
        time_s, wanted = 0.0, set(evenly_spaced(total, n_frames).tolist())
        for number in range(max(wanted) + 1):
            if total > 1:  # the one that a HEIC file is shown by need not be its first
                image.seek(number)
            check_size(*image.size)  # a frame of a GIF may lie beyond the first one
            image.load()  # only now a WebP says how long the frame is shown
            if number in wanted:
                yield number, time_s, to_rgb(image)
            _forget_texts(image)
            time_s += image.info.get("duration", 0) / 1000 if total > 1 else 0


def load_crop(path: str | Path) -> Image.Image:
    """`read_image` for the crops of an index, which 01 has opened before."""
    try:
        return read_image(path)
    except ValueError as error:
        hint = "run 01_explore_data again, it sorts such files out"
        raise ValueError(f"{error}; {hint}") from error


def read_image(file: str | Path | BinaryIO) -> Image.Image:
    """The pixels of an image as every road sees them (`to_rgb`), of an animation the first frame.

    A JPEG over MAX_PIXELS is read at 1/2, 1/4 or 1/8, unless it is progressive. Raises ValueError
    that names the file if it cannot be read as an image or has too many pixels.
    """
    with _opened(file) as image:
        return to_rgb(image)


@contextmanager
def _opened(file: str | Path | BinaryIO) -> Iterator[Image.Image]:
    """An image of bounded size, not decoded yet; what Pillow raises meanwhile names the file."""
    if isinstance(file, str | Path):
        _check(file)
    try:
        with _open_bounded(file) as image:
            _forget_texts(image)
            check_size(*image.size)
            tags = getattr(image, "tag_v2", {})  # tiles of a TIFF are decoded whole
            check_size(tags.get(322, 0), tags.get(323, 0))
            yield image
    except Exception as error:  # whatever a damaged file brings about: each format has its own
        name = file if isinstance(file, str | Path) else "the file"
        raise ValueError(f"{name} cannot be read as an image ({error})") from error


def _open_bounded(file: str | Path | BinaryIO) -> Image.Image:
    with suppress(DecompressionBombError):  # by the size alone; a JPEG can be read in part
        image: Image.Image = Image.open(file, formats=_formats())
        if image.width * image.height <= MAX_PIXELS or not isinstance(image, JpegImageFile):
            return image
    if not isinstance(file, str | Path):
        file.seek(0)
    try:
        jpeg = JpegImageFile(file)
    except SyntaxError:  # not a JPEG
        raise ValueError("too many pixels: save it smaller, or as JPEG") from None
    # Several scans are kept whole until the last one. The header of the first was just read: it has
    # 6 bytes, and 2 for each of its layers.
    stream: Any = jpeg.fp
    stream.seek(-6 - 2 * jpeg.layers, os.SEEK_CUR)
    if "progressive" in jpeg.info or stream.read(3)[2] != jpeg.layers:
        raise ValueError("too many pixels for a progressive JPEG: save it smaller, or otherwise")
    part = next((p for p in (2, 4, 8) if jpeg.width * jpeg.height / p**2 <= MAX_PIXELS), 8)
    jpeg.draft("RGB", (jpeg.width // part, jpeg.height // part))
    return jpeg


def _forget_texts(image: Image.Image) -> None:
    """A text in a PNG may be called like a fact that Pillow keeps in the same place."""
    for key in ("transparency", "duration", "interlace", "exif"):
        if isinstance(image.info.get(key), str):
            del image.info[key]


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB as a viewer shows it: upright, 16 bits scaled and not cut off, transparency on white."""
    image.load()
    _forget_texts(image)
    with suppress(Exception):  # an orientation that cannot be read is none
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I") or image.mode == "F":
        levels = np.array(image, dtype=np.float32)
        top = levels.max(initial=0)
        scale = 1 if top <= 1 else 255 if top <= 255 else 65535  # the usual ranges of such files
        levels *= 255 / scale  # in place: such a picture takes much memory
        grey = levels.clip(0, 255, out=levels).round(out=levels).astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        shown = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGBA", shown.size, "white")
        return Image.alpha_composite(white, shown).convert("RGB")
    return image.convert("RGB")


class VideoInfo(NamedTuple):
    """What a video file holds; size in pixels as displayed, after its rotation."""

    width: int
    height: int
    fps: float
    n_frames: int


def probe(path: str | Path) -> VideoInfo:
    """Read size, rate and length of a video; decodes one frame. Raises as `sample_frames` does."""
    packets = list_packets(path)
    with open_video(path) as opened:
        frame = next(decode(*opened), None)
    if frame is None:
        raise _no_frame(path)
    turned, *_ = _display(frame)
    size = (frame.height, frame.width) if turned else (frame.width, frame.height)
    return VideoInfo(*size, packets.fps, packets.n_frames)


def sample_frames(path: str | Path, n_frames: int = 0, *, threads: int = 0) -> Iterator[Frame]:
    """Yield evenly spaced frames of a whole video, one at a time.

    They are the very frames of decoding everything, but for a few of a long video little else is
    decoded. A file that is cut short gives frames spread over the part that is there. Frames are
    upright as displayed (rotated if the file says so); pixels are not made square. Raises as
    `open_video` does, and ValueError if no frame can be decoded.

    Args:
        n_frames: number of frames wanted; 0 means all.
        threads: of the decoder; 0: as many as FFmpeg thinks fit.
    """
    packets = list_packets(path)
    wanted = evenly_spaced(packets.n_frames, n_frames)
    number, times = -1, packets.times
    for number, frame in read_frames(path, packets, wanted, threads=threads):
        time_s = number / (packets.fps or 1)
        if packets.timed and number < len(times):
            time_s = (int(times[number]) - int(times[0])) * packets.unit
        try:
            check_size(frame.width, frame.height)
            pixels = frame.to_ndarray(format="rgb24", **ONE_THREAD)  # (H, W, 3)
        except (ValueError, FFmpegError) as error:
            raise ValueError(f"{path}: frame {number}: {error}") from error
        turned, across, down = _display(frame)
        pixels = pixels.swapaxes(0, 1) if turned else pixels
        upright = np.ascontiguousarray(pixels[:: 1 - 2 * down, :: 1 - 2 * across])
        yield number, time_s, Image.fromarray(upright)
    if number < 0:
        raise _no_frame(path)


def evenly_spaced(n_total: int, n: int) -> np.ndarray:
    """Numbers of `n` frames spread over the whole of `n_total`, each in the middle of its part.

    All of them, from 0, if `n` is 0 or more than there are. Raises ValueError for negative numbers.
    """
    if n_total < 0 or n < 0:
        raise ValueError(f"n_total and n must be 0 or more, not {n_total} and {n}")
    if n == 0 or n >= n_total:
        return np.arange(n_total)
    # floor((i + 1/2) * n_total / n) in whole numbers; steps of at least 1 keep them apart.
    return (2 * np.arange(n) + 1) * n_total // (2 * n)


def _display(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How a frame is shown: whether rows become columns, then mirrored across, then up and down.

    A phone that is held upright turns its frames, a selfie camera may mirror them too.
    """
    matrix: Any = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return False, False, False
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5].astype(float)  # x' = ax + cy, …
    turned = abs(b) + abs(c) > abs(a) + abs(d)
    return turned, (c if turned else a) < 0, (b if turned else d) < 0


def _no_frame(path: str | Path) -> ValueError:
    return ValueError(f"{path}: no frame can be decoded (damaged, or over {MAX_PIXELS:,} pixels)")


def write_video(
    path: str | Path,
    frames: Iterable[np.ndarray],
    *,
    fps: float,
    crf: int = 23,
    preset: str = "medium",
    sound_from: str | Path | None = None,
) -> Path:
    """Write RGB frames to `path` as a video that browsers play (yuv420p, index at the front).

    The same frames give the same bytes, on any number of cores. An odd width or height is made
    even by repeating the last column or row, because yuv420p halves both. `path` is replaced only
    once the whole video is written. Raises ValueError for no frame at all, a frame of another size
    or type, or no H.264 encoder.

    Args:
        path: its suffix (`.mp4`) names the container.
        frames: images of one size, each uint8 of shape (height, width, 3), RGB.
        fps: frames a second, above 0.
        crf: quality, 0 (lossless) to 51.
        preset: how hard the encoder tries to make it small, "ultrafast" to "veryslow".
        sound_from: file whose first audio stream is copied as it is, cut where the frames end;
            where it has none that can be read and that the container holds, the video is silent.
    """
    path = Path(path)
    if not fps > 0:
        raise ValueError(f"fps must be above 0, not {fps}")
    if "libx264" not in av.codecs_available:
        raise ValueError(
            "this build of FFmpeg has no libx264; PyAV's own wheel has: pip install av"
        )
    # BT.601 is what both ends assume where nothing is said; saying it keeps players from guessing.
    options = {"colorspace": "smpte170m", "color_range": "tv", "crf": str(crf), "preset": preset}
    # x264 writes other bytes for another number of threads, so that is fixed; with macroblock trees
    # they differed from one run to the next, for short videos on a CPU with AVX-512.
    options |= {"threads": "2", "x264-params": "mbtree=0"}
    flags = {"movflags": "+faststart"} if path.suffix.lower() in {".mp4", ".mov", ".m4v"} else {}
    images = iter(frames)
    first = next(images, None)
    if first is None:
        raise ValueError(f"no frames to write to {path.name}")
    shape = (*np.shape(first)[:2], 3)
    height, width = (side + side % 2 for side in shape[:2])
    rate = Fraction(fps).limit_denominator(60_000)
    with atomic_path(path) as temporary, av.open(str(temporary), "w", options=flags) as container:
        stream = container.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        sound = _copy_sound(sound_from, container) if sound_from else iter(())
        packet = next(sound, None)
        for index, image in enumerate(chain([first], images)):
            if getattr(image, "dtype", None) != np.uint8 or image.shape != shape:
                raise ValueError(
                    f"frame {index} must be uint8 of shape {shape}, "
                    f"not {getattr(image, 'dtype', type(image))} of shape {np.shape(image)}"
                )
            even = np.pad(image, [(0, height - shape[0]), (0, width - shape[1]), (0, 0)], "edge")
            frame = av.VideoFrame.from_ndarray(even, format="rgb24")
            frame = frame.reformat(format="yuv420p", **ONE_THREAD)
            frame.pts, frame.time_base = index, 1 / rate
            container.mux(stream.encode(frame))
            until = (index + 1) / fps
            while packet is not None and (packet.pts or 0) * (packet.time_base or 0) < until:
                with suppress(FFmpegError):  # of a damaged packet
                    container.mux(packet)
                packet = next(sound, None)
        container.mux(stream.encode())
    return path


def _copy_sound(path: str | Path, container: av.container.OutputContainer) -> Iterator[av.Packet]:
    """Packets of a file's first audio stream, as they are; time 0 is the start of its video.

    The container gets a stream for them before the first one comes. None comes where there is no
    sound, none that can be read, or none that the container can hold.
    """
    with suppress(Exception), open_container(path) as source:  # whatever is wrong with it
        audio, video, stream = source.streams.audio[0], source.streams.video[:1], None
        start = (video[0].start_time or 0) * (video[0].time_base or Fraction(0)) if video else 0
        for packet in source.demux(audio):
            if not packet.size or packet.pts is None or packet.dts is None:
                continue
            shift = round(start / (packet.time_base or 1))
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            # One packet before the start stays: a decoder of AAC needs it to begin with.
            if packet.pts + 2 * (packet.duration or 0) <= 0:
                continue
            if stream is None:
                with av.open(BytesIO(), "w", format=container.format.name) as trial:
                    packet.stream = trial.add_stream_from_template(audio)
                    trial.mux(packet)  # some that a container says it holds fail at its end
                stream = container.add_stream_from_template(audio)
            packet.stream = stream
            yield packet
