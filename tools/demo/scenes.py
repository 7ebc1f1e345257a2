"""The scenes of the demo data set: a room, who is in it, the camera, and how all of it moves."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from tools.demo.actors import UNIT, Actor, Light, Pose, sample_actor
from tools.demo.faces import Head
from tools.demo.rooms import draw_room

#: Frame size in pixels and frames a second. Halved for the detector, a face is 60 to 90 px tall.
WIDTH, HEIGHT, FPS = 640, 360, 12
#: Frames of a video, lowest and highest; a fake has as many as its original.
N_FRAMES = (12, 15)
#: Standard deviation of the camera's noise (levels of 255) and its blur (pixels).
NOISE_SIGMA, SOFTNESS = (2.0, 5.0), (0.3, 0.8)


@dataclass(frozen=True)
class Person:
    """Somebody in a scene: head, neck and clothes (RGBA), where those lie, and a pose a frame."""

    head: Head
    body: np.ndarray
    corner: tuple[int, int]
    track: list[Pose]


@dataclass(frozen=True)
class Scene:
    """All that an original and its fakes have in common.

    `room` is (HEIGHT, WIDTH, 3) uint8; `noise_seed` gives the camera's noise.
    """

    room: np.ndarray
    people: list[Person]
    light: Light
    n_frames: int
    softness: float
    noise_sigma: float
    noise_seed: int

    def frame(self, t: int) -> np.ndarray:
        """What the lens sees at frame t, without noise: (HEIGHT, WIDTH, 3) uint8."""
        frame = self.room.copy()
        for person in self.people:
            pose, first, (x, y) = person.track[t], person.track[0], person.corner
            sway = 0.5 * (pose.x - first.x), 0.5 * (pose.y - first.y)
            paste(frame, person.body, np.array([[1, 0, x + sway[0]], [0, 1, y + sway[1]]]))
            paste(frame, person.head.draw(pose), pose.matrix())
        return self.soften(frame)

    def soften(self, image: np.ndarray) -> np.ndarray:
        """Blur by the lens."""
        return cv2.GaussianBlur(image, (0, 0), self.softness)

    def noise(self) -> list[np.ndarray]:
        """The camera's noise, one int16 (HEIGHT, WIDTH, 3) a frame; the same on every call."""
        rng = np.random.default_rng(self.noise_seed)
        # Windows at chance places of one large field cost far less than a new field a frame.
        bank = rng.standard_normal((HEIGHT + 64, WIDTH + 64, 3), dtype=np.float32)
        bank = cv2.GaussianBlur(bank, (0, 0), 0.6) + 0.6 * bank[..., :1]
        bank = np.rint(bank * (self.noise_sigma / bank.std())).astype(np.int16)
        corners = rng.integers(0, 65, (self.n_frames, 2))
        return [bank[y : y + HEIGHT, x : x + WIDTH] for y, x in corners]


def paste(frame: np.ndarray, rgba: np.ndarray, matrix: np.ndarray) -> None:
    """Lay a picture over a frame, in place.

    Args:
        frame: uint8 (H, W, 3).
        rgba: uint8 (h, w, 4), colours multiplied by alpha.
        matrix: affine map (2, 3) from the picture's to the frame's pixels.
    """
    window = footprint(rgba.shape[:2], matrix, frame.shape[:2])
    layer = warp(rgba, matrix, window)
    see_through = cv2.cvtColor(255 - layer[..., 3], cv2.COLOR_GRAY2RGB)
    kept = cv2.multiply(frame[window], see_through, scale=1 / 255)
    frame[window] = cv2.add(kept, np.ascontiguousarray(layer[..., :3]))


def footprint(
    size: tuple[int, ...], matrix: np.ndarray, limits: tuple[int, ...]
) -> tuple[slice, slice]:
    """Rows and columns that a picture of `size` covers in a frame of size `limits`."""
    h, w = size
    corners = matrix @ np.array([[0, w, 0, w], [0, 0, h, h], [1, 1, 1, 1]])
    x0, y0 = np.floor(corners.min(axis=1)).astype(int)
    x1, y1 = np.ceil(corners.max(axis=1)).astype(int)
    return slice(max(y0, 0), min(y1, limits[0])), slice(max(x0, 0), min(x1, limits[1]))


def warp(picture: np.ndarray, matrix: np.ndarray, window: tuple[slice, slice]) -> np.ndarray:
    """Map a picture by an affine matrix and return the part of the frame in `window`."""
    rows, columns = window
    shifted = matrix.copy()
    shifted[:, 2] -= columns.start, rows.start
    return cv2.warpAffine(picture, shifted, (columns.stop - columns.start, rows.stop - rows.start))


def sample_scene(rng: np.random.Generator, *, n_people: int) -> Scene:
    """Draw a scene by chance: `n_people` from 0 (an empty room) to 2."""
    warm = rng.uniform(-0.06, 0.06)
    light = Light(
        direction=(rng.uniform(-0.8, 0.8), rng.uniform(-0.7, -0.1), 0.9),
        ambient=rng.uniform(0.42, 0.6),
        tint=(1 + warm, 1.0, 1 - warm),
    )
    room = draw_room(rng, light, WIDTH, HEIGHT)
    n_frames = int(rng.integers(N_FRAMES[0], N_FRAMES[1] + 1))
    people = []
    for k in range(n_people):
        actor = sample_actor(rng)
        scale = rng.uniform(0.74, 1.0) if n_people == 1 else rng.uniform(0.68, 0.78)
        x = rng.uniform(240, 400) if n_people == 1 else 175 + 290 * k + rng.uniform(-25, 25)
        y = 1.3 * UNIT * scale + rng.uniform(6, 24)
        track = _sample_track(rng, n_frames, x, y, scale)
        body, corner = _draw_body(rng, actor, light, x, y, scale)
        people.append(Person(Head(actor, light), body, corner, track))
    return Scene(
        room=room,
        people=people,
        light=light,
        n_frames=n_frames,
        softness=rng.uniform(*SOFTNESS),
        noise_sigma=rng.uniform(*NOISE_SIGMA),
        noise_seed=int(rng.integers(2**31)),
    )


