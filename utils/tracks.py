"""The people of a video: faces of one person, linked over its frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from utils.faces import Box


def link_tracks(frames: Sequence[Sequence[Box]]) -> list[list[int]]:
    """Number the people of a video: the faces of one person get the same track.

    Greedy, frame by frame: the face and the track whose last box is nearest (distance of the
    centres over the mean side) are joined first. A join needs a distance of at most 2 sides and
    sides that differ by at most a factor of 2; a face without a join starts a track. A track that
    is out of sight keeps its place. People who change places between two sampled frames change
    tracks too.

    Args:
        frames: for each sampled frame in order, its boxes (x1, y1, x2, y2) in pixels.
    Returns:
        Track numbers from 1 in order of appearance, in the shape of `frames`.
    """
    last: list[np.ndarray] = []  # centre x, centre y, side of each track's last box
    result = []
    for boxes in frames:
        now = [
            np.array([(x1 + x2) / 2, (y1 + y2) / 2, max((x2 - x1 + y2 - y1) / 2, 1e-6)])
            for x1, y1, x2, y2 in boxes
        ]
        pairs = []
        for i, face in enumerate(now):
            for j, track in enumerate(last):
                distance = np.hypot(*(face - track)[:2]) / ((face[2] + track[2]) / 2)
                if distance <= 2 and 0.5 <= face[2] / track[2] <= 2:
                    pairs.append((distance, i, j))
        tracks: dict[int, int] = {}
        for _, i, j in sorted(pairs):
            if i not in tracks and j not in tracks.values():
                tracks[i] = j
        for i, face in enumerate(now):
            if i not in tracks:
                tracks[i] = len(last)
                last.append(face)
            last[tracks[i]] = face
        result.append([tracks[i] + 1 for i in range(len(now))])
    return result
