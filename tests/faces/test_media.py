"""Files of every kind end in frames or in a reason, within bounded memory and time."""

import io
import os
import subprocess
import sys
import textwrap
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from tests.faces.test_faces import LEFT, scene
from tests.faces.test_video import rotated_copy
from utils.faces import media
from utils.faces.detection import CropRecipe, cut_faces, load_detector
from utils.faces.media import collect_inputs, open_media, to_rgb, write_video

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def detector():
    return load_detector()


def frames_of(path, n=4):
    return list(open_media(str(path), n))


def picture(width=640, height=360):
    return Image.fromarray(scene(LEFT, size=(width, height)))


def film(path, *, n=8, size=(640, 360), codec="libx264", pix_fmt="yuv420p", times=None):
    """Write a video as other programs may write it."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=8)
        stream.width, stream.height, stream.pix_fmt = *size, pix_fmt
        for i in range(n):
            frame = av.VideoFrame.from_ndarray(np.array(picture(*size)), format="rgb24")
            frame = frame.reformat(format=pix_fmt)
            frame.pts, frame.time_base = (times or range(n))[i], Fraction(1, 8)
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


def sound(path, blocks=8):
    """A silent AAC file of `blocks` times 64 ms."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=16000)
        for i in range(blocks):
            frame = av.AudioFrame.from_ndarray(
                np.zeros((1, 1024), dtype=np.float32), format="fltp", layout="mono"
            )
            frame.sample_rate, frame.pts = 16000, 1024 * i
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return path


# inputs


def test_files_folders_and_globs_are_collected_once_and_in_order(tmp_path):
    for name in ("a/1.png", "a/b/2.JPG", "a/b/3.mp4", "a/notes.txt", "a/.x.png", "10.png", "9.gif"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"x")

    def collected(*patterns):
        found = collect_inputs([str(tmp_path / pattern) for pattern in patterns])
        return [Path(path).relative_to(tmp_path).as_posix() for path in found]

    assert collected("a/1.png") == ["a/1.png"]
    assert collected("a/notes.txt") == ["a/notes.txt"]  # named by itself
    assert collected("a") == collected("a/**") == ["a/1.png", "a/b/2.JPG", "a/b/3.mp4"]
    assert collected("a/**/*.mp4") == ["a/b/3.mp4"]
    assert collected("**/*.png") == ["10.png", "a/1.png"]
    assert collected("10.png", "a", "*.*", "a/b/2.JPG") == [
        *("10.png", "a/1.png", "a/b/2.JPG", "a/b/3.mp4", "9.gif")
    ]
    assert collect_inputs([]) == []


def test_file_that_is_named_in_two_ways_is_one_input(tmp_path, monkeypatch):
    (tmp_path / "a.png").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    assert collect_inputs(["a.png", "./*.png", str(tmp_path / "a.png")]) == ["a.png"]


@pytest.mark.parametrize("name", ["[1].png", 'it\'s "a" clip.png', "лицо 顔.png", "$HOME *.png"])
def test_strange_name_is_a_file_and_not_a_pattern(tmp_path, name):
    picture().save(tmp_path / name)
    assert collect_inputs([str(tmp_path / name)]) == [str(tmp_path / name)]
    assert len(frames_of(tmp_path / name)) == 1


@pytest.mark.parametrize("pattern", ["missing.png", "*.webm", "texts", "texts/*", "a**.png"])
def test_pattern_without_an_image_or_video_is_named(tmp_path, pattern):
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_bytes(b"x")
    (tmp_path / "good.png").write_bytes(b"x")
    with pytest.raises(FileNotFoundError) as caught:
        collect_inputs([str(tmp_path / "good.png"), str(tmp_path / pattern)])
    assert pattern in str(caught.value)


@pytest.mark.parametrize("pattern", ["", "**", "**/*.png"])
def test_folder_that_holds_itself_ends(tmp_path, pattern):
    (tmp_path / "a" / "b").mkdir(parents=True)
    picture().save(tmp_path / "a" / "b" / "1.png")
    for name in ("one", "two"):  # each level would double the number of paths
        (tmp_path / "a" / name).symlink_to(tmp_path, target_is_directory=True)
    assert len(collect_inputs([str(tmp_path / pattern)])) == 1


