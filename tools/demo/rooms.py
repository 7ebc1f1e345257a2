"""The rooms of the demo data set: a wall, its pattern, and furniture that is no face."""

from __future__ import annotations

import cv2
import numpy as np

from tools.demo.actors import Light, muted

WALLS = (
    *((196, 188, 174), (168, 182, 188), (150, 164, 148), (190, 168, 152), (128, 140, 158)),
    *((206, 204, 200), (110, 118, 122), (174, 156, 172), (92, 104, 116), (200, 180, 140)),
)


def draw_room(rng: np.random.Generator, light: Light, width: int, height: int) -> np.ndarray:
    """A wall with furniture, slightly out of focus: uint8 (height, width, 3), RGB.

    Furniture is placed for a picture of 640 by 360 pixels.
    """
    wall = np.array(WALLS[rng.integers(len(WALLS))]) * rng.uniform(0.8, 1.1)
    room: np.ndarray = np.empty((height, width, 3), np.float32)
    room[:] = wall
    pattern = rng.random()
    columns = np.arange(width)
    if pattern < 0.2:  # striped wallpaper
        room *= (1 + 0.05 * np.sign(np.sin(columns / rng.uniform(6, 16))))[None, :, None]
    elif pattern < 0.35:  # bricks
        _draw_bricks(room, wall, rng)
    floor = int(rng.integers(265, 330))
    room[floor:] = wall * rng.uniform(0.4, 0.7) * (1.05, 0.95, 0.85)
    cv2.rectangle(room, (0, floor - 9), (width, floor), tuple(wall * 1.12), -1)
    pieces = [_draw_window, _draw_shelf, _draw_picture, _draw_plant, _draw_lamp, _draw_curtain]
    places = rng.permutation([rng.uniform(20, 120), rng.uniform(240, 330), rng.uniform(460, 540)])
    for number, x in zip(rng.permutation(len(pieces)), places, strict=False):
        pieces[number](room, int(x), floor, rng)
    if rng.random() < 0.4:  # the back of a sofa
        cloth = muted(rng, 60, 180)
        top, left, right = rng.integers((225, -60, 380), (275, 160, 700))
        cv2.rectangle(room, (int(left), int(top)), (int(right), height), tuple(cloth), -1)
        cv2.line(room, (int(left), int(top)), (int(right), int(top)), tuple(cloth * 1.25), 5)
    side = (columns / width - 0.5) * light.direction[0]
    glow = 1 + 0.45 * side[None, :] - 0.2 * (np.arange(height)[:, None] / height - 0.3)
    grain = cv2.resize(rng.standard_normal((45, 80), dtype=np.float32), (width, height))
    room *= (glow + 0.012 * grain)[..., None] * np.array(light.tint)
    room = cv2.GaussianBlur(room, (0, 0), rng.uniform(1.2, 3.2))
    return np.clip(room, 0, 255).astype(np.uint8)


