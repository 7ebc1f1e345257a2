"""Every crop is opened once; what cannot be read is counted, the rest described and named."""

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from utils.data.crops import STATISTICS, fingerprint, image_statistics, inspect_crops


def encoded(pixels, kind):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind)
    return buffer.getvalue()


def noise(seed, size=16):
    return np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)


def table(root, files):
    """Write files {name: bytes} and list them as scan_crops would; r... is REAL, f... FAKE."""
    for name, content in files.items():
        (root / name).write_bytes(content)
    names = list(files)
    return pd.DataFrame(
        {
            **{"path": names, "dataset": "d", "video": names, "root": str(root)},
            "label": ["REAL" if name[0] == "r" else "FAKE" for name in names],
        }
    )


def inspect(crops):
    return inspect_crops(crops, n_jobs=1, progress=False)


@pytest.fixture
def good():
    return {"r.png": encoded(noise(0), "PNG"), "f.jpg": encoded(noise(1, 24), "JPEG")}


# --- reading ------------------------------------------------------------------------------------


def test_readable_crops_keep_their_rows_and_get_their_facts(tmp_path, good):
    crops, left_out = inspect(table(tmp_path, good))
    assert left_out.empty and list(left_out) == ["dataset", "reason", "name"]
    assert crops["path"].tolist() == ["r.png", "f.jpg"]
    assert crops[["width", "height"]].to_numpy().tolist() == [[16, 16], [24, 24]]
    assert crops["file_bytes"].tolist() == [len(content) for content in good.values()]
    expected = pd.Series(image_statistics(noise(0)))
    pd.testing.assert_series_equal(crops.loc[0, STATISTICS].astype(float), expected, check_names=0)


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("f2.png", encoded(noise(2), "PNG")[:-400], "truncated image"),
        ("f2.png", encoded(noise(2), "PNG")[:45], "truncated image"),
        ("f2.jpg", encoded(noise(2, 64), "JPEG")[:-1500], "truncated image"),
        ("f2.jpg", encoded(noise(2), "JPEG")[:12], "truncated image"),
        ("f2.png", b"", "unreadable image"),
        ("f2.jpg", b"no image at all", "unreadable image"),
    ],
)
def test_a_damaged_crop_is_counted_and_the_others_stay(tmp_path, good, name, content, reason):
    crops, left_out = inspect(table(tmp_path, good | {name: content}))
    assert crops["path"].tolist() == ["r.png", "f.jpg"]
    assert left_out.to_dict("records") == [{"dataset": "d", "reason": reason, "name": name}]


def test_a_folder_or_a_missing_file_is_an_unreadable_crop(tmp_path, good):
    rows = table(tmp_path, good | {"f2.png": b"", "f3.png": b""})
    for name in ("f2.png", "f3.png"):
        (tmp_path / name).unlink()
    (tmp_path / "f2.png").mkdir()
    crops, left_out = inspect(rows)
    assert len(crops) == 2
    assert left_out["reason"].tolist() == ["unreadable image"] * 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "WEBP"])
def test_no_damage_to_a_file_stops_the_inspection(tmp_path, good, kind):
    rng = np.random.default_rng(5)
    whole = np.frombuffer(encoded(noise(3, 8), kind), dtype=np.uint8)
    files = dict(good)
    for n in range(150):
        broken = whole.copy()[: rng.integers(1, len(whole) + 1)]
        broken[rng.integers(0, len(broken), 3)] = rng.integers(0, 256, 3)
        files[f"f{n}.{kind.lower()}"] = broken.tobytes()
    crops, left_out = inspect(table(tmp_path, files))
    assert len(crops) + len(left_out) == len(files)
    assert len(left_out) > 50
    assert set(left_out["reason"]) <= {"truncated image", "unreadable image"}


def test_many_crops_come_back_in_their_order(tmp_path):
    files = {f"{'rf'[n % 2]}{n}.png": encoded(noise(n, 4 + n), "PNG") for n in range(150)}
    crops, _ = inspect_crops(table(tmp_path, files), n_jobs=2, progress=False)
    assert crops["path"].tolist() == list(files)
    assert crops["width"].tolist() == [4 + n for n in range(150)]


def test_the_index_of_the_rows_does_not_matter(tmp_path, good):
    rows = table(tmp_path, good | {"f2.png": b""}).set_axis([7, 3, 5])
    crops, left_out = inspect(rows)
    assert crops["path"].tolist() == ["r.png", "f.jpg"]
    assert left_out["name"].tolist() == ["f2.png"]


def test_a_class_without_one_readable_crop_is_an_error_with_an_example(tmp_path, good):
    with pytest.raises(ValueError, match=r"both classes are needed; 1 cannot .*\(such as .*f\.jpg"):
        inspect(table(tmp_path, good | {"f.jpg": b"broken"}))


# --- statistics ---------------------------------------------------------------------------------


def test_black_and_white_have_no_contrast_and_no_edges():
    for value in (0, 255):
        found = image_statistics(np.full((8, 8, 3), value, dtype=np.uint8))
        level = value / 255
        assert list(found) == STATISTICS
        assert list(found.values()) == pytest.approx([level, 0, 0, level, level, level])


def test_a_checkerboard_is_half_bright_with_the_greatest_contrast():
    board = (np.indices((8, 8)).sum(axis=0) % 2 * 255).astype(np.uint8)
    found = image_statistics(np.repeat(board[..., None], 3, axis=2))
    assert found["brightness"] == pytest.approx(0.5)
    assert found["contrast"] == pytest.approx(0.5)
    # The Laplacian is the sum of four neighbours less four times the centre: +-4 * 255 everywhere.
    assert found["sharpness"] == pytest.approx(np.log10((4 * 255) ** 2 + 1))


def test_colours_are_told_apart():
    red = np.zeros((4, 4, 3), dtype=np.uint8)
    red[..., 0] = 255
    found = image_statistics(red)
    assert (found["red"], found["green"], found["blue"]) == (1, 0, 0)
    assert found["brightness"] == pytest.approx(0.299, abs=0.005)


def test_a_single_pixel_is_described_too():
    assert image_statistics(np.full((1, 1, 3), 255, dtype=np.uint8))["brightness"] == 1


# --- fingerprint --------------------------------------------------------------------------------


def test_the_fingerprint_is_blind_to_the_order_of_rows_and_to_the_machine(tmp_path, good):
    crops, _ = inspect(table(tmp_path, good))
    (tmp_path / "copy").mkdir()
    copied, _ = inspect(table(tmp_path / "copy", good))
    assert len(fingerprint(crops)) == 16
    assert fingerprint(crops.iloc[::-1]) == fingerprint(crops) == fingerprint(copied)


@pytest.mark.parametrize(
    ("column", "value"), [("label", "FAKE"), ("path", "other.png"), ("dataset", "other")]
)
def test_the_fingerprint_changes_with_a_label_and_a_name(tmp_path, good, column, value):
    crops, _ = inspect(table(tmp_path, good))
    changed = crops.copy()
    changed.loc[0, column] = value
    assert fingerprint(changed) != fingerprint(crops)


def test_the_fingerprint_changes_with_one_byte_of_one_file(tmp_path, good):
    before, _ = inspect(table(tmp_path, good))
    after, _ = inspect(table(tmp_path, good | {"r.png": good["r.png"] + b"\0"}))
    assert fingerprint(before) != fingerprint(after)
