"""Draw the heads of the demo data set: soft-shaded, they blink, talk and turn.

A field of heights (skull, nose, sockets, cheeks, lips) is lit from the light of the scene; hair,
brows, eyes and mouth are laid over it. Units and canvas: `tools.demo.actors`.
"""

from __future__ import annotations

import cv2
import numpy as np

from tools.demo.actors import HALF_HEIGHT, HALF_WIDTH, UNIT, Actor, Light, Pose, grid

#: Steps in which eyelids and lips move; a step is drawn once and then kept.
STEPS = 8


def cover(inside: np.ndarray, soft: float = 1.2) -> np.ndarray:
    """Coverage 0 to 1 from a distance in head units, positive inside, with an edge of `soft` px."""
    return np.clip(inside * (UNIT / soft) + 0.5, 0, 1)


def _bump(x: np.ndarray, y: np.ndarray, cx: float, cy: float, sx: float, sy: float) -> np.ndarray:
    return np.exp(-(((x - cx) / sx) ** 2) - ((y - cy) / sy) ** 2)


def _lay(picture: np.ndarray, colour: np.ndarray, alpha: np.ndarray) -> None:
    """Lay a colour (3,) or picture (H, W, 3) over a picture, in place."""
    picture += (colour - picture) * alpha[..., None]


def smooth_noise(rng: np.random.Generator, sx: float, sy: float) -> np.ndarray:
    """Smooth noise over the canvas, unit variance; `sx`, `sy`: blur in pixels."""
    noise: np.ndarray = rng.standard_normal(grid()[0].shape, dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), sigmaX=sx, sigmaY=sy)
    return noise / noise.std()


