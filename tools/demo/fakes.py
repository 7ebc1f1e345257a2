"""The manipulations of the demo data set, and the traces that they leave."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np

from tools.demo.actors import Pose, grid, sample_actor
from tools.demo.faces import Head, cover, smooth_noise
from tools.demo.scenes import Person, Scene, footprint, sample_speech, warp

#: "drawn_swap" puts another actor's inner face in; "drawn_reenact" makes the same actor say
#: something else.
METHODS = ("drawn_swap", "drawn_reenact")
#: Strength of the traces of a fake, 0 to 1. Most are plain to a network at 64 px. A share is all
#: but traceless, as the best fakes are, so that no network can reach an AUC of 1.
CLEAR_STRENGTH, FAINT_STRENGTH = (0.7, 1.0), (0.0, 0.25)
FAINT_SHARE = 0.08


@dataclass(frozen=True)
class Traces:
    """What a manipulation leaves behind.

    `shrink`: how often the new face is smaller before it is enlarged again; `tint`: colour
    mismatch, share of each channel (3,); `border`: softness of the blending edge, canvas pixels;
    `shift`, `zoom`, `bulge`: misplacement (pixels, share, pixels of a smooth bend); `flicker`:
    change of brightness from frame to frame, share; `seam`: brightness of the blending edge,
    levels; `noise_kept`: share of the camera's noise that is left.
    """

    shrink: float
    tint: np.ndarray
    border: float
    shift: np.ndarray
    zoom: float
    bulge: float
    flicker: float
    seam: float
    noise_kept: float


def sample_traces(rng: np.random.Generator, method: str, strength: float) -> Traces:
    """Draw the traces of one fake; at strength 0 there are nearly none."""
    swap = method == METHODS[0]
    tint = rng.standard_normal(3) + rng.choice([-1.0, 1.0])
    tint *= rng.uniform(0.14, 0.25 if swap else 0.2) / np.linalg.norm(tint)
    return Traces(
        shrink=1 + strength * rng.uniform(2.5, 4.5),
        tint=strength * tint,
        border=4 + 12 * (1 - strength) * rng.uniform(0.7, 1),
        shift=strength * rng.uniform(-3, 3, 2),
        zoom=1 + strength * rng.uniform(-0.06, 0.06),
        bulge=strength * rng.uniform(3, 5),
        flicker=strength * rng.uniform(0.01, 0.05),
        seam=strength * rng.uniform(14, 26) * rng.choice([-1.0, 1.0]) * (0.4 if swap else 1),
        noise_kept=1 - strength * rng.uniform(0.6, 1),
    )


def manipulate(
    rng: np.random.Generator,
    scene: Scene,
    *,
    clean: list[np.ndarray],
    noise: list[np.ndarray],
    method: str,
) -> Iterator[np.ndarray]:
    """Make a fake of one person of a scene.

    Args:
        rng: source of chance: who, how strong the traces are, and the donor.
        scene: what the original shows.
        clean: its frames without noise, uint8 (H, W, 3).
        noise: the camera's noise in each of them, int16 (H, W, 3).
        method: one of `METHODS`.
    Yields:
        The frames of the fake, uint8 (H, W, 3).
    """
    person = scene.people[rng.integers(len(scene.people))]
    strength = rng.uniform(*(FAINT_STRENGTH if rng.random() < FAINT_SHARE else CLEAR_STRENGTH))
    traces = sample_traces(rng, method, strength)
    swap = method == METHODS[0]
    actor = sample_actor(rng, like=person.head.actor) if swap else person.head.actor
    head, track = Head(actor, scene.light), person.track
    if not swap:
        speech = zip(*sample_speech(rng, scene.n_frames), strict=True)
        track = [replace(p, blink=b, mouth=m) for p, (b, m) in zip(track, speech, strict=True)]
    mask = _face_region(person, method, traces.border)
    gain = _match_colour(head, person, mask) if swap else np.ones(3)
    bend = [traces.bulge * smooth_noise(rng, 18, 18) for _ in "xy"]
    rows, columns = (np.flatnonzero(mask.any(axis=1 - axis)) for axis in (0, 1))
    corner = columns[0], rows[0]
    mask = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    for t, pose in enumerate(track):
        place = pose.matrix()
        place[:, 2] += place[:, :2] @ corner
        window = footprint(mask.shape, place, clean[t].shape[:2])
        weight = warp(mask, place, window)[..., None]
        jitter = rng.normal(0, 0.3 * strength, 2)
        picture = _misplace(head.draw(pose), pose, traces, jitter, bend, window)
        alpha = picture[..., 3:] / np.float32(255)
        before = clean[t][window].astype(np.float32)
        new = scene.soften(before * (1 - alpha) + picture[..., :3] * gain)
        height, width = new.shape[:2]
        small = (max(1, round(width / traces.shrink)), max(1, round(height / traces.shrink)))
        new = cv2.resize(cv2.resize(new, small, interpolation=cv2.INTER_AREA), (width, height))
        new = new * ((1 + traces.tint) * (1 + rng.normal(0, traces.flicker)))
        new += traces.seam * 4 * weight * (1 - weight)
        fake = clean[t].copy()
        fake[window] = np.clip(before + (new - before) * weight, 0, 255)
        spoilt = noise[t].copy()
        spoilt[window] = noise[t][window] * (1 - weight * (1 - traces.noise_kept))
        yield cv2.add(fake, spoilt, dtype=cv2.CV_8U)


def _face_region(person: Person, method: str, border: float) -> np.ndarray:
    """Weight of the new face on the canvas, float32 (h, w): brows to chin, or eyes and mouth."""
    width, (_, y) = person.head.actor.width, grid()
    x = person.head.turned_x
    ellipses = [(0.24, 0.76 * width, 0.62)]  # centre's height, half width, half height
    if method == METHODS[1]:
        ellipses = [(0.6, 0.62 * width, 0.32), (-0.01, 0.8 * width, 0.2)]
    inside = [h * (1 - np.hypot(x / w, (y - centre) / h)) for centre, w, h in ellipses]
    weight = cover(np.max(inside, axis=0), border)
    return (weight**2 * (3 - 2 * weight)).astype(np.float32)


def _match_colour(donor: Head, person: Person, mask: np.ndarray) -> np.ndarray:
    """Gain (3,) that brings the donor's mean colour to that of the face it replaces."""
    pose = replace(person.track[0], yaw=0.0, pitch=0.0, blink=0.0, mouth=0.0)
    means = [head.draw(pose)[mask > 0.5][:, :3].mean(axis=0) for head in (person.head, donor)]
    return means[0] / means[1]


def _misplace(
    picture: np.ndarray,
    pose: Pose,
    traces: Traces,
    jitter: np.ndarray,
    bend: list[np.ndarray],
    window: tuple[slice, slice],
) -> np.ndarray:
    """Bend, shift and zoom a drawn head, and return what of it lies in the window."""
    rows, columns = np.indices(picture.shape[:2], dtype=np.float32)
    picture = cv2.remap(picture, columns + bend[0], rows + bend[1], cv2.INTER_LINEAR)
    x, y = np.array((pose.x, pose.y)) + traces.shift + jitter
    return warp(picture, replace(pose, x=x, y=y, scale=pose.scale * traces.zoom).matrix(), window)