def sample_speech(rng: np.random.Generator, n_frames: int) -> tuple[np.ndarray, np.ndarray]:
    """What a face does over time: blink and mouth, each (n_frames,) from 0 to 1."""
    t = np.arange(n_frames)
    blink = np.zeros(n_frames)
    for centre in np.cumsum(rng.uniform(8, 40, 3)) - 6:
        blink = np.maximum(blink, np.clip(1.25 - np.abs(t - centre) / 2, 0, 1))
    talk = np.clip(_wave(rng, n_frames, 0.7, 3.2) + _wave(rng, n_frames, 0.5, 1.1), 0, 1)
    return blink, talk * rng.choice([0.05, 0.6, 1.0], p=[0.25, 0.35, 0.4])


def _wave(rng: np.random.Generator, n_frames: int, amplitude: float, rate: float) -> np.ndarray:
    """A smooth movement around 0 with about `rate` swings a second."""
    t = np.arange(n_frames)[:, None] / FPS
    swings = np.sin(2 * np.pi * (t * rate * rng.uniform(0.6, 1.4, 3) + rng.uniform(0, 1, 3)))
    return amplitude * (swings * (0.5, 0.3, 0.2)).sum(axis=1)


def _sample_track(
    rng: np.random.Generator, n_frames: int, x: float, y: float, scale: float
) -> list[Pose]:
    liveliness = rng.uniform(0.4, 1.2)
    blink, mouth = sample_speech(rng, n_frames)
    columns = (
        x + _wave(rng, n_frames, 14 * liveliness, 0.5),
        y + _wave(rng, n_frames, 6 * liveliness, 0.6),
        scale * (1 + _wave(rng, n_frames, 0.03 * liveliness, 0.3)),
        rng.uniform(-5, 5) + _wave(rng, n_frames, 5 * liveliness, 0.4),
        _wave(rng, n_frames, 0.09 * liveliness, 0.5),
        _wave(rng, n_frames, 0.05 * liveliness, 0.6),
        blink,
        mouth,
    )
    return [Pose(*map(float, values)) for values in zip(*columns, strict=True)]


def _draw_body(
    rng: np.random.Generator, actor: Actor, light: Light, x: float, y: float, scale: float
) -> tuple[np.ndarray, tuple[int, int]]:
    """Neck and clothes as RGBA, longer below by what swaying may uncover, and their corner."""
    left, top = int(x - 1.75 * UNIT * scale), int(y + 0.35 * UNIT * scale)
    size = slice(top, HEIGHT + 30), slice(left, int(2 * x) - left)
    rows, columns = np.mgrid[size].astype(np.float32)
    unit = UNIT * scale
    u, v = (columns - x) / unit, (rows - y) / unit
    broad = rng.uniform(1.3, 1.65)
    round_light = 0.35 * np.clip(1 - (u / 1.9) ** 2, 0, 1) + 0.14 * u * light.direction[0]
    folds = rng.standard_normal(u.shape, dtype=np.float32)
    folds = cv2.GaussianBlur(folds, (0, 0), sigmaX=9, sigmaY=26)
    cloth = light.ambient + round_light + 0.07 * folds / folds.std()
    if rng.random() < 0.3:  # a striped shirt
        cloth = cloth * (1 + 0.12 * np.tanh(4 * np.sin(v * rng.uniform(18, 30))))
    picture = cloth[..., None] * actor.shirt * light.tint
    shoulders = np.minimum(
        v - 1.16 - 0.22 * np.clip(np.abs(u) - 0.2, 0, 9) ** 1.6, broad - np.abs(u)
    )
    shoulders -= 0.3 * np.clip(np.abs(u) - broad + 0.35, 0, 1) ** 2 / 0.35
    neck_width = 0.36 + 0.35 * np.clip(v - 1.0, 0, 1) ** 2
    depth = 0.16 if rng.random() < 0.6 else 0.42  # round collar or V
    collar = 1.16 + depth - (0.8 if depth > 0.2 else 0.35) * np.abs(u)
    neck = np.minimum(np.minimum(neck_width - np.abs(u), v - 0.4), collar - v)
    shade = light.ambient + 0.3 * np.clip(v - 0.95, -0.6, 0.45) + 0.4 * (1 - (u / 0.55) ** 2) * 0.5
    skin = (
        np.clip(shade + 0.25 * u * light.direction[0], 0.2, 1)[..., None] * actor.skin * light.tint
    )
    body_alpha, neck_alpha = (np.clip(d * unit / 1.5 + 0.5, 0, 1) for d in (shoulders, neck))
    picture *= (
        1 - 0.35 * np.exp(-(((v - collar) / 0.03) ** 2))[..., None] * (np.abs(u) < 0.5)[..., None]
    )
    picture += (skin - picture) * neck_alpha[..., None]
    alpha = np.maximum(body_alpha, neck_alpha)[..., None]
    rgba = np.dstack([np.clip(picture, 0, 255) * alpha, 255 * alpha]).astype(np.uint8)
    return rgba, (left, top)
