"""Sampled frames are the very frames of decoding everything, and little else is decoded."""

import subprocess
import sys
from contextlib import suppress
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from av.error import FFmpegError

from utils.faces import decoding
from utils.faces.media import evenly_spaced, probe, sample_frames

N_FRAMES = 110
ROUGH = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (90, 160, 3)) / 1.0, (0, 0), 3)
PICTURE = cv2.normalize(ROUGH, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


def moving(number):
    return np.ascontiguousarray(np.roll(PICTURE, (3 * number, 2 * number), axis=(0, 1)))


def write(path, codec, options, *, form="yuv420p", times=None, n_frames=N_FRAMES, size=(160, 90)):
    """Write a moving picture; `times` in milliseconds make the rate vary."""
    unit = Fraction(1, 1000) if times is not None else Fraction(1, 25)
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options)
        stream.width, stream.height, stream.pix_fmt = *size, form
        if times is not None:
            stream.time_base = stream.codec_context.time_base = unit
        for number in range(n_frames):
            image = cv2.resize(moving(number), size)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format=form)
            frame.pts, frame.time_base = number if times is None else times[number], unit
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def fully_decoded(path):
    with av.open(str(path)) as container, suppress(FFmpegError):
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    return []


@pytest.fixture
def decoded(monkeypatch):
    """Numbers of frames that came out of the decoder, in the quick way and in the full one."""
    counts = {"quick": 0, "full": 0}

    def counting(kind, function):
        def counted(*arguments):
            for item in function(*arguments):
                counts[kind] += 1
                yield item

        return counted

    monkeypatch.setattr(decoding, "_decode_run", counting("quick", decoding._decode_run))
    monkeypatch.setattr(decoding, "decode", counting("full", decoding.decode))
    return counts


VARYING = np.cumsum(np.random.default_rng(1).integers(10, 90, N_FRAMES)).tolist()
B_FRAMES = {"g": "30", "bf": "3"}
VP9 = {
    "g": "30",
    "deadline": "realtime",
    "cpu-used": "8",
    "auto-alt-ref": "1",
    "lag-in-frames": "9",
}


@pytest.mark.parametrize(
    ("name", "codec", "options", "more"),
    [
        ("b-frames.mp4", "libx264", B_FRAMES, {}),
        ("open-gop.mkv", "libx264", B_FRAMES | {"x264-params": "open-gop=1"}, {}),
        ("refresh.mp4", "libx264", B_FRAMES | {"x264-params": "intra-refresh=1"}, {}),
        ("varying.mp4", "libx264", B_FRAMES, {"times": VARYING}),
        ("varying.mkv", "libx264", B_FRAMES, {"times": VARYING}),
        ("ten-bit.mp4", "libx264", B_FRAMES, {"form": "yuv420p10le"}),
        ("grey.mp4", "libx264", B_FRAMES, {"form": "gray"}),
        ("odd.mp4", "libx264", B_FRAMES, {"form": "yuv444p", "size": (161, 91)}),
        ("stream.ts", "libx264", B_FRAMES, {}),
        ("no-times.avi", "libx264", B_FRAMES, {}),
        ("hevc.mp4", "libx265", {"x265-params": "keyint=30:log-level=none"}, {}),
        ("mpeg4.mp4", "mpeg4", B_FRAMES, {}),
        ("mpeg4.avi", "mpeg4", B_FRAMES, {}),
        ("vp9.webm", "libvpx-vp9", VP9, {}),
        ("motion.avi", "mjpeg", {}, {"form": "yuvj420p"}),
        ("one.mp4", "libx264", {}, {"n_frames": 1}),
        ("4k.mp4", "libx264", {"preset": "ultrafast"}, {"n_frames": 5, "size": (3840, 2160)}),
    ],
)
def test_sampled_frames_are_those_of_full_decoding(tmp_path, decoded, name, codec, options, more):
    if codec not in av.codecs_available:
        pytest.skip(f"this build of FFmpeg has no {codec}")
    path = write(tmp_path / name, codec, options, **more)
    frames = fully_decoded(path)
    assert len(frames) == more.get("n_frames", N_FRAMES)
    for n in (1, 4, 9, 40, 0):
        sampled = list(sample_frames(path, n))
        assert [number for number, _, _ in sampled] == evenly_spaced(len(frames), n).tolist()
        assert all(np.array_equal(image, frames[number]) for number, _, image in sampled)
        clock = np.subtract(VARYING, VARYING[0]) / 1000 if "times" in more else np.arange(999) / 25
        seconds = [clock[number] for number, _, _ in sampled]
        assert [time_s for _, time_s, _ in sampled] == pytest.approx(seconds, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "n", "most"),
    [
        ({"g": "10", "bf": "3"}, 3, 30),  # jumps: at most what lies between two key frames
        ({"g": "1000", "bf": "3", "sc_threshold": "0"}, 3, 80),  # one key frame: leaves out
    ],
)
def test_most_frames_are_never_decoded(tmp_path, decoded, options, n, most):
    path = write(tmp_path / "clip.mp4", "libx264", options)
    assert len(list(sample_frames(path, n))) == n
    assert 0 < decoded["quick"] <= most
    assert decoded["full"] == 0


