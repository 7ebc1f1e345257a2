"""Any image or video, as upright RGB frames, told apart by content and within bounded memory."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from PIL.JpegImagePlugin import JpegImageFile

from utils.datasets import IMAGE_SUFFIXES
from utils.layouts import VIDEO_SUFFIXES
from utils.loading import UNREADABLE
from utils.video import evenly_spaced, sample_frames

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
