"""One crop, opened: RGB or an error that names it."""

import numpy as np
import pytest
from PIL import Image

from utils.faces.media import load_crop

GREY = (204, 204, 204)  # a colour of the web palette


def test_unreadable_file_is_named(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    for path in (broken, tmp_path / "missing.png"):
        with pytest.raises(ValueError, match=path.name):
            load_crop(str(path))


def test_cut_file_is_not_turned_into_a_half_grey_crop(tmp_path):
    whole, cut = tmp_path / "whole.jpg", tmp_path / "cut.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole)
    cut.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"cut\.jpg"):
        load_crop(str(cut))


def test_image_that_would_fill_the_memory_is_refused_by_name(tmp_path):
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(bomb)
    with pytest.raises(ValueError, match=r"bomb\.png"):
        load_crop(str(bomb))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_crop_of_any_mode_becomes_rgb(tmp_path, mode):
    Image.new("RGB", (4, 4), GREY).convert(mode).save(tmp_path / "crop.png")
    crop = load_crop(str(tmp_path / "crop.png"))
    assert crop.mode == "RGB"
    assert crop.getpixel((1, 1)) == GREY
