"""Any image or video in, as upright RGB frames; videos out that every browser plays."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from utils.faces.decoding import Packets, decode, list_packets, open_video, read_frames
from utils.run.artifacts import atomic_path

#: What Pillow raises for files that are missing, broken, cut short or absurdly large.
UNREADABLE = (
    *(OSError, SyntaxError, ValueError, EOFError, struct.error),
    Image.DecompressionBombError,
)


def load_crop(path: str) -> Image.Image:
    """Open a crop as RGB.

    Raises:
        ValueError: the file cannot be read as an image; names it.
    """
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except UNREADABLE as error:
        raise ValueError(f"{path} cannot be read as an image ({error})") from error


def load_valid_crop(path: str) -> Image.Image:
    """`load_crop` for the crops of an index, which 01 has opened before."""
    try:
        return load_crop(path)
    except ValueError as error:
        hint = "run 01_explore_data again, it sorts such files out"
        raise ValueError(f"{error}; {hint}") from error


VIDEO_SUFFIXES = (".mp4", ".avi", ".mov", ".mkv", ".webm")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
#: Rates in hertz that AAC knows; sound of another rate is resampled to the first.
AAC_RATES = (48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025, 8_000)
#: Gives the packets that start before a time in seconds and were not given yet.
PacketsUntil = Callable[[float], Iterator[av.Packet]]


@contextmanager
def open_sound(
    path: str | Path | None, container: av.container.OutputContainer
) -> Iterator[PacketsUntil]:
    """Open the first audio stream of a file as AAC packets, to be taken stretch by stretch.

    AAC is copied as it is, anything else is encoded. Time 0 is the start of the file's video.
    Where there is no file, no sound or none that can be read, no packet comes.

    Args:
        path: file with the sound, or None.
        container: output for the packets; gets a stream, so nothing may be written to it before.
    Yields:
        A function that takes a time in seconds and gives the packets that start before it.
    """
    packets: Iterator[av.Packet] = iter(())
    with ExitStack() as files:
        # IndexError: no sound; ValueError and AttributeError: a codec that FFmpeg does not know.
        with suppress(OSError, FFmpegError, IndexError, ValueError, AttributeError):
            if path is not None:
                source = files.enter_context(av.open(str(path)))
                packets = _packets(source, source.streams.audio[0], container)
        waiting: list[av.Packet] = []

        def packets_until(time_s: float) -> Iterator[av.Packet]:
            with suppress(FFmpegError):  # where sound breaks off, the rest is silent
                for packet in chain(waiting, packets):
                    waiting[:] = [packet]
                    if float((packet.pts or 0) * (packet.time_base or 0)) >= time_s:
                        return
                    yield packet
                waiting.clear()

        yield packets_until


def _packets(
    source: av.container.InputContainer,
    audio: av.AudioStream,
    container: av.container.OutputContainer,
) -> Iterator[av.Packet]:
    """Add a stream to the output, unless nothing can be read, and give its packets."""
    copied = audio.codec_context.name == "aac" and bool(audio.codec_context.extradata)
    read: Iterator[Any] = _copied(source, audio) if copied else _decoded(source, audio)
    first = next(read, None)
    if first is None:
        return iter(())
    read = chain([first], read)
    if copied:
        return _restreamed(read, container.add_stream_from_template(audio))
    rate = audio.rate if audio.rate in AAC_RATES else AAC_RATES[0]
    layout = "mono" if audio.channels == 1 else "stereo"
    stream = container.add_stream("aac", rate=rate, layout=layout)
    return _encoded(read, stream)


def _video_start(source: av.container.InputContainer) -> Fraction:
    """Time of the first frame of a file's video in seconds, 0 where it does not say."""
    for stream in source.streams.video:
        if stream.start_time is not None and stream.time_base is not None:
            return stream.start_time * stream.time_base
    return Fraction(0)


def _copied(source: av.container.InputContainer, audio: av.AudioStream) -> Iterator[av.Packet]:
    start = _video_start(source)
    for packet in source.demux(audio):
        if not packet.size or packet.pts is None or packet.dts is None or not packet.time_base:
            continue
        shift = round(start / packet.time_base)
        packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
        # One packet before the start stays: a decoder of AAC needs it to begin with.
        if packet.pts + 2 * (packet.duration or 0) > 0:
            yield packet


def _decoded(source: av.container.InputContainer, audio: av.AudioStream) -> Iterator[av.AudioFrame]:
    start = _video_start(source)
    for packet in source.demux(audio):
        with suppress(FFmpegError):  # a damaged packet is left out
            for frame in packet.decode():
                if frame.pts is not None and frame.time_base:
                    frame.pts -= round(start / frame.time_base)
                    if frame.pts >= 0:
                        yield frame


def _restreamed(packets: Iterator[av.Packet], stream: av.AudioStream) -> Iterator[av.Packet]:
    for packet in packets:
        packet.stream = stream
        yield packet


def _encoded(frames: Iterator[av.AudioFrame], stream: av.AudioStream) -> Iterator[av.Packet]:
    for frame in frames:
        yield from stream.encode(frame)
    yield from stream.encode(None)


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


#: What is taken for an image or a video in a folder; a file that is named by itself is tried.
MEDIA_SUFFIXES = (
    *IMAGE_SUFFIXES,
    *VIDEO_SUFFIXES,
    *(".gif", ".tif", ".tiff", ".avif", ".jfif", ".apng", ".m4v", ".mpg", ".mpeg", ".flv"),
)
#: Image formats that are read; Pillow's others are rare, or run foreign programs (EPS).
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "AVIF", "JPEG2000", "PPM")
#: A larger picture is read at 1/2, 1/4 or 1/8 if it is a JPEG, and refused otherwise. Its decoded
#: pixels take 4 bytes each.
MAX_PIXELS = 50_000_000
Frame = tuple[int, float, Image.Image]