def test_a_key_frame_that_is_none_is_noticed(tmp_path, decoded, monkeypatch):
    """Where a jump does not land at what the packets promised, the frames stay the same."""
    path = write(tmp_path / "clip.mp4", "libx264", {"g": "1000", "sc_threshold": "0"})
    listed = decoding.list_packets(path)
    listed.keys[50:] = True  # a lie
    monkeypatch.setattr("utils.faces.media.list_packets", lambda path: listed)
    frames = fully_decoded(path)
    assert all(np.array_equal(image, frames[n]) for n, _, image in sample_frames(path, 5))


def test_damage_in_the_middle_changes_no_other_frame(tmp_path):
    path = write(tmp_path / "clip.ts", "libx264", {"g": "20", "bf": "0"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 4000] = bytes(4000)
    path.write_bytes(data)
    everything = {number: np.asarray(image) for number, _, image in sample_frames(path)}
    for number, _, image in sample_frames(path, 9):
        assert np.array_equal(image, everything[number])


def test_frames_that_an_edit_list_cuts_away_are_not_counted(tmp_path):
    """As phones do when a clip is trimmed: the file keeps them, players do not show them."""
    whole, trimmed = write(tmp_path / "a.mp4", "libx264", B_FRAMES), tmp_path / "b.mp4"
    with av.open(str(whole)) as source, av.open(str(trimmed), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                shift = round(40 / 25 / packet.time_base)  # 40 frames
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = stream
                target.mux(packet)
    frames = fully_decoded(trimmed)
    if not frames:
        pytest.skip("this build of FFmpeg cannot write such a file")
    assert len(frames) == N_FRAMES - 40 == probe(trimmed).n_frames
    sampled = list(sample_frames(trimmed, 5))
    assert [number for number, _, _ in sampled] == evenly_spaced(70, 5).tolist()
    assert all(np.array_equal(image, frames[number]) for number, _, image in sampled)


LONG = """
import resource, sys
from utils.faces.media import sample_frames
frames = sum(1 for _ in sample_frames(sys.argv[1], int(sys.argv[2])))
print(frames, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""


def test_memory_does_not_grow_with_the_length(tmp_path):
    """An hour of video takes what ten seconds take; so do its frames, one at a time."""
    peaks = {}
    for seconds in (10, 3600):
        path = tmp_path / f"{seconds}.mp4"
        options = {"preset": "ultrafast", "g": "250"}
        times = range(0, 1000 * seconds, 1000)
        write(path, "libx264", options, n_frames=seconds, size=(128, 96), times=times)
        for n in (8, 0):
            command = [sys.executable, "-c", LONG, str(path), str(n)]
            run = subprocess.run(command, capture_output=True, text=True, check=True)
            frames, peaks[seconds, n] = map(int, run.stdout.split())
            assert frames == (n or seconds)
    assert max(peaks.values()) - min(peaks.values()) < 30  # MiB; the frames are 126 MiB


def test_ffmpeg_reports_nothing_to_python(tmp_path):
    """A decoder freed while its threads report would wait for them for ever."""
    path = write(tmp_path / "a.mp4", "libx264", {})
    av.logging.set_level(av.logging.ERROR)  # as torchvision up to 0.25 does
    next(sample_frames(path, 3))
    assert av.logging.get_level() is None
