"""A written video keeps the sound of the one that it was made from."""

from fractions import Fraction

import av
import numpy as np
import pytest

from utils.faces.media import write_video

PICTURES = [np.full((48, 64, 3), 8 * n, np.uint8) for n in range(25)]  # one second at 25 a second


def write_tone(path, codec, *, seconds=2.0, rate=44_100, layout="stereo"):
    """A file with a tone that grows louder, so that a shift in time shows."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout=layout)
        form = stream.codec_context.codec.audio_formats[0].name
        resampler = av.AudioResampler(format=form, layout=layout, rate=rate)
        clock = np.arange(round(seconds * rate)) / rate
        tone = (clock / seconds * np.sin(2 * np.pi * 440 * clock)).astype(np.float32)
        for start in range(0, len(tone), 1024):
            part = np.stack([tone[start : start + 1024]] * (2 if layout == "stereo" else 1))
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(part), "fltp", layout)
            frame.rate, frame.pts, frame.time_base = rate, start, Fraction(1, rate)
            for ready in resampler.resample(frame):
                container.mux(stream.encode(ready))
        container.mux(stream.encode(None))
    return path


def sound_of(path):
    """Codec, samples of the first channel, and rate of the sound of a file."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        samples = [frame.to_ndarray()[0] for frame in container.decode(stream)]
        return stream.codec_context.name, np.concatenate(samples), stream.rate


@pytest.mark.parametrize(
    ("name", "codec", "layout"),
    [("a.m4a", "aac", "stereo"), ("a.wav", "pcm_s16le", "mono"), ("a.ts", "aac", "stereo")],
)
def test_sound_is_kept_as_aac_and_cut_where_the_frames_end(tmp_path, name, codec, layout):
    source = write_tone(tmp_path / name, codec, layout=layout)
    path = write_video(tmp_path / "clip.mp4", PICTURES, fps=25, sound_from=source)
    codec, samples, rate = sound_of(path)
    assert codec == "aac"
    assert len(samples) / rate == pytest.approx(1.0, abs=0.06)  # AAC comes in parts of 23 ms
    middle = samples[round(0.45 * rate) : round(0.55 * rate)]
    assert np.abs(middle).max() == pytest.approx(0.25, abs=0.05)  # a quarter of the rise of 2 s


def test_aac_is_copied_without_loss(tmp_path):
    source = write_tone(tmp_path / "a.m4a", "aac")
    path = write_video(tmp_path / "clip.mp4", PICTURES, fps=25, sound_from=source)
    ours, theirs = sound_of(path)[1], sound_of(source)[1]
    kept = min(len(ours), len(theirs)) - 2048
    assert kept > 40_000
    assert np.array_equal(ours[:kept], theirs[:kept])


def test_pictures_and_sound_lie_side_by_side_in_the_file(tmp_path):
    """A player that streams need not jump between two ends of the file."""
    source = write_tone(tmp_path / "a.m4a", "aac", seconds=8)
    path = write_video(tmp_path / "clip.mp4", PICTURES * 8, fps=25, sound_from=source)
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video", "audio"]
        places = [(p.stream.type, p.pos) for p in container.demux() if p.size and p.pos]
    last_video = max(place for kind, place in places if kind == "video")
    assert min(place for kind, place in places if kind == "audio") < last_video / 4


@pytest.mark.parametrize("kind", ["absent", "silent", "text", "empty", "nothing"])
def test_without_readable_sound_the_video_is_silent(tmp_path, kind):
    source = tmp_path / "source.mp4"
    if kind == "silent":
        write_video(source, PICTURES, fps=25)
    elif kind != "absent":
        source.write_bytes({"text": b"no video" * 99, "empty": b""}.get(kind, b""))
    named = None if kind == "nothing" else source
    path = write_video(tmp_path / "clip.mp4", PICTURES, fps=25, sound_from=named)
    with av.open(str(path)) as container:
        assert [stream.type for stream in container.streams] == ["video"]
        assert sum(1 for _ in container.decode(video=0)) == 25


def test_sound_that_breaks_off_leaves_every_frame(tmp_path):
    source = write_tone(tmp_path / "a.ts", "aac")
    source.write_bytes(source.read_bytes()[: source.stat().st_size // 4])
    path = write_video(tmp_path / "clip.mp4", PICTURES, fps=25, sound_from=source)
    with av.open(str(path)) as container:
        assert sum(1 for _ in container.decode(video=0)) == 25
    assert 0.2 < len(sound_of(path)[1]) / 44_100 < 0.8