def test_broken_link_and_pipe_in_a_folder_are_listed_with_their_reason(tmp_path):
    (tmp_path / "gone.mp4").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe.mp4")  # opening it would wait for ever
    (tmp_path / "folder.mp4").mkdir()
    found = collect_inputs([str(tmp_path / "*.mp4"), str(tmp_path)])
    assert [Path(name).name for name in found] == ["gone.mp4", "pipe.mp4"]
    with pytest.raises(ValueError, match="broken link"):
        frames_of(found[0])
    with pytest.raises(ValueError, match="no regular file"):
        frames_of(found[1])
    with pytest.raises(ValueError, match="is a folder"):
        frames_of(tmp_path / "folder.mp4")


def test_file_that_may_not_be_read_says_so(tmp_path, monkeypatch):
    picture().save(tmp_path / "a.png")

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(media, "open", refuse, raising=False)  # root may read everything
    with pytest.raises(ValueError, match=r"a\.png is unreadable: Permission denied"):
        frames_of(tmp_path / "a.png")


# images


def test_content_decides_and_not_the_name(tmp_path, detector):
    picture().save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").rename(tmp_path / "picture.mp4")
    film(tmp_path / "a.mp4")
    (tmp_path / "a.mp4").rename(tmp_path / "film.jpg")
    assert len(frames_of(tmp_path / "picture.mp4")) == 1
    assert len(frames_of(tmp_path / "film.jpg")) == 4


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("empty.png", "empty"),
        ("empty.mp4", "empty"),
        ("text.jpg", "cannot be read as an image"),
        ("text.mp4", "not a readable video"),
        ("cut.png", "cannot be read as an image"),
        ("cut.jpg", "cannot be read as an image"),
    ],
)
def test_broken_file_has_a_reason_that_names_it(tmp_path, name, reason):
    content = {"empty": b"", "text": b"hello, this is no picture" * 9}.get(name.split(".")[0])
    if content is None:
        whole = io.BytesIO()
        picture().save(whole, "PNG" if name.endswith("png") else "JPEG")
        content = whole.getvalue()[:1000]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}.*{reason}"):
        frames_of(tmp_path / name)


MODES = {
    "CMYK.jpg": lambda image: image.convert("CMYK"),
    "grey.png": lambda image: image.convert("L"),
    "16 bit.png": lambda image: Image.fromarray(np.uint16(np.asarray(image.convert("L"))) * 257),
    "float.tiff": lambda image: Image.fromarray(np.float32(np.asarray(image.convert("L"))) / 255),
    "RGBA.png": lambda image: image.convert("RGBA"),
    "palette.png": lambda image: image.quantize(128),
    "palette.gif": lambda image: image.quantize(128),
    "plain.webp": lambda image: image,
    "odd.bmp": lambda image: image.crop((0, 0, 639, 359)),
}


@pytest.mark.parametrize("name", MODES)
def test_every_kind_of_pixels_shows_the_same_face(tmp_path, detector, name):
    MODES[name](picture()).save(tmp_path / name)
    ((number, time_s, image),) = frames_of(tmp_path / name)
    assert (number, time_s, image.mode) == (0, 0, "RGB")
    grey = [np.asarray(i.convert("L"), dtype=float) for i in (image, picture())]
    height, width = grey[0].shape
    assert np.abs(grey[0] - grey[1][:height, :width]).mean() < 4
    (face,) = cut_faces(detector, image, CropRecipe())
    assert abs((face.box[0] + face.box[2]) / 2 - LEFT[0]) < 20


