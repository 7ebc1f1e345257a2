"""The sound of one file for a video that is being written."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

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
