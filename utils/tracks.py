"""The people of a video: faces of one person, linked over its frames."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from PIL import Image
from scipy.optimize import linear_sum_assignment

from utils.faces import Box

#: A face is near a track within so many sides of the face, and of its size within such a factor.
REACH, GROWTH = 2.0, 2.0
#: Two looks of one person correlate by USUAL from frame to frame (0.66 to 0.94 in real videos), of
#: two people by 0.1 to 0.6. A near face that falls short of the usual of its track by FALL is
#: another person; one that is ALIKE is the same wherever it is (as after a cut).
USUAL, FALL, ALIKE = 0.75, 0.4, 0.7
#: How much of the cost is the distance to where the track was going, not to where it was.
AHEAD = 0.7
#: Cost of having been out of sight.
AWAY = 0.2


def look(crop: Image.Image) -> np.ndarray:
    """What a face looks like from afar: a tiny picture, float32 (432,), of mean 0 and length 1.

    The dot product of two of them is a correlation. It tells people of one scene apart cheaply,
    and knows nothing of identity.
    """
    lab = cv2.cvtColor(np.asarray(crop, dtype=np.float32) / 255, cv2.COLOR_RGB2LAB)
    tiny = cv2.resize(lab, (12, 12), interpolation=cv2.INTER_AREA)
    centred = (tiny - tiny.mean(axis=(0, 1))).ravel()
    return centred / max(float(np.linalg.norm(centred)), 1e-6)


@dataclass
class _Track:
    """Where a person was seen last: centre x, centre y and side in pixels."""

    place: np.ndarray
    frame: int
    step: np.ndarray  # the way of its centre from one frame to the next
    look: np.ndarray | None
    usual: float = USUAL

    def see(self, place: np.ndarray, frame: int, look: np.ndarray | None) -> None:
        self.step = (place - self.place)[:2] / (frame - self.frame)
        self.place, self.frame = place, frame
        if look is not None and self.look is not None:
            self.usual += (float(look @ self.look) - self.usual) / 4
            mixed = self.look + look
            self.look = mixed / max(float(np.linalg.norm(mixed)), 1e-6)

    def cost(self, place: np.ndarray, frame: int, look: np.ndarray | None) -> float:
        """How badly a face fits; infinite if it cannot be the same person."""
        side = (place[2] + self.place[2]) / 2
        gone = float(np.hypot(*(place - self.place)[:2])) / side
        # Who was out of sight may have turned back: only the last frame's motion goes on.
        step = self.step if frame == self.frame + 1 else np.zeros(2)
        missed = float(np.hypot(*(place[:2] - self.place[:2] - step))) / side
        near = min(gone, missed) <= REACH
        near &= 1 / GROWTH <= place[2] / self.place[2] <= GROWTH
        # Of two that fit alike, the one who was there a frame ago.
        cost = AHEAD * missed + (1 - AHEAD) * gone + AWAY * (frame > self.frame + 1)
        if look is None or self.look is None:
            return cost if near else np.inf
        alike = float(look @ self.look)
        if near and alike >= min(self.usual - FALL, ALIKE):
            return cost + 1 - alike
        return 3 * REACH + 1 - alike if alike >= ALIKE else np.inf  # near ones go first


class Linker:
    """Numbers the people of a video frame by frame; keeps no more than where each was last.

    Faces and tracks are paired such that most are paired and the sum of the distances (of the
    centres over the mean side, to where the track was and was going) is smallest. A pair needs a
    distance of at most REACH sides and sides that differ by at most a factor of GROWTH; a face
    without one starts a track. A track that is out of sight keeps its place. People who cross each
    other are told apart by their motion, with looks also by what they look like; then a person is
    found again far away too, as after a cut.
    """

    def __init__(self) -> None:
        self.tracks: list[_Track] = []
        self.frame = -1

    def link(self, boxes: Sequence[Box], looks: Sequence[np.ndarray] | None = None) -> list[int]:
        """Track numbers, from 1 in order of appearance, of the faces of the next frame.

        Args:
            boxes: (x1, y1, x2, y2) in pixels.
            looks: of `look`, one a box; given for every frame of a video or for none.
        """
        self.frame += 1
        tracks, seen = self.tracks, looks if looks is not None else [None] * len(boxes)
        places = [
            np.array([(x1 + x2) / 2, (y1 + y2) / 2, max((x2 - x1 + y2 - y1) / 2, 1e-6)])
            for x1, y1, x2, y2 in boxes
        ]
        costs = np.array(
            [[t.cost(place, self.frame, s) for t in tracks] for place, s in zip(places, seen)]
        ).reshape(len(boxes), len(tracks))
        numbers: dict[int, int] = {}
        # A forbidden pair costs more than all others together, so it is taken last of all.
        for i, j in zip(*linear_sum_assignment(np.where(np.isfinite(costs), costs, 1e6))):
            if np.isfinite(costs[i, j]):
                numbers[int(i)] = int(j)
                tracks[j].see(places[i], self.frame, seen[i])
        for i, place in enumerate(places):
            if i not in numbers:
                numbers[i] = len(tracks)
                tracks.append(_Track(place, self.frame, np.zeros(2), seen[i]))
        return [numbers[i] + 1 for i in range(len(boxes))]


def link_tracks(frames: Iterable[Sequence[Box]]) -> list[list[int]]:
    """Number the people of a video by their places: the faces of one person get the same track.

    Args:
        frames: for each sampled frame in order, its boxes (x1, y1, x2, y2) in pixels.
    Returns:
        Track numbers from 1 in order of appearance, in the shape of `frames`; see `Linker`.
    """
    linker = Linker()
    return [linker.link(boxes) for boxes in frames]
