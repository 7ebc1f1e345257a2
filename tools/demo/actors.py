"""The people of the demo data set: what sets them apart, the light on them, and their poses.

Proportions are in head units: the eyes are at y = 0, the crown near y = -1 and the chin at y = +1
(y points down). One unit is `UNIT` pixels of the canvas that `tools.demo.faces` draws on.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import cv2
import numpy as np

#: Canvas pixels a head unit (half the height of a head), and the half extents of the canvas.
UNIT = 116
HALF_WIDTH, HALF_HEIGHT = 1.15, 1.4
#: Skin from light to deep, as RGB under white light.
SKIN = (
    (244, 208, 184),
    (232, 188, 156),
    (208, 160, 124),
    (176, 126, 92),
    (134, 92, 64),
    (98, 66, 48),
)
HAIR = ((36, 28, 26), (66, 44, 32), (112, 74, 44), (176, 134, 82), (150, 70, 38), (160, 156, 152))
IRIS = ((70, 44, 26), (96, 66, 38), (88, 106, 70), (78, 112, 140), (110, 122, 128))
STYLES = ("shaved", "short", "parted", "long", "bob", "curly", "bun")


@cache
def grid() -> tuple[np.ndarray, np.ndarray]:
    """Coordinates of the canvas in head units."""
    width, height = round(2 * HALF_WIDTH * UNIT), round(2 * HALF_HEIGHT * UNIT)
    x = (np.arange(width, dtype=np.float32) - width / 2) / UNIT
    y = (np.arange(height, dtype=np.float32) - height / 2) / UNIT
    x, y = np.meshgrid(x, y)
    return x, y


def muted(rng: np.random.Generator, low: float, high: float) -> np.ndarray:
    """A colour of low saturation, RGB (3,), around a grey between `low` and `high`."""
    return rng.uniform(low, high) * rng.uniform(0.72, 1.18, 3)


@dataclass(frozen=True)
class Light:
    """Direction towards the light (x right, y down, z to the viewer), ambient share and tint."""

    direction: tuple[float, float, float]
    ambient: float
    tint: tuple[float, float, float]


@dataclass(frozen=True)
class Pose:
    """Where a head is in a frame and what it does, at one moment.

    `x`, `y` (the point between the eyes) in pixels, `scale` in frame pixels a canvas pixel,
    `angle` in degrees, `yaw` and `pitch` in head units, `blink` and `mouth` from 0 to 1 (shut eyes,
    open mouth).
    """

    x: float
    y: float
    scale: float
    angle: float
    yaw: float
    pitch: float
    blink: float
    mouth: float

    def matrix(self) -> np.ndarray:
        """Affine map (2, 3) from canvas to frame pixels."""
        centre = (HALF_WIDTH * UNIT, HALF_HEIGHT * UNIT)
        matrix = cv2.getRotationMatrix2D(centre, self.angle, self.scale)
        matrix[:, 2] += np.array((self.x - centre[0], self.y - centre[1]))
        return matrix


@dataclass(frozen=True)
class Actor:
    """What makes one drawn person: colours (RGB), proportions in head units, hair and extras."""

    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    lips: np.ndarray
    shirt: np.ndarray
    style: str
    width: float
    jaw: float
    eye_x: float
    eye_size: float
    eye_open: float
    brow_y: float
    brow_thick: float
    brow_arch: float
    nose_y: float
    nose_width: float
    mouth_y: float
    mouth_width: float
    lip_full: float
    hairline: float
    turn: float
    age: float
    beard: float
    glasses: bool
    texture_seed: int


def sample_actor(rng: np.random.Generator, like: Actor | None = None) -> Actor:
    """Draw a person by chance.

    Args:
        rng: source of chance; the same state gives the same person.
        like: a person whose skin is near, and whose turn, glasses and beard (with the colour of
            hair) are the same: who lends a face to a swap looks roughly like who gets it.
    """
    tone = rng.uniform(0, len(SKIN) - 1)
    skin = np.array([np.interp(tone, range(len(SKIN)), c) for c in np.transpose(SKIN)])
    if like is not None:
        skin = 0.75 * like.skin + 0.25 * skin
    style = str(rng.choice(STYLES, p=[0.1, 0.22, 0.18, 0.18, 0.12, 0.12, 0.08]))
    share = np.array([0.3, 0.24, 0.17, 0.12, 0.07, 0.1]) * (1, 1, 1, *(3 * [float(tone < 3)]))
    hair = np.array(HAIR[rng.choice(len(HAIR), p=share / share.sum())])
    beard = float(rng.uniform(0.25, 0.95)) if rng.random() < 0.45 else 0.0
    if style in ("long", "bob", "bun"):
        beard = 0.0
    glasses, turn = bool(rng.random() < 0.2), float(rng.uniform(-0.26, 0.26))
    return Actor(
        skin=skin * rng.uniform(0.96, 1.04, 3),
        hair=like.hair if like and like.beard else hair * rng.uniform(0.8, 1.15),
        iris=np.array(IRIS[rng.integers(len(IRIS))]) * rng.uniform(0.9, 1.15),
        lips=skin * (rng.uniform(0.8, 0.92), rng.uniform(0.5, 0.68), rng.uniform(0.55, 0.72)),
        shirt=muted(rng, 45, 210),
        style=style,
        width=rng.uniform(0.66, 0.78),
        jaw=rng.uniform(2.1, 3.4),
        eye_x=rng.uniform(0.28, 0.335),
        eye_size=rng.uniform(0.125, 0.155),
        eye_open=rng.uniform(0.42, 0.6),
        brow_y=rng.uniform(-0.25, -0.19),
        brow_thick=rng.uniform(0.02, 0.042),
        brow_arch=rng.uniform(0.015, 0.05),
        nose_y=rng.uniform(0.33, 0.42),
        nose_width=rng.uniform(0.085, 0.13),
        mouth_y=rng.uniform(0.6, 0.67),
        mouth_width=rng.uniform(0.2, 0.28),
        lip_full=rng.uniform(0.042, 0.075),
        hairline=rng.uniform(-0.68, -0.52),
        turn=like.turn if like else turn,
        age=rng.uniform(0, 1),
        beard=like.beard if like else beard,
        glasses=like.glasses if like else glasses,
        texture_seed=int(rng.integers(2**31)),
    )
