"""Files of every kind end in frames or in a reason; written videos play, with their sound."""

import io
import os
import struct
import subprocess
import sys
import textwrap
import time
import zlib
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from tests.faces.test_detection import LEFT, scene
from utils.faces import media
from utils.faces.detection import CropRecipe, cut_faces, load_detector
from utils.faces.media import (
    collect_inputs,
    evenly_spaced,
    load_crop,
    open_media,
    probe,
    read_image,
    sample_frames,
    to_rgb,
    write_video,
)

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def detector():
    return load_detector(CropRecipe())


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


@pytest.mark.parametrize("suffix", [*media.VIDEO_SUFFIXES, *media.IMAGE_SUFFIXES])
def test_every_media_suffix_is_found_in_a_folder_whatever_its_case(tmp_path, suffix):
    for name in (f"a{suffix}", f"b{suffix.upper()}", "c.txt"):
        (tmp_path / name).write_bytes(b"x")
    found = collect_inputs([str(tmp_path)])
    assert [Path(path).name for path in found] == [f"a{suffix}", f"b{suffix.upper()}"]


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


@pytest.mark.parametrize("name", ["a.png", "a.mp4"])
def test_file_that_may_not_be_read_says_so(tmp_path, monkeypatch, name):
    picture().save(tmp_path / "a.png")
    (tmp_path / "a.png").rename(tmp_path / name)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("PIL.Image.open", refuse)  # root may read everything
    monkeypatch.setattr("av.open", refuse)
    with pytest.raises(ValueError, match=rf"{name} is not a readable .*: Permission denied"):
        frames_of(tmp_path / name)


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
        ("text.jpg", "not a readable image or video"),
        ("text.mp4", "not a readable image or video"),
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


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "grey.jpg", "CMYK.jpg", "palette.png"])
def test_pixels_of_an_ordinary_crop_are_those_that_pillow_converts(tmp_path, name):
    path = tmp_path / name
    MODES.get(name, lambda image: image)(picture()).save(path)
    with Image.open(path) as image:
        expected = np.asarray(image.convert("RGB"))
    for read in (read_image, load_crop):
        assert np.array_equal(read(path), expected)
    assert np.array_equal(read_image(io.BytesIO(path.read_bytes())), expected)


def test_transparent_parts_are_white_as_in_a_viewer():
    clear = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    assert to_rgb(clear).getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4))
    palette.info["transparency"] = 0
    assert to_rgb(palette).getpixel((0, 0)) == (255, 255, 255)


def roads(path):
    """An image as 05, as 03 and 04, and as 01 (from the bytes) see it."""
    return [frames_of(path)[0][2], load_crop(path), read_image(io.BytesIO(path.read_bytes()))]


@pytest.mark.parametrize("suffix", ["jpg", "png", "webp", "tiff"])
def test_picture_that_a_phone_stored_on_its_side_is_turned_upright(tmp_path, suffix):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown after a quarter turn clockwise
    path = tmp_path / f"phone.{suffix}"
    picture().transpose(Image.Transpose.ROTATE_90).save(path, exif=exif)
    for image in roads(path):
        assert image.size == (640, 360)
        assert np.abs(np.float32(image) - np.float32(picture())).mean() < 3


