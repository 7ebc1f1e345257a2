"""Frames out of a video file: the very ones of full decoding, without decoding all of them."""

from __future__ import annotations

import os
from array import array
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition

#: Decoders whose NONREF leaves out frames that no other frame needs, ever. That of HEVC may leave
#: out what a higher temporal layer needs, VP9's frames also train the contexts of the next ones.
SKIPPING = frozenset({"h264", "mpeg4", "mpeg2video", "mpeg1video"})
PYAV = int(av.__version__.partition(".")[0])
#: A larger picture or frame is not decoded whole; its pixels take 4 bytes each.
MAX_PIXELS = 50_000_000
#: The longest side that JPEG and GIF know: a longer strip would be searched without being shrunk.
MAX_SIDE = 65_535
#: Formats that hold what they play; FFmpeg's others are texts that name further files and addresses
#: (ffconcat, HLS, DASH).
CONTAINERS = "mov,matroska,avi,flv,mpeg,mpegvideo,mpegts,asf,ogg,rm,mxf,dv,m4v,h264,hevc,wav,mp3"
TRUSTED = {"protocol_whitelist": "file", "format_whitelist": CONTAINERS}
#: For the decoder, too: frames may be larger than their container says.
BOUNDED = {"max_pixels": str(MAX_PIXELS)}
#: Packets that a seek has to save: a decoder that starts again works off a queue of about so many.
WORTH_A_SEEK = 12


class _Unexpected(Exception):
    """The file is not as its packets promised; only full decoding tells its frames."""


@dataclass(frozen=True)
class Packets:
    """The packets of a video stream in the order of decoding: 18 bytes each, for hours of video."""

    pts: np.ndarray  # time of the frame in each packet, in units of the stream, (n,)
    dts: np.ndarray  # when it is decoded, in the same units, (n,)
    keys: np.ndarray  # whether decoding can start there, (n,)
    shown: np.ndarray  # whether the frame is displayed (an edit list may cut it away), (n,)
    timed: bool  # every packet has a time of its own
    regular: bool  # the time of a packet is that of the frame in it
    unit: float  # of the times, in seconds
    fps: float  # frames a second; 0 where the file does not tell

    @property
    def n_frames(self) -> int:
        """How many frames are displayed."""
        return int(self.shown.sum())

    @property
    def times(self) -> np.ndarray:
        """Times of the displayed frames in the order of display, shape (n_frames,)."""
        return np.sort(self.pts[self.shown])


def check_file(path: str | Path) -> None:
    """Raise ValueError for what is no file with bytes in it: to open a pipe would wait for ever."""
    if not os.path.isfile(path):
        what = "no regular file" if os.path.exists(path) else "a broken link, or not there"
        what = "a folder" if os.path.isdir(path) else what
        raise ValueError(f"{path} is {what}; name an image or a video")
    if not os.path.getsize(path):
        raise ValueError(f"{path} is empty (zero bytes)")


def check_size(width: int, height: int) -> None:
    """Refuse a picture or frame of too many pixels. Raises ValueError with its size."""
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        limits = f"{MAX_PIXELS:,} at most, and {MAX_SIDE:,} a side"
        raise ValueError(f"{width:,} x {height:,} pixels are too many: save it with {limits}")


def open_container(path: str | Path) -> InputContainer:
    """Open this very file, nothing else that its name or text may mean to FFmpeg; or ValueError."""
    check_file(path)
    # torchvision up to 0.25 has FFmpeg report to Python; a decoder that is freed while its threads
    # report waits for them, and they for Python's lock, which the one that frees it holds.
    av.logging.set_level(None)
    how: dict = {"options": BOUNDED, "container_options": TRUSTED}
    if PYAV < 19:  # newer ones keep a tag that is not UTF-8 by themselves
        how["metadata_errors"] = "replace"
    try:  # `12:30.mp4` alone would be a protocol
        return av.open(os.path.abspath(path), **how)
    except Exception as error:  # whatever a damaged file brings about
        why = getattr(error, "strerror", None) or error
        raise ValueError(f"{path} is not a readable image or video: {why}") from error


@contextmanager
def open_video(path: str | Path, *, threads: int = 0) -> Iterator[tuple]:
    """Open a file: gives the container and its first video stream, cover pictures aside.

    `threads` are the decoder's; 0: as many as FFmpeg thinks fit. Raises ValueError that says why if
    there is no such file, it is no video, or its frames are too large.
    """
    with open_container(path) as container:
        cover, streams = Disposition.attached_pic, container.streams.video
        stream = next((stream for stream in streams if not stream.disposition & cover), None)
        if stream is None:
            raise ValueError(f"{path} holds no video stream")
        decoder = stream.codec_context
        if decoder is None:
            raise ValueError(f"{path} holds a video of a codec that this FFmpeg does not know")
        stream.thread_type, decoder.thread_count = "AUTO", threads
        decoder.options = BOUNDED
        yield container, stream


