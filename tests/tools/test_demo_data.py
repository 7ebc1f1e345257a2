import hashlib
import json
import re
from pathlib import Path

import numpy as np
import pytest

from tools.demo import data, fakes
from tools.demo.actors import UNIT
from tools.demo.data import draw_demo
from tools.demo.scenes import sample_scene
from utils.data.datasets import index_videos
from utils.faces.detection import CropRecipe, cut_faces, load_detector, read_about
from utils.faces.media import probe, sample_frames


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """Six sources; number 5 shows two people."""
    folder = tmp_path_factory.mktemp("demo")
    return draw_demo(folder, n_sources=6, n_faceless=2, n_jobs=1, progress=False)


@pytest.fixture(scope="module")
def rows(demo):
    return json.loads((demo / "dfdc_train_part_0/metadata.json").read_text())


@pytest.fixture(scope="module")
def empty(tmp_path_factory):
    """Names of the videos of an empty room: what is drawn does not depend on the rest."""
    folder = tmp_path_factory.mktemp("empty")
    (folder / data.PART).mkdir()
    return set(data._draw_faceless(folder, seed=0, index=0, n=2))


def digests(folder):
    files = Path(folder).rglob("*.mp4")
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def frames_of(demo, name, n=0):
    images = sample_frames(demo / "dfdc_train_part_0" / name, n)
    return np.stack([np.asarray(image) for _, _, image in images])


def test_metadata_describes_the_files_in_the_dfdc_layout(demo, rows):
    files = {p.name for p in (demo / "dfdc_train_part_0").glob("*.mp4")}
    assert files == set(rows)
    assert all(re.fullmatch(r"[a-z]{10}\.mp4", name) for name in rows)
    for row in rows.values():
        assert row["split"] == "train"
        if row["label"] == "REAL":
            assert row["original"] is None and row["method"] == "original"
        else:
            assert rows[row["original"]]["label"] == "REAL"
            assert row["method"] in fakes.METHODS
    assert {row["method"] for row in rows.values()} == {"original", *fakes.METHODS}


def test_the_project_reads_it_as_raw_dfdc_videos(demo, rows):
    videos = index_videos(demo)
    assert len(videos) == len(rows)
    assert set(videos["method"]) == {"original", *fakes.METHODS}


def test_the_data_set_says_that_its_faces_are_drawn(demo):
    assert read_about(demo / "dfdc_train_part_0") == "drawn"


def test_same_seed_same_bytes_on_any_number_of_processes(demo, tmp_path):
    again = draw_demo(tmp_path / "a", n_sources=2, n_faceless=2, n_jobs=2, progress=False)
    all_of_them = digests(demo)
    assert len(digests(again)) >= 4 + 2
    assert digests(again).items() <= all_of_them.items()


def test_another_seed_draws_other_videos(demo, tmp_path):
    other = draw_demo(
        tmp_path, n_sources=1, n_faceless=0, fakes_per_source=1, seed=1, n_jobs=1, progress=False
    )
    assert not set(digests(other).values()) & set(digests(demo).values())


def test_the_detector_finds_every_face_and_nothing_in_an_empty_room(demo, rows, empty):
    recipe = CropRecipe()
    detector = load_detector(recipe)
    n_faces = {
        name: [len(cut_faces(detector, image, recipe)) for _, _, image in sample_frames(path, 3)]
        for name in rows
        for path in [demo / "dfdc_train_part_0" / name]
    }
    shown = [name for name in rows if name not in empty]
    counts = np.array([n_faces[name] for name in shown])
    assert (counts > 0).mean() >= 0.95
    assert len(empty) == 2
    assert not any(n for name in empty for n in n_faces[name])
    pairs = {name for name in shown if np.median(n_faces[name]) == 2}
    assert len(pairs) >= 1
    assert len({rows[name]["original"] or name for name in pairs}) == 1


@pytest.mark.parametrize("method", fakes.METHODS)
def test_a_fake_differs_from_its_original_in_a_part_of_the_face_alone(method):
    scene = sample_scene(np.random.default_rng(1), n_people=1)
    clean = [scene.frame(t) for t in range(scene.n_frames)]
    nothing = [np.zeros(frame.shape, np.int16) for frame in clean]
    rng = np.random.default_rng(2)
    made = list(fakes.manipulate(rng, scene, clean=clean, noise=nothing, method=method))
    assert len(made) == len(clean)
    for fake, real, pose in zip(made, clean, scene.people[0].track, strict=True):
        changed = (fake != real).any(axis=2)
        assert 0.01 < changed.mean() < 0.2
        assert np.abs(fake.astype(float) - real)[changed].mean() > 2.5  # of 255 levels
        rows, columns = np.nonzero(changed)
        head = UNIT * pose.scale  # half its height
        assert np.abs(columns - pose.x).max() < head
        assert np.abs(rows - pose.y).max() < 1.4 * head


def test_the_frames_of_a_fake_are_those_of_its_original_but_for_the_face(demo, rows, empty):
    for name in set(rows) - empty:
        if original := rows[name]["original"]:
            change = np.abs(frames_of(demo, name).astype(float) - frames_of(demo, original))
            assert np.median(change) < 2.5  # the codec's noise
            assert change.max() > 25


def test_size_rate_and_length_do_not_tell_a_fake_from_its_original(demo, rows):
    part = demo / "dfdc_train_part_0"
    for name, row in rows.items():
        if row["original"]:
            assert probe(part / name) == probe(part / row["original"])


def test_a_face_is_drawn_again_at_full_strength_and_hardly_at_none():
    for method in fakes.METHODS:
        none = fakes.sample_traces(np.random.default_rng(0), method, 0.0)
        full = fakes.sample_traces(np.random.default_rng(0), method, 1.0)
        assert none.shrink == none.zoom == none.noise_kept == 1
        assert np.abs(none.tint).max() == none.bulge == none.flicker == 0
        assert full.shrink > 2 and np.linalg.norm(full.tint) > 0.1 and full.border < none.border


def test_a_former_demo_is_replaced_and_a_foreign_folder_is_left_alone(tmp_path):
    (tmp_path / ".drawing-killed").mkdir()
    small = {"n_faceless": 0, "fakes_per_source": 0, "n_jobs": 1, "progress": False}
    first = digests(draw_demo(tmp_path, n_sources=1, **small))
    second = digests(draw_demo(tmp_path, n_sources=1, seed=5, **small))
    assert len(first) == len(second) == 1 and first != second
    assert not list(tmp_path.glob(".drawing-*"))
    foreign = tmp_path / "mine"
    foreign.mkdir()
    (foreign / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds no former demo"):
        draw_demo(foreign, n_sources=1, **small)
    assert [p.name for p in foreign.iterdir()] == ["notes.txt"]


def test_numbers_out_of_range_are_named(tmp_path):
    with pytest.raises(ValueError, match="n_sources=0"):
        draw_demo(tmp_path / "new", n_sources=0)
    assert not (tmp_path / "new").exists()


def test_the_command_line_names_folder_sources_and_seed(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(data, "draw_demo", lambda folder, **kw: calls.append((folder, kw)))
    data.main(["--output", str(tmp_path), "--sources", "3", "--seed", "7"])
    assert calls == [(str(tmp_path), {"n_sources": 3, "seed": 7})]