def collect_inputs(patterns: Sequence[str]) -> list[str]:
    """Resolve files, folders and globs to images and videos, each once, in order.

    Folders are searched to the bottom, through links but never round in a circle; hidden files
    are passed over. What has the name of an image or video and cannot be read is among them, so
    that it gets a row with the reason.

    Raises:
        FileNotFoundError: a pattern matches no image and no video.
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
    return name.lower().endswith(MEDIA_SUFFIXES) and not name.startswith(".")


def open_media(path: str, n_frames: int, *, threads: int = 0) -> Iterator[Frame]:
    """Yield evenly spaced frames of an image (one), an animated image or a video.

    What the file is says its content, not its name. Of a JPEG over MAX_PIXELS the frame is 1/2,
    1/4 or 1/8 as large as stored.

    Args:
        path: file.
        n_frames: frames wanted of a video or an animation; 0 means all.
        threads: of the video decoder; 0: as many as FFmpeg thinks fit.
    Yields:
        Frame number from 0, its time in seconds, and the RGB image upright as displayed.
    Raises:
        ValueError: the file cannot be judged; names it and says why.
    """
    check_file(path)
    if is_image(path):
        yield from _image_frames(path, n_frames)
        return
    try:
        yield from sample_frames(path, n_frames, threads=threads)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror or error}") from error


def check_file(path: str) -> None:
    """Raise ValueError that says why if a path is no file with content that may be read."""
    try:
        facts = os.stat(path)
        if not stat.S_ISREG(facts.st_mode):
            kind = "a folder" if stat.S_ISDIR(facts.st_mode) else "no regular file"
            raise ValueError(f"{path} is {kind}; name an image or a video")
        if not facts.st_size:
            raise ValueError(f"{path} is empty (zero bytes)")
        with open(path, "rb") as file:
            file.read(1)
    except OSError as error:
        what = "a broken link" if os.path.islink(path) else "unreadable"
        raise ValueError(f"{path} is {what}: {error.strerror}") from error


def is_image(path: str) -> bool:
    """Whether Pillow takes the content for an image, whatever the name of the file says."""
    try:
        with Image.open(path, formats=_formats()):
            return True
    except Image.DecompressionBombError:
        return True
    except UNREADABLE:
        # A broken image is told as one; anything else is left to the video decoder.
        return path.lower().endswith(IMAGE_SUFFIXES) and not _looks_like_a_video(path)


@cache
def _formats() -> tuple[str, ...]:
    """Those of FORMATS that this build of Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def _looks_like_a_video(path: str) -> bool:
    with open(path, "rb") as file:
        head = file.read(12)
    matroska, flash, transport = b"\x1aE\xdf\xa3", b"FLV", b"\x47"
    return head[4:8] in (b"ftyp", b"moov", b"mdat") or (
        head.startswith((matroska, flash, transport, b"\x00\x00\x01")) or head[8:12] == b"AVI "
    )


def _image_frames(path: str, n_frames: int) -> Iterator[Frame]:
    try:
        with closing(_open_image(path)) as image:
            total = getattr(image, "n_frames", 1) if image.format in ("GIF", "WEBP", "PNG") else 1
            time_s, wanted = 0.0, set(evenly_spaced(total, n_frames).tolist())
            for number in range(max(wanted) + 1):
                image.seek(number)
                image.load()  # only now a WebP says how long the frame is shown
                if number in wanted:
                    yield number, time_s, to_rgb(ImageOps.exif_transpose(image))
                time_s += image.info.get("duration", 0) / 1000 if total > 1 else 0
    except UNREADABLE as error:
        if isinstance(error, ValueError) and path in str(error):
            raise
        raise ValueError(f"{path} cannot be read as an image ({error})") from error


def _open_image(path: str) -> Image.Image:
    try:
        image = Image.open(path, formats=_formats())
    except Image.DecompressionBombError:
        # Pillow refuses by the size alone. A JPEG can be read in parts; nothing is decoded here.
        try:
            image = JpegImageFile(path)
        except SyntaxError:  # not a JPEG
            raise ValueError(f"{path} is too large: save it smaller, or as JPEG") from None
    width, height = image.size
    if width * height <= MAX_PIXELS:
        return image
    size = f"{path} has {width:,} x {height:,} pixels"
    if not isinstance(image, JpegImageFile):
        image.close()
        raise ValueError(f"{size}: too many. Save it with {MAX_PIXELS:,} at most, or as JPEG")
    for part in (2, 4, 8):
        if width * height / part**2 <= MAX_PIXELS:
            image.draft("RGB", (width // part, height // part))
            return image
    image.close()
    raise ValueError(f"{size}: too many even at an eighth")


def to_rgb(image: Image.Image) -> Image.Image:
    """RGB as a viewer shows it: 16 bits scaled down and not cut off, transparency on white."""
    if image.mode.startswith("I") or image.mode == "F":
        levels = np.asarray(image, dtype=np.float64)
        top = levels.max(initial=0)
        scale = 1 if top <= 1 else 255 if top <= 255 else 65535  # the usual ranges of such files
        grey = np.clip(levels * (255 / scale), 0, 255).round().astype(np.uint8)
        return Image.fromarray(grey).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        shown = image.convert("RGBA")
        white = Image.new("RGBA", shown.size, "white")
        return Image.alpha_composite(white, shown).convert("RGB")
    return image.convert("RGB")
