"""Tracks: who is who over the frames of a video."""

import numpy as np
import pytest
from PIL import Image

from utils.faces.detection import Linker, link_tracks, look


def box(x, y=50.0, side=40.0):
    return (x - side / 2, y - side / 2, x + side / 2, y + side / 2)


def unit(*values):
    vector = np.array(values, dtype=float)
    return vector / np.linalg.norm(vector)


def linked(frames, looks):
    linker = Linker()
    return [linker.link(boxes, seen) for boxes, seen in zip(frames, looks, strict=True)]


ANNA, BEN = unit(1, 0), unit(0, 1)


def test_people_who_cross_keep_their_tracks():
    frames = [[box(20 + 30 * i), box(140 - 30 * i, y=55)] for i in range(6)]
    assert link_tracks(frames) == [[1, 2]] * 6


def test_people_who_meet_and_turn_back_are_told_apart_by_their_looks():
    places = [(20, 140), (50, 110), (50, 110), (20, 140)]
    frames = [[box(a), box(b)] for a, b in places]
    assert linked(frames, [[ANNA, BEN]] * 4) == [[1, 2]] * 4


def test_person_out_of_sight_comes_back_as_the_same_one():
    frames = [[box(10), box(200)], [box(12)], [box(13)], [box(205), box(12)]]
    assert link_tracks(frames) == [[1, 2], [1], [1], [2, 1]]


def test_person_who_is_elsewhere_after_a_cut_is_found_by_the_looks():
    frames = [[box(10)], [box(600, side=150)]]
    assert link_tracks(frames) == [[1], [2]]
    assert linked(frames, [[ANNA], [ANNA]]) == [[1], [1]]
    assert linked(frames, [[ANNA], [BEN]]) == [[1], [2]]


def test_another_person_at_the_same_place_is_another_track():
    frames = [[box(10)], [box(12)], [box(10)]]
    assert linked(frames, [[ANNA], [BEN], [ANNA]]) == [[1], [2], [1]]


def test_people_who_change_places_between_two_frames_are_told_apart_by_their_looks():
    frames = [[box(10), box(300)]] * 4
    swapped = [[ANNA, BEN], [ANNA, BEN], [BEN, ANNA], [BEN, ANNA]]
    assert linked(frames, swapped) == [[1, 2], [1, 2], [2, 1], [2, 1]]


def test_person_who_turns_the_head_stays_the_same_one():
    turned = [[unit(1, 0.25 * i)] for i in range(8)]  # in the end like 0.5 to the first look
    assert linked([[box(10 + i)] for i in range(8)], turned) == [[1]] * 8


def test_nearest_pairs_are_taken_together_and_not_one_by_one():
    # Greedily the second face (10 away) would take track 1, and the first could join nothing.
    frames = [[box(100), box(170)], [box(30), box(110)]]
    assert link_tracks(frames) == [[1, 2], [1, 2]]


def test_crowd_keeps_its_order():
    rng = np.random.default_rng(0)
    places = np.arange(8) * 100.0
    frames = [[box(x + dx) for x, dx in zip(places, rng.normal(0, 12, 8))] for _ in range(20)]
    assert link_tracks(frames) == [list(range(1, 9))] * 20


@pytest.mark.parametrize("brightness", [0.5, 1.4])
def test_look_survives_another_light_and_tells_two_pictures_apart(brightness):
    rng = np.random.default_rng(0)
    one, other = (rng.integers(40, 160, (8, 8, 3), dtype=np.uint8) for _ in range(2))
    big = [Image.fromarray(a).resize((160, 160)) for a in (one, other)]
    lit = big[0].point(lambda level: level * brightness)
    assert look(big[0]) @ look(lit) > 0.9
    assert look(big[0]) @ look(big[1]) < 0.5
    assert np.linalg.norm(look(Image.new("RGB", (160, 160)))) == 0