def list_packets(path: str | Path) -> Packets:
    """Pass over the packets that are really in the file, undecoded.

    The number in the header also counts what a cut file has lost, and many containers state none.
    """
    pts, dts, flags, timed = array("q"), array("q"), bytearray(), True
    with open_video(path) as (container, stream):
        with suppress(FFmpegError):  # the end of a cut file; what came before can be decoded
            for packet in container.demux(stream):
                if packet.size:
                    timed &= packet.pts is not None
                    pts.append(packet.pts or 0)
                    dts.append(pts[-1] if packet.dts is None else packet.dts)
                    flags.append(packet.is_keyframe + 2 * (not packet.is_discard))
        reordered = bool(stream.codec_context.has_b_frames)
        unit, fps = float(stream.time_base or 0), stream.average_rate or stream.guessed_rate or 0
    times, bits = np.array(pts, dtype=np.int64), np.array(flags, dtype=np.uint8)
    timed &= len(np.unique(times)) == len(times)
    # AVI counts packets; where a decoder changes their order, that is not the time of a frame.
    regular = timed and not (reordered and (np.diff(times) > 0).all())
    order = np.array(dts, dtype=np.int64)
    return Packets(times, order, bits & 1 > 0, bits & 2 > 0, timed, bool(regular), unit, float(fps))


def decode(container: InputContainer, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Decode to the end, past broken packets; a file that is cut short just ends."""
    with suppress(FFmpegError):
        for packet in container.demux(stream):  # the last one is empty and drains the decoder
            with suppress(FFmpegError):
                yield from packet.decode()


def read_frames(
    path: str | Path, packets: Packets, numbers: Sequence[int] | np.ndarray, *, threads: int = 0
) -> Iterator[tuple[int, av.VideoFrame]]:
    """Decode chosen frames, bit for bit those of full decoding.

    Between two wanted frames the decoder leaves out what no other frame needs, or jumps to the last
    key frame before the next one. Where that does not give the frames that the packets promised (a
    container that cannot jump, a damaged file), the rest comes without jumps, and in the end from
    full decoding.

    Takes rising numbers of displayed frames, from 0; yields number and frame.
    """
    given, everything = -1, len(numbers) >= packets.n_frames
    for worth in (WORTH_A_SEEK, len(packets.pts)) if packets.regular and not everything else ():
        rest = [int(number) for number in numbers if number > given]
        with suppress(_Unexpected, FFmpegError), open_video(path, threads=threads) as opened:
            frames = _chosen(opened, packets, _runs(packets, packets.times[rest], worth))
            for given, frame in zip(rest, frames, strict=True):
                yield given, frame
            return
    left, number = {int(number) for number in numbers if number > given}, -1
    with open_video(path, threads=threads) as opened:
        for frame in decode(*opened):
            place = -1
            if packets.regular and frame.pts is not None:
                place = int(np.searchsorted(packets.times, frame.pts))
            number = max(number + 1, place)  # one that cannot be decoded keeps its number
            if everything or number in left:
                yield number, frame
            if not everything and number >= max(left):
                return


@dataclass
class _Run:
    """Packets to decode in one go: from a key frame to the last one that holds a wanted frame."""

    start: int
    last: int
    times: list[int]


def _runs(packets: Packets, times: np.ndarray, worth: int) -> list[_Run]:
    """Plan which packets to decode; a jump is made where it saves more than `worth` of them."""
    order = np.argsort(packets.pts)
    places = order[np.searchsorted(packets.pts, times, sorter=order)]
    keys = np.flatnonzero(packets.keys)
    runs = [_Run(0, 0, [])]
    for time, place in zip(times.tolist(), places.tolist()):
        n_keys = int(np.searchsorted(keys, place, side="right"))
        # Frames that are shown before the key frame and decoded after it need the one before.
        while n_keys and packets.pts[keys[n_keys - 1]] > time:
            n_keys -= 1
        start = int(keys[n_keys - 1]) if n_keys else 0
        if start - runs[-1].last > worth:
            runs.append(_Run(start, place, []))
        runs[-1].last = max(runs[-1].last, place)
        runs[-1].times.append(time)
    return runs if runs[0].times else runs[1:]


def _chosen(opened: tuple, packets: Packets, runs: list[_Run]) -> Iterator[av.VideoFrame]:
    """The frames that these runs want; raises _Unexpected where one of them does not come."""
    container, stream = opened
    for run in runs:
        if run.start:
            # MP4 finds a place by the time of decoding, Matroska by the time of the frame.
            decoded = packets.dts[run.start] - packets.dts[0] + packets.pts[0]
            target = max(packets.pts[run.start], decoded)
            container.seek(int(target), stream=stream)
        left = deque(run.times)
        for frame in _decode_run(container, stream, packets, run):
            if frame.is_corrupt:
                raise _Unexpected
            if left and frame.pts == left[0]:
                left.popleft()
                yield frame
        if left:
            raise _Unexpected


def _decode_run(
    container: InputContainer, stream: av.VideoStream, packets: Packets, run: _Run
) -> Iterator[av.VideoFrame]:
    """Decode these packets; raises _Unexpected where the file does not come as they say."""
    decoder = stream.codec_context
    skipping = decoder.name in SKIPPING
    wanted, place = set(run.times), -1
    for packet in container.demux(stream):
        if not packet.size:
            continue
        if place < 0:  # a seek may come out at an earlier key frame, but never at a later one
            found = np.flatnonzero(packets.pts == packet.pts) if run.start else [0]
            place = int(found[0]) if len(found) else len(packets.pts)
            if place > run.start or not packet.is_keyframe:
                raise _Unexpected
        if packet.pts != packets.pts[place]:
            raise _Unexpected
        # The setting goes with the packet, also where several threads decode several packets.
        decoder.skip_frame = "NONREF" if skipping and packet.pts not in wanted else "DEFAULT"
        yield from packet.decode()
        if place == run.last:
            break
        place += 1
    yield from decoder.decode(None)