def test_sixteen_bits_are_scaled_and_transparency_is_white_on_every_road(tmp_path):
    grey = np.full((8, 8), 200 * 257, np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    Image.new("RGBA", (8, 8), (255, 0, 0, 0)).save(tmp_path / "clear.png")
    assert [image.getpixel((1, 1)) for image in roads(tmp_path / "deep.png")] == [(200,) * 3] * 3
    assert [image.getpixel((1, 1)) for image in roads(tmp_path / "clear.png")] == [(255,) * 3] * 3


def test_orientation_that_cannot_be_read_is_none(tmp_path):
    picture().save(tmp_path / "a.jpg", exif=b"Exif\x00\x00no TIFF header at all")
    assert [image.size for image in roads(tmp_path / "a.jpg")] == [(640, 360)] * 3


def test_crop_that_cannot_be_read_is_named_with_the_way_out_and_bytes_with_the_reason(tmp_path):
    picture().save(tmp_path / "a.png")
    cut = (tmp_path / "a.png").read_bytes()[:1000]
    (tmp_path / "a.png").write_bytes(cut)
    with pytest.raises(ValueError, match=r"a\.png cannot be read .*truncated.*01_explore_data"):
        load_crop(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"cannot be read as an image .*truncated"):
        read_image(io.BytesIO(cut))


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
    ("suffix", "expected"), [("jpg", "(5000, 5000) (5000, 5000)"), ("png", "too many|too large")]
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
        from utils.faces.media import open_media, read_image
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            sizes = [image.size for _, _, image in open_media({str(path)!r}, 16)]
            print(*sizes, read_image(open({str(path)!r}, "rb")).size)
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


# what strangers hand in


@pytest.mark.parametrize(
    "text",
    [
        "ffconcat version 1.0\nfile private.mp4\n",
        "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nprivate.mp4\n#EXT-X-ENDLIST\n",
    ],
)
def test_text_that_names_another_video_is_no_video(tmp_path, text):
    film(tmp_path / "private.mp4")
    (tmp_path / "list.mp4").write_text(text)
    with pytest.raises(ValueError, match=r"list\.mp4 is not a readable image or video"):
        frames_of(tmp_path / "list.mp4")
    copied = write_video(
        tmp_path / "a.mp4", [np.zeros((8, 8, 3), np.uint8)], fps=8, sound_from=tmp_path / "list.mp4"
    )
    assert probe(copied).n_frames == 1


@pytest.mark.parametrize("name", ["12:30:05.mp4", "http:localhost:9.mp4", "a%03d.mp4", "-i.mp4"])
def test_name_that_ffmpeg_would_read_otherwise_is_a_file(tmp_path, monkeypatch, name):
    film(tmp_path / "a.mp4").rename(tmp_path / name)
    monkeypatch.chdir(tmp_path)
    assert len(frames_of(name)) == 4


def test_name_that_is_not_text_is_judged(tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/\xff.mp4")
    film(tmp_path / "a.mp4").rename(path)
    assert len(frames_of(path)) == 4


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
def test_tag_that_is_not_text_changes_nothing(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "AAAABBBB"
        stream = container.add_stream("mpeg4", rate=8)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for packet in stream.encode(av.VideoFrame(64, 48, "yuv420p")) + stream.encode():
            container.mux(packet)
    data = path.read_bytes()
    assert b"AAAABBBB" in data
    path.write_bytes(data.replace(b"AAAABBBB", b"AA\xff\xfe\xfdBBB"))
    assert len(frames_of(path)) == 1


def test_codec_that_nobody_knows_is_named_as_the_reason(tmp_path):
    path = film(tmp_path / "a.mp4")
    path.write_bytes(path.read_bytes().replace(b"avc1\0\0\0\0", b"zzzz\0\0\0\0"))
    for read in (frames_of, probe):
        with pytest.raises(ValueError, match=r"a\.mp4 holds a video of a codec"):
            read(path)


def test_frames_that_are_too_large_are_not_decoded(tmp_path):
    path = tmp_path / "a.mov"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mjpeg", rate=8)
        stream.width, stream.height, stream.pix_fmt = 7504, 7504, "yuvj420p"
        container.mux(stream.encode(av.VideoFrame(7504, 7504, "yuvj420p")))
        container.mux(stream.encode())
    for read in (frames_of, probe):
        with pytest.raises(ValueError, match=r"a\.mov.* 50,000,000"):
            read(path)
    data = bytearray(path.read_bytes())
    width = data.index(b"jpeg", data.index(b"stsd")) + 28
    data[width : width + 4] = (48).to_bytes(2, "big") * 2  # what the container says of them
    path.write_bytes(data)
    with pytest.raises(ValueError, match=r"a\.mov.* 50,000,000"):
        frames_of(path)


def text_chunk(path, key):
    """Put a text of that name into a PNG, before its pixels and after what stands before them."""
    data, body = path.read_bytes(), b"tEXt" + key.encode() + b"\0MM\0*no"
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    at = data.index(b"IDAT") - 4
    path.write_bytes(data[:at] + chunk + data[at:])


@pytest.mark.parametrize("key", ["transparency", "duration", "exif", "interlace"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "RGBA"])
def test_text_in_a_png_changes_nothing(tmp_path, key, mode):
    shades = [Image.new("RGB", (64, 48), (90 * i, 0, 0)).convert(mode) for i in range(2)]
    shades[0].save(tmp_path / "a.png", save_all=True, append_images=shades[1:], duration=100)
    shades[1].save(tmp_path / "b.png")
    expected = [read_image(tmp_path / name) for name in ("a.png", "b.png")]
    for name, before in zip(("a.png", "b.png"), expected, strict=True):
        text_chunk(tmp_path / name, key)
        for after in (frames_of(tmp_path / name)[0][2], load_crop(tmp_path / name)):
            assert after.tobytes() == before.tobytes()


HOSTILE = {
    **{"avif": "avif", "dds": "png", "eps": "png", "strip": "png", "square": "png"},
    **{"progressive": "jpg", "scans": "jpg", "tile": "tif", "grows": "gif", "count": "png"},
}


def hostile_picture(path, kind):
    """Write an image that is broken in a way of its own, or enormous in a few bytes."""
    small, noise = (
        Image.new("RGB", (64, 64)),
        np.random.default_rng(0).integers(0, 256, (64, 64, 3)),
    )
    if kind == "avif":
        Image.fromarray(noise.astype(np.uint8)).save(path, "AVIF")
        data = bytearray(path.read_bytes())
        data[data.index(b"mdat") + 4 :] = b"\xff" * 400
    elif kind == "dds":  # of a format that Pillow's plugin does not know
        small.save(path, "DDS")
        data = bytearray(path.read_bytes())
        data[80:88] = b"\4\0\0\0ZZZZ"
    elif kind == "eps":
        small.save(path, "EPS")
        data = path.read_bytes()
    elif kind == "strip":
        Image.new("L", (277_777, 180)).save(path, "PNG")
        data = path.read_bytes()
    elif kind == "square":
        Image.new("L", (13_000, 13_000)).save(path, "PNG")
        data = path.read_bytes()
    elif kind == "progressive":
        Image.new("L", (7_504, 7_504)).save(path, "JPEG", progressive=True)
        data = path.read_bytes()
    elif kind == "scans":  # a baseline JPEG whose first scan holds one of three layers
        Image.new("RGB", (7_504, 7_504)).save(path, "JPEG")
        data = path.read_bytes()
        scan = data.index(b"\xff\xda")
        data = data[:scan] + b"\xff\xda\0\x08\1\1\0\0?\0" + data[scan + 14 :]
    elif kind == "tile":  # of 400 megapixels in a picture of 64 x 64
        packer = zlib.compressobj(1)
        tile = b"".join(packer.compress(bytes(20_000)) for _ in range(20_000)) + packer.flush()
        tags = {256: 64, 257: 64, 258: 8, 259: 8, 262: 1, 277: 1, 322: 20_000, 323: 20_000}
        tags |= {324: 14 + 12 * 10, 325: len(tile)}
        entries = [struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items()]
        data = b"II*\0" + struct.pack("<IH", 8, len(tags)) + b"".join(entries) + bytes(4) + tile
    elif kind == "grows":  # the second frame lies beyond the first one
        shades = [Image.new("L", (64, 64), i) for i in (0, 90)]
        shades[0].save(path, "GIF", save_all=True, append_images=shades[1:])
        data = bytearray(path.read_bytes())
        start = data.rindex(b"\x2c\0\0\0\0") + 5
        data[start : start + 4] = (9_000).to_bytes(2, "little") * 2
    elif kind == "count":  # two billion frames, it says
        shades = [Image.new("L", (64, 64), i) for i in (0, 90)]
        shades[0].save(path, "PNG", save_all=True, append_images=shades[1:])
        data = bytearray(path.read_bytes())
        start = data.index(b"acTL")
        data[start + 4 : start + 8] = (2**31 - 1).to_bytes(4, "big")
        data[start + 12 : start + 16] = zlib.crc32(data[start : start + 12]).to_bytes(4, "big")
    path.write_bytes(data)
    return path


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_picture_is_refused_by_name_at_once(tmp_path, kind):
    path = hostile_picture(tmp_path / f"a.{HOSTILE[kind]}", kind)
    begin = time.monotonic()
    with pytest.raises(ValueError, match=r"a\."):
        frames_of(path, 0)
    assert time.monotonic() - begin < 5
    if kind not in ("grows", "count"):  # as crops they are their first frame
        with pytest.raises(ValueError, match=r"a\..*01_explore_data"):
            load_crop(path)


@pytest.mark.parametrize("suffix", ["png", "mp4"])
def test_pipe_is_refused_on_every_road(tmp_path, suffix):
    os.mkfifo(tmp_path / f"a.{suffix}")
    path = str(tmp_path / f"a.{suffix}")
    roads = (frames_of, load_crop, media.is_image, probe, lambda path: next(sample_frames(path)))
    for read in roads:
        with pytest.raises(ValueError, match=r"a\..* is no regular file"):
            read(path)


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
    ("name", "reason"),
    [("sound.m4a", "no video stream"), ("cut.mp4", "not a readable image or video")],
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


# frames of a video, and videos of frames

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
    assert probe(clip) == (WIDTH, HEIGHT, 25.0, 100)


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
    ("content", "reason"),
    [(b"", "zero bytes"), (b"not a video " * 99, "not a readable image or video")],
)
def test_what_is_not_a_video_is_refused_by_name(tmp_path, content, reason):
    path = tmp_path / "broken.mp4"
    path.write_bytes(content)
    for read in (probe, lambda path: list(sample_frames(path, 4))):
        with pytest.raises(ValueError, match=reason) as error:
            read(path)
        assert "broken.mp4" in str(error.value)


def test_sound_alone_is_no_video(tmp_path):
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
    with pytest.raises(ValueError, match=r"nowhere.* not there"):
        probe(tmp_path / "nowhere.mp4")


def rotated_copy(path, target, turn):
    """Write how a phone was held into the track header (ISO 14496-12, 8.3.2)."""
    one = 1 << 16
    matrices = {
        "clockwise": (0, one, 0, -one, 0, 0),
        "counter": (0, -one, 0, one, 0, 0),
        "around": (-one, 0, 0, 0, -one, 0),
        "mirrored": (-one, 0, 0, 0, one, 0),
        "upside down": (one, 0, 0, 0, -one, 0),
        "clockwise, mirrored": (0, one, 0, one, 0, 0),
        "counter, mirrored": (0, -one, 0, -one, 0, 0),
    }
    words = [*matrices[turn], 0, 0, 1 << 30]
    data = bytearray(path.read_bytes())
    start = data.index(b"tkhd") + 4 + 40
    data[start : start + 36] = b"".join(word.to_bytes(4, "big", signed=True) for word in words)
    target.write_bytes(data)
    return target


@pytest.mark.parametrize(
    ("turn", "white", "grey"),
    [
        ("clockwise", (0, 1), (1, 1)),
        ("counter", (1, 0), (0, 0)),
        ("around", (1, 1), (1, 0)),
        ("mirrored", (0, 1), (0, 0)),
        ("upside down", (1, 0), (1, 1)),
        ("clockwise, mirrored", (0, 0), (1, 0)),
        ("counter, mirrored", (1, 1), (0, 1)),
    ],
)
def test_frames_are_upright_as_the_file_says(tmp_path, turn, white, grey):
    """The matrix of ISO 14496-12: x' = ax + cy, y' = bx + dy, y downwards."""
    image = np.zeros((64, 96, 3), dtype=np.uint8)
    image[:32, :48], image[:32, 48:] = 255, 128  # white: top left; grey: top right
    plain = write_video(tmp_path / "plain.mp4", [image] * 3, fps=25)
    path = rotated_copy(plain, tmp_path / "turned.mp4", turn)
    height, width = (96, 64) if turn.startswith(("clock", "counter")) else (64, 96)
    assert (probe(path).width, probe(path).height) == (width, height)
    for n in (0, 2, 1):  # in full, and only what is wanted
        for _, _, image in sample_frames(path, n):
            shown = np.asarray(image).astype(float)
            assert shown.shape == (height, width, 3)
            quarters = shown.reshape(2, height // 2, 2, width // 2, 3).mean(axis=(1, 3, 4))
            order = np.argsort(-quarters, axis=None)
            assert [tuple(np.unravel_index(k, (2, 2))) for k in order[:2]] == [white, grey]


@pytest.mark.parametrize("name", ["phone.heic", "phone.jpg"])
def test_a_heic_picture_is_read_or_says_what_it_needs(tmp_path, monkeypatch, name):
    """FFmpeg would show one tile of it."""
    (tmp_path / name).write_bytes(b"\0\0\0\x18ftypheic" + bytes(60))
    monkeypatch.setattr("utils.faces.media._formats", lambda: ("JPEG", "PNG"))
    with pytest.raises(ValueError, match="is a HEIC picture: pip install pi-heif"):
        next(open_media(str(tmp_path / name), 1))
    with pytest.raises(ValueError, match="is a HEIC picture: pip install pi-heif"):
        read_image(tmp_path / name)


def box(kind, *parts, full=False):
    """A box of ISO 14496-12; a full one begins with version and flags, 0."""
    body = bytes(4 * full) + b"".join(parts)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def hevc(pixels):
    """One picture as (parameter sets by kind, its coded slices with their lengths)."""
    coder = av.CodecContext.create("libx265", "w")
    coder.height, coder.width, coder.pix_fmt = *pixels.shape[:2], "yuv420p"
    coder.time_base = Fraction(1)
    coder.options = {"x265-params": "keyint=1:log-level=none:qp=10"}
    pixels = np.ascontiguousarray(pixels)
    frame = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
    stream = b"".join(bytes(p) for f in (frame, None) for p in coder.encode(f))
    units = [unit.rstrip(b"\0") for unit in stream.split(b"\0\0\1")[1:]]
    kinds = {(unit[0] >> 1) & 63: unit for unit in units}  # 32 to 34: parameters; 39: a message
    return kinds, b"".join(struct.pack(">I", len(u)) + u for u in units if (u[0] >> 1) & 63 < 32)


def write_heic(path, pixels, tile=None, hidden=1):
    """One picture, coded as HEVC, in the file format of ISO 23008-12; phones hide square tiles."""
    height, width = pixels.shape[:2]
    high, wide = (tile, tile) if tile else (height, width)
    corners = [(y, x) for y in range(0, height, high) for x in range(0, width, wide)]
    coded = [hevc(pixels[y : y + high, x : x + wide]) for y, x in corners]
    kinds, items = coded[0][0], [(b"hvc1", slices) for _, slices in coded]
    arrays = [struct.pack(">BHH", 0x80 | k, 1, len(kinds[k])) + kinds[k] for k in (32, 33, 34)]
    facts = bytes([1, 1, 0x60, 0, 0, 0, 0x90, 0, 0, 0, 0, 0, 60])  # Main profile
    facts += bytes([0xF0, 0, 0xFC, 0xFD, 0xF8, 0xF8, 0, 0])
    properties = [
        box(b"hvcC", facts, bytes([0x0F, 3]), *arrays),
        box(b"ispe", struct.pack(">II", wide, high), full=True),
        box(b"ispe", struct.pack(">II", width, height), full=True),
    ]
    uses, refers = [bytes([2, 0x81, 2])] * len(items), b""
    if tile:  # the picture that is shown is made of all others
        grid = bytes([0, 0, height // tile - 1, width // tile - 1])
        items, uses = (
            [*items, (b"grid", grid + struct.pack(">HH", width, height))],
            [*uses, b"\1\3"],
        )
        n = len(coded)
        tiles = struct.pack(f">HH{n}H", n + 1, n, *range(1, n + 1))
        refers = box(b"iref", box(b"dimg", tiles), full=True)
    entries = []
    for number, (kind, _) in enumerate(items, 1):
        version = bytes([2, 0, 0, hidden if number < len(items) else 0])
        entries.append(box(b"infe", version, struct.pack(">HH4s", number, 0, kind), b"\0"))

    def meta(start):
        places = []
        for number, (_, data) in enumerate(items, 1):
            places.append(struct.pack(">HHHII", number, 0, 1, start, len(data)))
            start += len(data)
        ids = [struct.pack(">H", number) + use for number, use in enumerate(uses, 1)]
        count = struct.pack(">H", len(items))
        return box(
            b"meta",
            box(b"hdlr", bytes(4), b"pict", bytes(13), full=True),
            box(b"pitm", count, full=True),  # the last one is shown
            box(b"iloc", struct.pack(">H", 0x4400), count, *places, full=True),
            box(b"iinf", count, *entries, full=True),
            refers,
            box(
                b"iprp",
                box(b"ipco", *properties),
                box(b"ipma", struct.pack(">I", len(items)), *ids, full=True),
            ),
            full=True,
        )

    head = box(b"ftyp", b"heic", bytes(4), b"mif1heic")
    start = len(head) + len(meta(0)) + 8
    path.write_bytes(head + meta(start) + box(b"mdat", *(data for _, data in items)))
    return path


@pytest.mark.parametrize(("tile", "hidden"), [(None, 0), (64, 1), (64, 0)])
@pytest.mark.parametrize("name", ["phone.heic", "phone.jpg"])
def test_a_heic_picture_is_judged_where_pi_heif_is_installed(tmp_path, name, tile, hidden):
    pytest.importorskip("pi_heif")
    pixels = np.zeros((128, 192, 3), np.uint8)
    pixels[:64, :96], pixels[64:, 96:] = (220, 40, 40), 255
    path = str(write_heic(tmp_path / name, pixels, tile, hidden))
    assert media.is_image(path)
    ((_, _, image),) = open_media(path, 0)
    assert np.abs(np.asarray(image).astype(int) - pixels).mean() < 6


@pytest.mark.parametrize("name", ["a.3gp", "a.wmv", "a.MTS", "a.ts", "a.heic", "a.avif"])
def test_what_phones_and_cameras_write_is_found_in_a_folder(tmp_path, name):
    (tmp_path / name).write_bytes(b"x")
    assert collect_inputs([str(tmp_path)]) == [str(tmp_path / name)]


def test_odd_sizes_are_padded_by_the_last_row_and_column(tmp_path):
    image = np.full((45, 63, 3), 60, dtype=np.uint8)
    image[-1] = 200
    path = write_video(tmp_path / "odd.mp4", [image] * 2, fps=10)
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
        ([numbered(0), numbered(1)[:50]], {}, r"frame 1 must be .*90, 160, 3.* not .*50, 160, 3"),
        ([numbered(0)[..., 0]], {}, "frame 0 must be uint8"),
        ([numbered(0) / 255], {}, "float64"),
        ([numbered(0)], {"fps": 0}, "fps"),
    ],
)
def test_wrong_input_is_named_and_leaves_no_file(tmp_path, frames, options, reason):
    with pytest.raises(ValueError, match=reason):
        write_video(tmp_path / "x.mp4", frames, **{"fps": 25, **options})
    assert list(tmp_path.iterdir()) == []


# sound

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
    ("name", "codec"), [("a.m4a", "aac"), ("a.ts", "aac"), ("a.mp3", "mp3"), ("a.ogg", "libopus")]
)
def test_sound_is_kept_as_it_is_and_cut_where_the_frames_end(tmp_path, name, codec):
    if codec not in av.codecs_available:
        pytest.skip("this build of FFmpeg lacks the encoder")
    source = write_tone(tmp_path / name, codec, rate=48_000)
    path = write_video(tmp_path / "clip.mp4", PICTURES, fps=25, sound_from=source)
    (kept, samples, rate), (given, _, _) = sound_of(path), sound_of(source)
    assert kept == given
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


@pytest.mark.parametrize(
    "kind", ["absent", "silent", "text", "empty", "nothing", "unknown", "refused"]
)
def test_without_sound_that_can_be_kept_the_video_is_silent(tmp_path, kind):
    source = tmp_path / "source.mp4"
    if kind == "silent":
        write_video(source, PICTURES, fps=25)
    elif kind == "unknown":  # to MP4 at all
        source = write_tone(tmp_path / "a.wav", "adpcm_ms")
    elif kind == "refused":  # by MP4, once it writes its index
        source = write_tone(tmp_path / "a.wav", "pcm_s16le")
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
