import errno
import os
import pickle
import shutil

import numpy as np
import pytest
from PIL import Image

from utils.model.scoring import eval_transform
from utils.training import batches
from utils.training.batches import CropStore, open_store, store_folder


@pytest.fixture
def paths(tmp_path):
    """Seventy noisy crops of 20 x 24 pixels: more than one chunk, in an order of their own."""
    rng = np.random.default_rng(0)
    made = []
    for row in range(70):
        made.append(str(tmp_path / f"{99 - row}.png"))
        Image.fromarray(rng.integers(0, 256, (24, 20, 3), dtype=np.uint8)).save(made[-1])
    return made


def build(paths, folder, side=16, name="train"):
    return open_store(paths, side, folder, name, progress=False)


def names(folder):
    return sorted(os.listdir(folder))


def test_store_holds_what_the_eval_transform_sees_row_by_row(paths, tmp_path):
    crops = build(paths, tmp_path / "store").crops
    change = eval_transform(image_size=16, mean=[0] * 3, std=[1] * 3)
    assert crops.shape == (70, 16, 16, 3)
    assert crops.dtype == np.uint8
    for path, crop in zip(paths, crops):
        seen = change(Image.open(path)).permute(1, 2, 0).numpy() * 255
        assert np.array_equal(seen.round(), crop)


def test_pixels_are_mapped_and_not_read(paths, tmp_path):
    made = build(paths, tmp_path / "store")
    assert isinstance(made.crops, np.memmap)
    assert not made.crops.flags.writeable
    assert (len(made), made.side) == (70, 16)


def test_store_travels_as_its_path(paths, tmp_path):
    made = build(paths, tmp_path / "store")
    expected = made.crops[3].copy()
    content = pickle.dumps(made)
    assert len(content) < 1000
    assert np.array_equal(pickle.loads(content).crops[3], expected)


def test_second_start_decodes_nothing(paths, tmp_path, monkeypatch):
    first = build(paths, tmp_path / "store")
    monkeypatch.setattr(batches, "load_crop", None)
    assert build(paths, tmp_path / "store").path == first.path


@pytest.mark.parametrize("change", ["content", "order", "side", "fewer"])
def test_store_is_made_anew_when_its_inputs_change(paths, tmp_path, change):
    folder = tmp_path / "store"
    first = build(paths, folder)
    side = 16
    if change == "content":
        Image.new("RGB", (20, 24), (255, 0, 0)).save(paths[5])
    elif change == "order":
        paths = paths[::-1]
    elif change == "side":
        side = 12
    else:
        paths = paths[:-1]
    second = build(paths, folder, side)
    assert second.path != first.path
    assert names(folder) == [second.path.name]  # the old one is gone
    if change == "content":
        assert (second.crops[5] == (255, 0, 0)).all()


def test_stores_of_two_splits_live_side_by_side(paths, tmp_path):
    one, two = (build(paths[:9], tmp_path / "store", name=name) for name in ("train", "val"))
    assert one.path.exists() and two.path.exists()


def test_cut_store_is_made_anew(paths, tmp_path):
    made = build(paths, tmp_path / "store")
    expected = np.array(made.crops)
    with open(made.path, "r+b") as file:
        file.truncate(1000)
    assert np.array_equal(build(paths, tmp_path / "store").crops, expected)


def test_unreadable_crop_is_named_and_no_half_store_is_left(paths, tmp_path):
    with open(paths[66], "wb") as file:
        file.write(b"no image")
    with pytest.raises(ValueError, match=r"33\.png.*01_explore_data"):
        build(paths, tmp_path / "store")
    assert names(tmp_path / "store") == []


def test_missing_crop_is_named(paths, tmp_path):
    os.unlink(paths[2])
    with pytest.raises(ValueError, match=r"97\.png cannot be read"):
        build(paths, tmp_path / "store")


def test_what_a_killed_run_left_is_removed(paths, tmp_path):
    folder = tmp_path / "store"
    folder.mkdir()
    (folder / ".train-0123-abcd.npy").write_bytes(b"half")
    (folder / "notes.txt").write_text("mine")
    made = build(paths, folder)
    assert names(folder) == ["notes.txt", made.path.name]


def test_too_little_disk_is_said_before_anything_is_decoded(paths, tmp_path, monkeypatch):
    usage = shutil.disk_usage(tmp_path)._replace(free=batches.SPARE_BYTES + 10)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    monkeypatch.setattr(batches, "load_crop", None)
    with pytest.raises(OSError, match=r"0\.27 GB are free\. Set STORE.*IMAGE_SIZE"):
        build(paths, tmp_path / "store")


def test_disk_that_fills_up_meanwhile_ends_clearly(paths, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(OSError, match=r"No space left on device\. Set STORE"):
        build(paths, tmp_path / "store")
    assert names(tmp_path / "store") == []


def test_pickled_array_is_not_opened(paths, tmp_path):
    path = tmp_path / "evil.npy"
    np.save(path, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="objects"):
        CropStore(path).crops  # noqa: B018


def test_store_stays_out_of_what_kaggle_keeps(tmp_path, monkeypatch):
    assert store_folder(tmp_path) == tmp_path / "store"
    assert str(store_folder(tmp_path, "elsewhere")) == "elsewhere"
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert not store_folder("/kaggle/working").is_relative_to("/kaggle/working")
