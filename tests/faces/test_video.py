import cv2
import numpy as np
import pytest

from utils.faces.media import evenly_spaced, frames_at, probe, sample_frames, write_video

WIDTH, HEIGHT = 160, 90


def numbered(number, width=WIDTH, height=HEIGHT):
    """Draw a frame that carries its number as eight black or white bars, highest bit first."""
    bits = [number >> bit & 1 for bit in range(7, -1, -1)]
    columns = np.repeat(bits, -(-width // 8))[:width] * 255
    return np.broadcast_to(columns.astype(np.uint8)[None, :, None], (height, width, 3)).copy()


def read_number(image):
    bars = np.asarray(image).mean(axis=(0, 2)).reshape(8, -1).mean(axis=1) > 127
    return int("".join(str(int(bar)) for bar in bars), 2)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """100 numbered frames at 25 frames a second."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    return write_video(path, (numbered(i) for i in range(100)), fps=25)


@pytest.mark.parametrize(
    ("n_total", "n", "expected"),
    [
        (100, 4, [12, 37, 62, 87]),
        (10, 3, [1, 5, 8]),
        (3, 1, [1]),
        (3, 0, [0, 1, 2]),
        (3, 3, [0, 1, 2]),
        (3, 9, [0, 1, 2]),
        (0, 4, []),
    ],
)
def test_spacing_is_centred_and_covers_the_whole(n_total, n, expected):
    assert evenly_spaced(n_total, n).tolist() == expected


def test_spacing_never_repeats_a_frame():
    for n_total in range(1, 60):
        for n in range(1, n_total + 1):
            numbers = evenly_spaced(n_total, n)
            assert len(numbers) == n
            assert (np.diff(numbers) > 0).all()
            assert numbers[0] >= 0 and numbers[-1] < n_total


def test_negative_counts_are_refused():
    with pytest.raises(ValueError, match="-1"):
        evenly_spaced(10, -1)


def test_sampled_frames_are_the_frames_of_those_numbers(clip):
    frames = list(sample_frames(clip, 7))
    numbers = [number for number, _, _ in frames]
    assert numbers == evenly_spaced(100, 7).tolist()
    assert [read_number(image) for _, _, image in frames] == numbers
    assert [time_s for _, time_s, _ in frames] == pytest.approx([n / 25 for n in numbers])


def test_zero_means_every_frame(clip):
    assert [read_number(image) for _, _, image in sample_frames(clip)] == list(range(100))


def test_frames_come_one_at_a_time(clip):
    frames = sample_frames(clip)
    assert next(frames)[0] == 0
    frames.close()  # the rest is never decoded


def test_probe_reads_size_rate_and_length(clip):
    info = probe(clip)
    assert (info.width, info.height, info.n_frames) == (WIDTH, HEIGHT, 100)
    assert (info.fps, info.duration_s) == pytest.approx((25.0, 4.0))


def test_frames_of_a_cut_file_are_spread_over_what_is_left(tmp_path):
    rng = np.random.default_rng(0)  # noise makes the frames about equally large
    noise = [rng.integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8) for _ in range(60)]
    whole = write_video(tmp_path / "whole.mp4", noise, fps=25)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    available = probe(cut).n_frames
    assert 10 < available < 50  # the header still says 60
    numbers = [number for number, _, _ in sample_frames(cut, 4)]
    # Older builds of FFmpeg cannot give the very last frames before the cut.
    assert len(numbers) >= 3
    assert numbers == evenly_spaced(available, 4).tolist()[: len(numbers)]


@pytest.mark.parametrize(
    ("content", "reason"), [(b"", "zero bytes"), (b"not a video " * 99, "not a readable video")]
)
def test_what_is_not_a_video_is_refused_by_name(tmp_path, content, reason):
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    for read in (probe, lambda path: list(sample_frames(path, 4))):
        with pytest.raises(ValueError, match=reason) as error:
            read(path)
        assert "broken.mp4" in str(error.value)


def test_sound_alone_is_no_video(tmp_path):
    import av

    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        samples = np.zeros((1, 2048), dtype=np.float32)
        frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout="mono")
        frame.rate = 44100
        container.mux(stream.encode(frame))
        container.mux(stream.encode())
    with pytest.raises(ValueError, match="no video stream"):
        next(sample_frames(path))


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        probe(tmp_path / "nowhere.mp4")


def rotated_copy(path, target, turn):
    """Write the rotation of a phone held upright into the track header (ISO 14496-12, 8.3.2)."""
    one = 1 << 16
    matrices = {"clockwise": (0, one, 0, -one, 0, 0), "counter": (0, -one, 0, one, 0, 0)}
    words = [*matrices[turn], 0, 0, 1 << 30]
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + 36] = b"".join(word.to_bytes(4, "big", signed=True) for word in words)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize(("turn", "white_quarter"), [("clockwise", (0, 1)), ("counter", (1, 0))])
def test_frames_are_upright_as_the_file_says(tmp_path, turn, white_quarter):
    image = np.zeros((64, 96, 3), dtype=np.uint8)
    image[:32, :48] = 255  # white: top left
    plain = write_video(tmp_path / "plain.mp4", [image] * 3, fps=25)
    path = rotated_copy(plain, tmp_path / "turned.mp4", turn)
    assert (probe(path).width, probe(path).height) == (64, 96)
    for n in (0, 2, 1):  # in full, and only what is wanted
        for _, _, image in sample_frames(path, n):
            shown = np.asarray(image).astype(float)
            assert shown.shape == (96, 64, 3)
            quarters = shown.reshape(2, 48, 2, 32, 3).mean(axis=(1, 3, 4))  # rows, columns
            assert np.unravel_index(quarters.argmax(), (2, 2)) == white_quarter


def test_frames_are_read_by_number_and_those_past_the_end_are_left_out(clip):
    frames = list(frames_at(clip, [3, 50, 99, 100, 400]))
    assert [number for number, _, _ in frames] == [3, 50, 99]
    assert [read_number(image) for _, _, image in frames] == [3, 50, 99]
    assert list(frames_at(clip, [100])) == []


@pytest.mark.parametrize("codec", ["libx264", "mpeg4"])
def test_odd_sizes_are_padded_by_the_last_row_and_column(tmp_path, codec):
    image = np.full((45, 63, 3), 60, dtype=np.uint8)
    image[-1] = 200
    path = write_video(tmp_path / "odd.mp4", [image] * 2, fps=10, codec=codec)
    _, _, shown = next(sample_frames(path))
    assert shown.size == (64, 46)
    assert abs(np.asarray(shown)[45].mean() - 200) < 12
    assert abs(np.asarray(shown)[:43].mean() - 60) < 6


def test_colours_survive(tmp_path):
    colours = np.array([[200, 40, 40], [40, 180, 60], [50, 60, 190], [220, 200, 60]], np.uint8)
    image = np.repeat(np.repeat(colours[None], 32, axis=1), 64, axis=0)
    path = write_video(tmp_path / "colours.mp4", [image] * 2, fps=10, crf=10)
    shown = np.asarray(next(sample_frames(path))[2]).astype(int)
    middles = shown[32, 16::32]
    assert np.abs(middles - colours).max() <= 6


def test_short_videos_have_the_same_bytes_every_time(tmp_path):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (30, 6, 10, 10, 3), dtype=np.uint8)
    for number, frames in enumerate(coarse):
        faces = [cv2.resize(frame, (160, 160), interpolation=cv2.INTER_CUBIC) for frame in frames]
        path, kept = tmp_path / f"{number}.mp4", {"fps": 25, "crf": 32, "preset": "veryfast"}
        assert len({write_video(path, faces, **kept).read_bytes() for _ in range(6)}) == 1


def test_same_frames_give_the_same_bytes_that_start_with_the_index(tmp_path):
    frames = [numbered(i, 640, 360) for i in range(20)]
    first = write_video(tmp_path / "a.mp4", frames, fps=29.97).read_bytes()
    assert first == write_video(tmp_path / "b.mp4", iter(frames), fps=29.97).read_bytes()
    assert b" threads=2 " in first  # x264 notes its settings; they must not follow the machine
    assert first.index(b"moov") < first.index(b"mdat")
    assert probe(tmp_path / "a.mp4").fps == pytest.approx(29.97)


def test_failed_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "kept.mp4"
    path.write_bytes(b"old")

    def frames():
        yield numbered(0)
        raise RuntimeError("drawing failed")

    with pytest.raises(RuntimeError, match="drawing failed"):
        write_video(path, frames(), fps=25)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("frames", "options", "reason"),
    [
        ([], {}, "no frames"),
        ([numbered(0), numbered(1)[:50]], {}, "frame 1 has shape"),
        ([numbered(0)[..., 0]], {}, "frame 0 must be uint8"),
        ([numbered(0) / 255], {}, "float64"),
        ([numbered(0)], {"codec": "h999"}, "h999"),
        ([numbered(0)], {"fps": 0}, "fps"),
    ],
)
def test_wrong_input_is_named_and_leaves_no_file(tmp_path, frames, options, reason):
    with pytest.raises(ValueError, match=reason):
        write_video(tmp_path / "x.mp4", frames, **{"fps": 25, **options})
    assert list(tmp_path.iterdir()) == []
