import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from utils.data.crops import spread_frames
from utils.faces.media import load_crop
from utils.model.scoring import eval_transform, make_loader
from utils.run.machine import default_workers

SIZE = {"image_size": 8, "mean": [0, 0, 0], "std": [1, 1, 1]}
PLAIN = eval_transform(**SIZE)
GREY = (204, 204, 204)  # a colour of the web palette


@pytest.fixture(scope="module")
def paths(tmp_path_factory):
    """Nine crops; the brightness of each is ten times its row. Names in another order."""
    folder = tmp_path_factory.mktemp("crops")
    made = [folder / f"{9 - row}.png" for row in range(9)]
    for row, path in enumerate(made):
        pixels = np.full((8, 8, 3), 10 * row, dtype=np.uint8)
        pixels[:, :4] += 5  # two halves, so that a flip shows
        Image.fromarray(pixels).save(path)
    return [str(path) for path in made]


def test_rows_keep_the_order_of_the_index(paths):
    images, targets, rows = next(iter(make_loader(paths, [0, 1] * 4 + [0], PLAIN, batch_size=9)))
    assert rows.tolist() == list(range(9))
    assert targets.tolist() == [0, 1] * 4 + [0]
    assert (images[:, 0, 0, 7] * 255).round().tolist() == [10 * row for row in range(9)]


def frames_table(**counts):
    """One row a face; counts of frames by video, one face a frame, two in every tenth."""
    rows = [
        (video, 3 * number, face)
        for video, n in counts.items()
        for number in range(n)
        for face in ([1, 2] if number % 10 == 5 else [1])
    ]
    table = pd.DataFrame(rows, columns=["video", "frame", "face"]).assign(dataset="d")
    return table.sample(frac=1, random_state=0)  # neither sorted by video nor by frame


def test_spread_frames_are_evenly_spaced_and_not_the_first_ones():
    kept = spread_frames(frames_table(a=100), 4)
    assert sorted(kept["frame"].unique()) == [3 * 12, 3 * 37, 3 * 62, 3 * 87]


def test_spread_frames_counts_each_video_by_itself():
    kept = spread_frames(frames_table(a=3, b=40, c=100, e=1), 4)
    frames = kept.groupby("video")["frame"].apply(lambda group: sorted(set(group // 3)))
    assert frames["a"] == [0, 1, 2]
    assert frames["b"] == [5, 15, 25, 35]
    assert frames["c"] == [12, 37, 62, 87]
    assert frames["e"] == [0]


def test_spread_frames_keeps_every_face_of_a_frame():
    kept = spread_frames(frames_table(b=40), 4)  # frames 5, 15, 25 and 35 hold two faces
    assert kept.groupby("frame")["face"].apply(sorted).tolist() == [[1, 2]] * 4


def test_spread_frames_tells_videos_of_one_name_apart_by_data_set():
    table = pd.concat([frames_table(a=100), frames_table(a=8).assign(dataset="other")])
    kept = spread_frames(table.reset_index(drop=True), 2)
    assert set(kept.loc[kept["dataset"] == "other", "frame"] // 3) == {2, 6}
    assert set(kept.loc[kept["dataset"] == "d", "frame"] // 3) == {25, 75}


def test_spread_frames_keeps_the_order_of_the_index():
    table = frames_table(a=30, b=30)
    kept = spread_frames(table, 7)
    assert kept.index.tolist() == [row for row in table.index if row in set(kept.index)]
    assert spread_frames(table, 0).equals(table)


def test_unreadable_file_is_named(tmp_path):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    for path in (broken, tmp_path / "missing.png"):
        with pytest.raises(ValueError, match=path.name):
            load_crop(str(path))


def test_cut_file_is_not_turned_into_a_half_grey_crop(tmp_path):
    whole, cut = tmp_path / "whole.jpg", tmp_path / "cut.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(whole)
    cut.write_bytes(whole.read_bytes()[:2000])
    with pytest.raises(ValueError, match=r"cut\.jpg"):
        load_crop(str(cut))


def test_image_that_would_fill_the_memory_is_refused_by_name(tmp_path):
    bomb = tmp_path / "bomb.png"
    Image.new("1", (20_000, 20_000)).save(bomb)
    with pytest.raises(ValueError, match=r"bomb\.png"):
        load_crop(str(bomb))


@pytest.mark.parametrize("num_workers", [0, 1])
def test_loader_names_the_unreadable_crop_and_the_way_out(tmp_path, num_workers):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    loader = make_loader([str(broken)], [0], PLAIN, batch_size=1, num_workers=num_workers)
    with pytest.raises(ValueError, match=r"(?s)broken\.png.*01_explore_data"):
        next(iter(loader))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA"])
def test_crop_of_any_mode_becomes_rgb(tmp_path, mode):
    Image.new("RGB", (4, 4), GREY).convert(mode).save(tmp_path / "crop.png")
    crop = load_crop(str(tmp_path / "crop.png"))
    assert crop.mode == "RGB"
    assert crop.getpixel((1, 1)) == GREY


@pytest.mark.parametrize("num_workers", [0, 1])
def test_last_batch_may_be_smaller_and_workers_change_nothing(paths, num_workers):
    loader = make_loader(paths, [0] * 9, PLAIN, batch_size=4, num_workers=num_workers)
    assert [rows.tolist() for *_, rows in loader] == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


def test_batch_size_of_nothing_is_refused(paths):
    with pytest.raises(ValueError, match="batch_size 0"):
        make_loader(paths, [0] * 9, PLAIN, batch_size=0)


@pytest.mark.parametrize(("cores", "cpu", "gpu"), [(1, 0, 0), (2, 0, 1), (4, 1, 3), (64, 4, 4)])
def test_loader_processes_leave_the_cores_to_a_model_that_computes_on_them(
    cores, cpu, gpu, monkeypatch
):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    assert default_workers(torch.device("cpu")) == cpu
    assert default_workers(torch.device("cuda")) == gpu