def _draw_bricks(room: np.ndarray, wall: np.ndarray, rng: np.random.Generator) -> None:
    for row, y in enumerate(range(0, room.shape[0], 22)):
        for x in range(-40 * (row % 2) // 2, room.shape[1], 40):
            colour = tuple(wall * rng.uniform(0.82, 0.98))
            cv2.rectangle(room, (x + 2, y + 2), (x + 38, y + 20), colour, -1)


def _draw_window(room: np.ndarray, x: int, floor: int, rng: np.random.Generator) -> None:
    width, height = int(rng.integers(100, 160)), int(rng.integers(120, 170))
    top = int(rng.integers(20, 50))
    sky = np.linspace((205, 222, 240), (238, 238, 225), height)[:, None]
    part = room[top : top + height, max(x, 0) : x + width]
    part[:] = sky[: part.shape[0]]
    for cx in (x, x + width // 2, x + width):
        cv2.line(room, (cx, top), (cx, top + height), (240, 238, 232), 7)
    for cy in (top, top + height // 2, top + height):
        cv2.line(room, (x, cy), (x + width, cy), (240, 238, 232), 7)


def _draw_shelf(room: np.ndarray, x: int, floor: int, rng: np.random.Generator) -> None:
    width, wood = int(rng.integers(110, 170)), np.array((126, 92, 62)) * rng.uniform(0.6, 1.3)
    for top in range(int(rng.integers(40, 70)), floor - 60, 72):
        at = x + 4
        while at < x + width - 14:
            thick, tall = int(rng.integers(7, 16)), int(rng.integers(34, 58))
            book = tuple(muted(rng, 50, 180))
            cv2.rectangle(room, (at, top + 62 - tall), (at + thick - 2, top + 62), book, -1)
            at += thick
        cv2.rectangle(room, (x, top + 62), (x + width, top + 69), tuple(wood), -1)


def _draw_picture(room: np.ndarray, x: int, floor: int, rng: np.random.Generator) -> None:
    width, height, top = (int(v) for v in rng.integers((60, 50, 40), (110, 90, 80)))
    cv2.rectangle(room, (x, top), (x + width, top + height), tuple(muted(rng, 30, 110)), -1)
    cv2.rectangle(room, (x + 5, top + 5), (x + width - 5, top + height - 5), (226, 222, 212), -1)
    hills = np.array([(0, 0.75), (0.3, 0.4), (0.55, 0.65), (0.8, 0.35), (1, 0.7), (1, 1), (0, 1)])
    points = hills * (width - 22, height - 22) + (x + 11, top + 11)
    cv2.fillPoly(room, [points.astype(np.int32)], tuple(muted(rng, 80, 180)))


def _draw_plant(room: np.ndarray, x: int, floor: int, rng: np.random.Generator) -> None:
    foot = (x + 40, floor - 30)
    for _ in range(16):
        angle, length = rng.uniform(-2.9, -0.25), rng.uniform(50, 115)
        middle = foot + 0.55 * length * np.array((np.cos(angle), np.sin(angle)))
        leaf = np.array((70, 116, 62)) * rng.uniform(0.55, 1.25)
        size = (int(0.5 * length), int(rng.integers(6, 13)))
        centre = (int(middle[0]), int(middle[1]))
        cv2.ellipse(room, centre, size, np.degrees(angle), 0, 360, tuple(leaf), -1, cv2.LINE_AA)
    pot = np.array(
        [(x + 15, floor - 40), (x + 65, floor - 40), (x + 57, floor + 12), (x + 23, floor + 12)]
    )
    cv2.fillPoly(room, [pot.astype(np.int32)], (176, 104, 72))


def _draw_lamp(room: np.ndarray, x: int, floor: int, rng: np.random.Generator) -> None:
    top = int(rng.integers(60, 110))
    cv2.line(room, (x + 40, top + 50), (x + 40, floor + 10), (66, 60, 58), 4)
    y, x_all = np.mgrid[: room.shape[0], : room.shape[1]]
    halo = np.exp(-((x_all - x - 40) ** 2 + (y - top - 25) ** 2) / 9000)
    room += (70 * halo[..., None] * (1.0, 0.9, 0.65)).astype(np.float32)
    shade = np.array([(x + 20, top), (x + 60, top), (x + 78, top + 55), (x + 2, top + 55)])
    cv2.fillPoly(room, [shade.astype(np.int32)], (252, 236, 196))


def _draw_curtain(room: np.ndarray, x: int, floor: int, rng: np.random.Generator) -> None:
    width = int(rng.integers(80, 140))
    cloth, part = muted(rng, 90, 200), room[:floor, x : x + width]
    folds = 1 + 0.2 * np.sin(
        np.arange(part.shape[1]) / rng.uniform(3, 6) + np.sin(np.arange(part.shape[1]) / 19)
    )
    part[:] = folds[None, :, None] * cloth