def test_transparent_parts_are_white_as_in_a_viewer():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert to_rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4))
    palette.info["transparency"] = 0
    assert to_rgb(palette).getpixel((0, 0)) == (255, 255, 255)


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_picture_that_a_phone_stored_on_its_side_is_turned_upright(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown after a quarter turn clockwise
    picture().transpose(Image.Transpose.ROTATE_90).save(tmp_path / f"phone.{suffix}", exif=exif)
    ((_, _, image),) = frames_of(tmp_path / f"phone.{suffix}")
    assert image.size == (640, 360)
    assert np.abs(np.float32(image) - np.float32(picture())).mean() < 3


@pytest.mark.parametrize("suffix", ["gif", "webp", "png"])
def test_animation_gives_evenly_spaced_frames_with_their_times(tmp_path, suffix):
    shades = [Image.new("RGB", (64, 48), (30 * i, 0, 0)) for i in range(8)]
    shades[0].save(
        tmp_path / f"a.{suffix}", save_all=True, append_images=shades[1:], duration=100, loop=0
    )
    frames = frames_of(tmp_path / f"a.{suffix}")
    assert [number for number, _, _ in frames] == [1, 3, 5, 7]
    assert [time_s for _, time_s, _ in frames] == pytest.approx([0.1, 0.3, 0.5, 0.7])
    reds = [image.getpixel((9, 9))[0] for _, _, image in frames]
    assert reds == pytest.approx([30, 90, 150, 210], abs=8)
    assert len(frames_of(tmp_path / f"a.{suffix}", 0)) == 8


def test_picture_of_one_pixel_is_a_picture_without_a_face(tmp_path, detector):
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    ((_, _, image),) = frames_of(tmp_path / "dot.png")
    assert cut_faces(detector, image, CropRecipe()) == []


@pytest.mark.parametrize(
    ("suffix", "expected"), [("jpg", "(5000, 5000)"), ("png", "too many|too large")]
)
def test_enormous_picture_is_read_in_part_or_refused_within_bounded_memory(
    tmp_path, suffix, expected
):
    path = tmp_path / f"huge.{suffix}"
    side, limit = 20_000, Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        Image.new("L", (side, side), 90).save(path)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    code = f"""
        import resource
        from utils.media import open_media
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            print([image.size for _, _, image in open_media({str(path)!r}, 16)])
        except ValueError as error:
            print(error)
        print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True, text=True, cwd=ROOT, check=True, timeout=120,
    )  # fmt: skip
    said, grown_mb = done.stdout.strip().splitlines()
    assert any(part in said for part in expected.split("|")), said
    assert int(grown_mb) < 400  # all of it in RGB would be 1,200 MB


# videos


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("10 bit.mp4", {"pix_fmt": "yuv420p10le"}),
        ("grey.mp4", {"pix_fmt": "gray"}),
        ("odd.mkv", {"size": (641, 361), "pix_fmt": "yuv444p"}),
        ("old.avi", {"codec": "mpeg4"}),
        ("frames.mov", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
        ("rate.mkv", {"times": [0, 1, 2, 20, 21, 22, 60, 61]}),
        ("one.mp4", {"n": 1}),
        ("4K.mp4", {"size": (3840, 2160), "n": 2}),
        ("small.webm", {"codec": "libvpx-vp9"}),
    ],
)
def test_every_kind_of_video_shows_its_face(tmp_path, detector, name, options):
    if options.get("codec", "libx264") not in av.codecs_available:
        pytest.skip("this build of FFmpeg lacks the encoder")
    frames = frames_of(film(tmp_path / name, **options))
    assert len(frames) == min(options.get("n", 8), 4)
    assert [n for n, _, _ in frames] == sorted({n for n, _, _ in frames})
    image = frames[-1][2]
    assert image.size == options.get("size", (640, 360))
    if name != "4K.mp4":  # there the drawn face has 37 pixels of the shrunk frame's width
        assert len(cut_faces(detector, image, CropRecipe())) == 1
    if "times" in options:
        assert frames[-1][1] == pytest.approx(61 / 8)


@pytest.mark.parametrize("turn", ["clockwise", "counter"])
def test_video_that_a_phone_stored_on_its_side_is_turned_upright(tmp_path, turn):
    path = rotated_copy(film(tmp_path / "plain.mp4"), tmp_path / "turned.mp4", turn)
    image = frames_of(path)[0][2]
    assert image.size == (360, 640)


@pytest.mark.parametrize(
    ("name", "reason"), [("sound.m4a", "no video stream"), ("cut.mp4", "not a readable video")]
)
def test_video_that_holds_no_frame_has_a_reason(tmp_path, name, reason):
    if name == "sound.m4a":
        sound(tmp_path / name)
    else:  # the index at its end is gone
        (tmp_path / name).write_bytes(film(tmp_path / "whole.mp4").read_bytes()[:-2000])
    with pytest.raises(ValueError, match=reason):
        frames_of(tmp_path / name)


def test_video_that_was_cut_short_gives_what_is_there(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 90, 160, 3), dtype=np.uint8)
    whole = write_video(tmp_path / "a.mp4", noise, fps=8)
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[: whole.stat().st_size * 2 // 3])
    assert 1 <= len(frames_of(tmp_path / "cut.mp4")) <= 4