class Head:
    """One actor's head under one light, ready to be drawn in any pose."""

    def __init__(self, actor: Actor, light: Light) -> None:
        self.actor, self.light = actor, light
        self._patches: dict[tuple[str, int], tuple[tuple[slice, slice], np.ndarray]] = {}
        self._draw_still()

    def _half_width(self, y: np.ndarray) -> np.ndarray:
        """Half width of the bare head at height y; 0 above the crown and below the chin."""
        power = np.where(y < 0, 2.3, self.actor.jaw)
        return self.actor.width * np.sqrt(1 - np.minimum(np.abs(y), 1) ** power)

    def _heights(self, fx: np.ndarray) -> np.ndarray:
        """Height of the face towards the viewer, in head units; `fx` is x turned with the head."""
        a, (x, y) = self.actor, grid()
        half = np.maximum(self._half_width(y), 1e-3)
        skull = 0.75 * np.sqrt(np.clip(1 - (x / half) ** 2, 0, 1) * np.clip(1.02 - y**2, 0, 1))
        along = np.clip((y + 0.16) / (a.nose_y + 0.16), 0, 1)
        below = np.clip((y - a.nose_y) / 0.07, 0, 1)
        root = np.clip((y + 0.34) / 0.3, 0, 1) ** 2
        bridge = (0.035 + 0.12 * along**1.3) * root * np.cos(0.5 * np.pi * below) ** 2
        height = skull + bridge * np.exp(-((fx / (0.07 + 0.5 * a.nose_width * along)) ** 2))
        side = np.abs(fx)
        height += 0.045 * _bump(side, y, a.nose_width, a.nose_y - 0.01, 0.045, 0.05)
        height -= 0.085 * _bump(side, y, a.eye_x - 0.03, -0.02, 0.15, 0.1)
        height += 0.03 * _bump(side, y, a.eye_x, a.brow_y + 0.02, 0.2, 0.07)
        height += 0.045 * _bump(side, y, 0.42, 0.24, 0.17, 0.15)
        height += 0.04 * _bump(fx, y, 0, a.mouth_y, 0.2, 0.09) + 0.05 * _bump(
            fx, y, 0, 0.87, 0.16, 0.1
        )
        height -= 0.025 * _bump(fx, y, 0, a.mouth_y + 0.14, 0.16, 0.04)
        fold = side - (a.nose_width + 0.06 + 0.4 * (y - a.nose_y))  # from the nose to the mouth
        crease = np.exp(-((fold / 0.03) ** 2)) * _bump(side, y, 0.22, 0.48, 0.2, 0.1)
        return height - (0.008 + 0.022 * a.age) * crease

    def _draw_still(self) -> None:
        """Draw all that does not move: skin, ears, hair, beard, brows."""
        a, (x, y) = self.actor, grid()
        rng = np.random.default_rng(a.texture_seed)
        turned = np.arcsin(np.clip(x / (1.02 * a.width), -1, 1)) - a.turn
        fx = 1.02 * a.width * np.sin(np.clip(turned, -np.pi / 2, np.pi / 2))
        self.turned_x, side = fx, np.abs(fx)
        height = cv2.GaussianBlur(self._heights(fx), (0, 0), 2.2)
        self._depth = cv2.GaussianBlur(height, (0, 0), 6)
        dy, dx = np.gradient(height * UNIT)
        direction = np.array(self.light.direction) / np.linalg.norm(self.light.direction)
        normal_z = 1 / np.sqrt(dx**2 + dy**2 + 1)
        lit = (-dx * direction[0] - dy * direction[1] + direction[2]) * normal_z
        shade = self.light.ambient + (1.05 - self.light.ambient) * np.clip(0.25 + 0.75 * lit, 0, 1)
        gloss = 255 * 0.13 * np.clip(lit, 0, 1) ** 14
        self._shade = (shade[..., None] * self.light.tint).astype(np.float32)

        # Skin: red cheeks and nose, mottling, and the blue of a shaved beard.
        coarse, fine = smooth_noise(rng, 14, 14), smooth_noise(rng, 1.1, 1.1)
        skin: np.ndarray = np.broadcast_to(a.skin, (*x.shape, 3)).astype(np.float32)
        red = 0.5 * _bump(side, y, 0.4, 0.3, 0.2, 0.16) + 0.4 * _bump(fx, y, 0, a.nose_y, 0.13, 0.1)
        skin = skin * (1 - red[..., None] * np.array((0.0, 0.17, 0.15), np.float32))
        skin *= (1 + 0.02 * coarse + 0.009 * fine)[..., None]
        jaw_line = 0.26 + 0.5 * np.clip(1 - (side / (0.95 * a.width)) ** 2, 0, 1) - y
        around_mouth = 0.11 - np.abs(np.hypot(fx / 1.25, (y - a.mouth_y) / 0.95) - 0.2)
        beard = np.maximum(cover(-jaw_line, 14), 0.9 * cover(around_mouth, 14))
        beard *= a.beard * (0.82 + 0.12 * fine) * cover(y - a.nose_y - 0.04, 12)
        _lay(skin, a.hair * 0.75, np.clip(beard, 0, 1))
        skin = skin * self._shade + (gloss * (1 - 0.7 * np.clip(beard, 0, 1)))[..., None]

        outline = self._half_width(y) - np.abs(x)
        hair = self._hair_colour(rng, fine)
        back, front = self._haircover(x, y, side, smooth_noise(rng, 5, 5))
        # Colours reach beyond the edges: coverage is applied once, at the end.
        picture = np.where(back[..., None] > 0, hair * 0.72, skin)
        ear = 1 - np.hypot((np.abs(x) - a.width - 0.01) / 0.085, (y - 0.1) / 0.19)
        inner = 1 - np.hypot((np.abs(x) - a.width - 0.02) / 0.04, (y - 0.09) / 0.12)
        ear_skin = a.skin * (0.96, 0.84, 0.82) * self.light.ambient * self.light.tint * 1.25
        ear_alpha = cover(0.12 * ear) * (a.style not in ("long", "bob"))
        _lay(picture, ear_skin, ear_alpha)
        _lay(picture, ear_skin * 0.7, ear_alpha * cover(0.06 * inner, 4))
        face = cover(np.minimum(outline, 1 - np.abs(y)))
        _lay(picture, skin, face)
        self._draw_brows(picture, fx, y, fine)
        _lay(picture, hair, front)
        alpha = 1 - (1 - back) * (1 - ear_alpha) * (1 - face) * (1 - front)
        self._still = picture
        self._alpha = cv2.GaussianBlur(alpha.astype(np.float32), (0, 0), 0.8)
        self._rgba = self._to_rgba(picture, self._alpha)

    def _hair_colour(self, rng: np.random.Generator, fine: np.ndarray) -> np.ndarray:
        a, (x, y) = self.actor, grid()
        curly = a.style == "curly"
        strands = smooth_noise(rng, 3, 3) if curly else smooth_noise(rng, 1.2, 22)
        top_light = np.clip(
            0.75 - 0.4 * y - 0.5 * x * -self.light.direction[0] - 0.5 * x**2, 0.35, 1.5
        )
        glow = 0.35 * _bump(x, y, 0.3 * self.light.direction[0], -0.78, 0.5, 0.1)
        value = (self.light.ambient + 0.25) * top_light + glow
        value = value * (1 + (0.2 if curly else 0.13) * strands + 0.05 * fine)
        return (value[..., None] * a.hair * self.light.tint).astype(np.float32)

    def _haircover(
        self, x: np.ndarray, y: np.ndarray, side: np.ndarray, lumps: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Coverage of the hair behind the head and of the hair over the forehead."""
        a = self.actor
        if a.style == "shaved":
            scalp = np.minimum(
                a.hairline - 0.05 + 0.4 * side**3 - y, self._half_width(y) - np.abs(x)
            )
            return np.zeros_like(x), 0.14 * cover(scalp, 25)
        volume = {"short": 0.06, "bun": 0.04, "curly": 0.17}.get(a.style, 0.1)
        grown = (1 + volume) * self._half_width(y / (1 + volume)) - np.abs(x)
        grown = np.minimum(grown, y + 1 + volume) + (0.035 if a.style == "curly" else 0.006) * lumps
        low = {"long": 1.3, "bob": 0.72, "curly": 0.2}.get(a.style, 0.05)
        falling = a.width * (1.1 + 0.08 * np.sin(4 * y + a.age)) - np.abs(x) + 0.02 * lumps
        if a.style in ("long", "bob"):  # falls beside the neck, over the shoulders
            falling = np.minimum(falling, np.maximum(np.abs(x) - 0.4 + 0.03 * lumps, 0.8 - y))
            grown = np.where(y > -0.3, falling, grown)
        back = cover(np.minimum(grown, low - y + 0.03 * lumps), 3)
        if a.style == "bun":
            back = np.maximum(back, cover(0.2 - np.hypot(x, y + 1.08) + 0.004 * lumps, 3))
        temple = 0.5 * (side / a.width) ** 4
        line = a.hairline + temple + 0.018 * lumps
        if a.style == "parted":
            line = line + 0.16 * np.tanh(4 * (x - 0.25)) - 0.06
        if a.style in ("long", "bob"):
            line = line + 0.25 * (side / a.width) ** 6
        front = cover(np.minimum(grown, line - y), 5)
        return back, front

    def _draw_brows(
        self, picture: np.ndarray, fx: np.ndarray, y: np.ndarray, fine: np.ndarray
    ) -> None:
        a = self.actor
        across = (np.abs(fx) - a.eye_x - 0.01) / 0.17
        middle = a.brow_y + a.brow_arch * ((across - 0.1) ** 2 - 0.3)
        thick = a.brow_thick * np.clip(1.05 - 0.5 * (across + 0.4) ** 2, 0, 1)
        alpha = cover(thick - np.abs(y - middle), 4) * cover(0.17 * (1 - np.abs(across)), 6)
        _lay(
            picture,
            np.minimum(a.hair * 0.6, a.skin * 0.5) * self._shade,
            np.clip(alpha * (0.8 + 0.15 * fine), 0, 1),
        )

    def _eyes(self, blink: float) -> tuple[tuple[slice, slice], np.ndarray]:
        """The picture around the eyes with lids `blink` shut, and where it belongs."""
        a = self.actor
        where = _window(-a.width * 0.98, a.width * 0.98, -0.2, 0.2)
        picture, fx, y = self._still[where].copy(), self.turned_x[where], grid()[1][where]
        shade = self._shade[where]
        opening = a.eye_open * (1 - blink) * a.eye_size
        for centre in (-a.eye_x, a.eye_x):
            u = (fx - centre) / a.eye_size
            bow = np.clip(1 - u**2, 0, None)
            tilt = -0.02 * np.sign(centre) * u
            upper, lower = tilt - opening * bow**0.7, tilt + 0.55 * opening * bow + 0.012 * blink
            inside = np.minimum(y - upper, lower - y)
            within = np.abs(u) < 1
            eye = cover(inside) * within
            _lay(
                picture,
                a.skin * 0.72 * shade,
                0.5 * np.exp(-(((y - upper + 0.045) / 0.018) ** 2)) * within,
            )
            white = np.array((226, 220, 214)) * np.clip(0.62 + 6 * (y - upper), 0.5, 1)[..., None]
            _lay(picture, white * shade, eye)
            away = np.hypot(fx - centre, y - tilt - 0.006)
            iris = a.iris * (0.75 + 4 * np.clip(away - 0.03, 0, 0.08))[..., None]
            _lay(picture, iris * shade * 1.1, eye * cover(0.068 - away))
            _lay(picture, np.array((14, 12, 12)), eye * cover(0.031 - away))
            spark = np.hypot(fx - centre - 0.025 * self.light.direction[0], y + 0.022)
            _lay(picture, np.array((250, 250, 250)), 0.9 * eye * cover(0.013 - spark, 1.6))
            lash = np.exp(-(((y - upper) / 0.013) ** 2)) * within
            _lay(picture, np.array((34, 24, 22)), np.clip(0.95 * lash, 0, 1))
            rim = np.exp(-(((y - lower) / 0.01) ** 2)) * within * (1 - blink)
            _lay(picture, a.skin * 0.5 * shade, 0.45 * rim)
        if a.glasses:
            lens = np.maximum(np.abs(np.abs(fx) - a.eye_x) / 0.215, np.abs(y - 0.03) / 0.145)
            ring = np.hypot(np.abs(np.abs(fx) - a.eye_x) / 0.215, np.abs(y - 0.03) / 0.145)
            shape = 0.6 * lens + 0.4 * ring
            bridge = (np.abs(fx) < a.eye_x - 0.2) * np.exp(-(((y + 0.03) / 0.014) ** 2))
            arms = (np.abs(fx) > a.eye_x + 0.2) * np.exp(-(((y + 0.02) / 0.014) ** 2))
            frame = np.maximum(np.exp(-(((shape - 1) / 0.075) ** 2)), np.maximum(bridge, arms))
            _lay(picture, np.array((205, 215, 225)), 0.1 * cover(0.15 * (1 - shape)))
            _lay(picture, np.array((30, 27, 30)), 0.92 * np.clip(frame, 0, 1))
        return where, picture

    def _mouth(self, opening: float) -> tuple[tuple[slice, slice], np.ndarray]:
        """The picture around the mouth, open from 0 to 1, and where it belongs."""
        a = self.actor
        where = _window(-0.48, 0.48, a.mouth_y - 0.16, a.mouth_y + 0.24)
        picture, fx, y = self._still[where].copy(), self.turned_x[where], grid()[1][where]
        shade = self._shade[where]
        y = y - a.mouth_y
        u = fx / (a.mouth_width * (1 - 0.12 * opening))
        bow = np.clip(1 - u**2, 0, None)
        drop = 0.11 * opening * bow
        curve = -0.02 * (u**2 - 0.4) * (0.5 + a.age)
        upper, lower = curve - 0.015 * opening * bow, curve + drop
        cupid = 1 + 0.22 * np.cos(np.clip(u, -0.5, 0.5) * 4 * np.pi) * -1
        top = upper - 0.85 * a.lip_full * bow**0.8 * cupid
        bottom = lower + 1.15 * a.lip_full * bow**0.6
        within = np.abs(u) < 1
        lips = cover(np.minimum(y - top, bottom - y), 2.2) * within
        sheen = (
            1
            + 0.25 * np.exp(-(((y - lower - 0.5 * a.lip_full) / 0.02) ** 2)) * bow
            - 0.12 * (y < upper)
        )
        _lay(picture, a.lips * shade * sheen[..., None], 0.88 * lips)
        hollow = cover(np.minimum(y - upper, lower - y), 1.8) * within
        _lay(picture, np.array((52, 20, 22)), hollow)
        teeth = np.minimum(np.minimum(y - upper, lower - y), upper + 0.045 - y)
        _lay(
            picture,
            np.array((224, 216, 206)) * shade,
            cover(teeth, 2) * within * (np.abs(u) < 0.8),
        )
        line = np.exp(-(((y - upper) / 0.009) ** 2)) * within
        _lay(picture, a.lips * 0.42, 0.8 * line)
        shadow = np.exp(-(((y - bottom - 0.025) / 0.022) ** 2)) * bow
        _lay(picture, a.skin * 0.6 * shade, 0.3 * shadow * within)
        return where, picture

    @staticmethod
    def _to_rgba(picture: np.ndarray, alpha: np.ndarray) -> np.ndarray:
        colour = np.clip(picture, 0, 255) * alpha[..., None]
        return np.dstack([colour, 255 * alpha]).astype(np.uint8)

    def draw(self, pose: Pose) -> np.ndarray:
        """Draw the head on its canvas.

        Returns:
            uint8 RGBA (H, W, 4), colours multiplied by alpha; `pose.matrix()` takes it to a frame.
        """
        rgba = self._rgba.copy()
        for part, level in (("_eyes", pose.blink), ("_mouth", pose.mouth)):
            key = part, round(level * STEPS)
            if key not in self._patches:
                where, patch = getattr(self, part)(key[1] / STEPS)
                self._patches[key] = where, self._to_rgba(patch, self._alpha[where])
            where, patch = self._patches[key]
            rgba[where] = patch
        rows, columns = np.indices(self._alpha.shape, dtype=np.float32)
        # What is nearer to the viewer moves further when the head turns.
        columns -= (pose.yaw * UNIT) * self._depth
        rows -= (pose.pitch * UNIT) * self._depth
        return cv2.remap(rgba, columns, rows, cv2.INTER_LINEAR)


def _window(left: float, right: float, top: float, bottom: float) -> tuple[slice, slice]:
    """The part of the canvas between limits in head units, as slices of rows and columns."""
    x0, x1 = (round((HALF_WIDTH + v) * UNIT) for v in (left, right))
    y0, y1 = (round((HALF_HEIGHT + v) * UNIT) for v in (top, bottom))
    return slice(y0, y1), slice(x0, x1)
