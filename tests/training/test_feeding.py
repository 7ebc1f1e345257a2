import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from utils.model.scoring import eval_transform, normalise
from utils.training.augmentation import POLICIES, augment, make_policy
from utils.training.batches import CropSet, CropTable, TrainBatches, make_loaders
from utils.training.recipes import make_config
from utils.training.store import open_store

NONE, REFERENCE = POLICIES["none"], POLICIES["reference"]
BLEND = make_policy("none", self_blend=1.0)


@pytest.fixture(scope="module")
def crops(tmp_path_factory):
    """Twelve noisy crops, real and fake in turns; two of a kind share a source."""
    folder = tmp_path_factory.mktemp("crops")
    rng = np.random.default_rng(0)
    paths = []
    for row in range(12):
        paths.append(str(folder / f"{row}.png"))
        Image.fromarray(rng.integers(0, 256, (24, 24, 3), dtype=np.uint8)).save(paths[-1])
    index = pd.DataFrame(
        {
            "dataset": "d",
            "video": [f"v{row}" for row in range(12)],
            "source": [f"s{row // 2}" for row in range(12)],
            "label": ["REAL", "FAKE"] * 6,
            "frame": 0,
        }
    )
    store = open_store(paths, 24, folder / "store", "train", progress=False)
    return CropSet(store, CropTable.from_index(index), paths)


def batches(crops, policy=REFERENCE, *, epochs=1, rank=0, processes=1, num_workers=0, **changes):
    config = make_config("reference", **{"batch_size": 4, "frames_per_video": 0} | changes)
    plan, loader, _ = make_loaders(
        crops, crops, policy, config,
        image_size=32, rank=rank, processes=processes, num_workers=num_workers,
    )  # fmt: skip
    found = []
    for plan.epoch in range(1, epochs + 1):
        found += list(loader)
    return found


def by_row(found):
    return {row: image for images, _, rows in found for row, image in zip(rows.tolist(), images)}


def same(one, two):
    return all(torch.equal(a, b) for x, y in zip(one, two, strict=True) for a, b in zip(x, y))


def test_batches_are_uint8_and_stay_with_their_target(crops):
    found = batches(crops, NONE)
    assert [images.shape for images, *_ in found] == [(4, 32, 32, 3)] * 3
    for images, targets, rows in found:
        assert images.dtype == torch.uint8
        assert targets.tolist() == [row % 2 for row in rows]
        for image, row in zip(images, rows):
            plain = augment(
                crops.store.crops[row], NONE, image_size=32, rng=np.random.default_rng(0)
            )
            assert np.array_equal(image, plain)


def test_workers_and_processes_change_nothing(crops):
    alone = batches(crops, epochs=2)
    assert same(alone, batches(crops, epochs=2, num_workers=1))
    shares = [batches(crops, epochs=2, rank=rank, processes=2) for rank in (0, 1)]
    joined = [[torch.cat(pair) for pair in zip(a, b)] for a, b in zip(*shares)]
    assert same(alone, joined)


def test_changes_follow_from_seed_epoch_and_row(crops):
    first, again, other = (by_row(batches(crops, seed=seed)) for seed in (0, 0, 1))
    assert all(torch.equal(first[row], again[row]) for row in range(12))
    assert not any(torch.equal(first[row], other[row]) for row in range(12))
    found = batches(crops, epochs=2)
    one, two = by_row(found[:3]), by_row(found[3:])
    assert not any(torch.equal(one[row], two[row]) for row in range(12))
    # What is in the batch beside it does not matter.
    together = by_row(batches(crops, batch_size=12))
    assert all(torch.equal(first[row], together[row]) for row in first)


def test_pair_shares_its_geometry_and_not_its_look(crops, monkeypatch):
    seen = []

    def record(crop, policy, *, image_size, rng, geometry_rng=None):
        seen.append((geometry_rng.random(), rng.random()))
        return np.zeros((image_size, image_size, 3), np.uint8)

    monkeypatch.setattr("utils.training.batches.augment", record)
    batches(crops, pairs=1)
    geometry, look = np.array(seen).reshape(-1, 2, 2).transpose(2, 0, 1)  # (pair, member)
    assert (geometry[:, 0] == geometry[:, 1]).all()
    assert len(set(geometry[:, 0])) == 6
    assert len(set(look.ravel())) == 12


