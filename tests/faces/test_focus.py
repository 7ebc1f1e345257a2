"""How sharp a face is."""

import numpy as np
import pytest
from PIL import Image, ImageFilter

from utils.faces.detection import focus


def test_focus_falls_with_blur_and_not_with_light():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 20, 3), dtype=np.uint8)
    sharp = Image.fromarray(pixels).resize((160, 160))
    values = [focus(sharp.filter(ImageFilter.GaussianBlur(s))) for s in (0, 3, 6, 9)]
    assert values == sorted(values, reverse=True) and values[0] > 2 * values[-1]
    dark = sharp.point(lambda level: level * 0.4)
    assert focus(dark) == pytest.approx(focus(sharp), rel=0.02)
    assert focus(Image.new("RGB", (160, 160))) == 0