def test_self_blended_real_becomes_a_fake_and_a_fake_stays_itself(crops):
    for images, targets, rows in batches(crops, BLEND):
        assert targets.tolist() == [1] * 4
        for image, row in zip(images, rows.tolist()):
            plain = augment(
                crops.store.crops[row], NONE, image_size=32, rng=np.random.default_rng(0)
            )
            assert np.array_equal(image, plain) == (row % 2 == 1)


def test_in_pairs_the_blend_stands_in_for_the_fake_beside_its_own_real(crops):
    for _, targets, rows in batches(crops, BLEND, pairs=1):
        assert targets.tolist() == [0, 1] * 2
        real, blended = rows.view(-1, 2).T
        assert torch.equal(real, blended)


def test_some_are_blended_where_the_policy_asks_for_some(crops):
    some = make_policy("none", self_blend=0.5)
    targets = torch.cat([targets for _, targets, _ in batches(crops, some, epochs=20)])
    assert 0.65 < targets.float().mean() < 0.85  # half are fake, and half of the others become it


def test_workers_start_where_opencv_has_threads(crops):
    """A process forked beside such threads would wait for ever."""
    cv2.setNumThreads(4)
    noise = np.random.default_rng(0).integers(0, 256, (2000, 2000, 3), np.uint8)
    cv2.warpAffine(noise, np.eye(2, 3), (2000, 2000))  # the threads start
    config = make_config("reference", batch_size=4)
    _, loader, _ = make_loaders(crops, crops, REFERENCE, config, image_size=32, num_workers=2)
    loader.loader.timeout = 30  # seconds; then it raises
    assert len(list(loader)) == 3


def test_more_batches_than_slots_do_not_mix(crops):
    found = batches(crops, NONE, batch_size=2, num_workers=1, epochs=3)
    assert len(found) == 18
    for images, targets, rows in found:
        assert targets.tolist() == [row % 2 for row in rows]
        for image, row in zip(images, rows):
            size = (32, 32)
            expected = cv2.resize(crops.store.crops[row], size, interpolation=cv2.INTER_LINEAR)
            assert np.array_equal(image, expected)


def test_loading_leaves_the_random_numbers_of_training_alone(crops):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    batches(crops, num_workers=1)
    assert torch.equal(torch.rand(3), expected)


def test_val_batches_are_the_eval_transform(crops):
    mean, std = [0.5, 0.4, 0.3], [0.5, 0.6, 0.7]
    change = eval_transform(image_size=32, mean=mean, std=std)
    config = make_config("reference", batch_size=5)
    _, _, loader = make_loaders(crops, crops, NONE, config, image_size=32)
    expected = torch.stack([change(Image.open(path)) for path in crops.paths])
    rows = torch.cat([rows for *_, rows in loader])
    images = torch.cat([normalise(i, mean, std, torch.device("cpu")) for i, *_ in loader])
    assert rows.tolist() == list(range(12))
    assert torch.allclose(images, expected, rtol=0, atol=1e-6)
    assert images.is_contiguous(memory_format=torch.channels_last)


def test_val_batches_do_not_depend_on_the_number_of_processes(crops):
    config = make_config("reference", batch_size=5)
    whole, one, two = (
        list(make_loaders(crops, crops, NONE, config, image_size=32, rank=r, processes=n)[2])
        for r, n in ((0, 1), (0, 2), (1, 2))
    )
    assert same(whole, [one[0], two[0], one[1]])


def test_sets_of_different_lengths_are_refused(crops):
    with pytest.raises(ValueError, match="12, 12, 11"):
        CropSet(crops.store, crops.table, crops.paths[1:])


def test_negative_and_large_seeds_are_taken(crops):
    for seed in (-1, 2**40):
        batches = TrainBatches(crops, REFERENCE, image_size=8, seed=seed)
        batches.fill((1, np.array([[0]])), np.empty((1, 8, 8, 3), np.uint8))
