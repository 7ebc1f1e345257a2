import cv2
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from utils.model.scoring import eval_transform, normalise
from utils.training.augmentation import POLICIES, augment, make_policy
from utils.training.batches import (
    BatchPlan,
    CropSet,
    CropTable,
    draw_epoch,
    fill_train,
    make_loaders,
    open_store,
    split_batches,
)
from utils.training.recipes import TrainConfig, make_config


def make_table(sources=4, fakes=3, frames=10):
    """`sources` real videos with `fakes` fakes each, all of `frames` crops."""
    rows = [
        (f"s{source}" if kind == 0 else f"s{source}f{kind}", f"s{source}", kind > 0, frame)
        for source in range(sources)
        for kind in range(fakes + 1)
        for frame in range(frames)
    ]
    index = pd.DataFrame(rows, columns=["video", "source", "fake", "frame"])
    index["label"] = np.where(index["fake"], "FAKE", "REAL")
    return CropTable.from_index(index.assign(dataset="d").sample(frac=1, random_state=0))


TABLE = make_table()


def draw(table=TABLE, seed=0, **options):
    config = TrainConfig(**{"frames_per_video": 0} | options)
    return draw_epoch(table, np.random.default_rng(seed), config)


def plan(batch_size=10, **options):
    share = {name: options.pop(name) for name in ("rank", "processes") if name in options}
    config = TrainConfig(**{"batch_size": batch_size, "frames_per_video": 0} | options)
    return BatchPlan(TABLE, config, **share)


def shown(plan, epoch=1, start=0):
    plan.epoch, plan.start = epoch, start
    return [units for _, units in plan]


def test_table_reads_the_index_row_by_row():
    index = pd.DataFrame(
        {
            "dataset": ["a", "b", "a"],
            "video": ["v", "v", "v"],
            "source": ["x", "y", "x"],
            "label": ["FAKE", "REAL", "FAKE"],
            "frame": [3, 1, 4],
        }
    )
    table = CropTable.from_index(index)
    assert table.y_true.tolist() == [1, 0, 1]
    assert table.frame.tolist() == [3, 1, 4]
    assert table.video[0] == table.video[2] != table.video[1]  # one name, two data sets
    assert table.source[0] == table.source[2] != table.source[1]


def test_every_crop_once_where_all_are_asked_for():
    assert sorted(draw().ravel()) == list(range(160))


def test_so_many_random_crops_of_each_video():
    rows = draw(frames_per_video=3).ravel()
    counts = np.bincount(TABLE.video[rows])
    assert set(counts) == {3}
    assert len(set(rows)) == len(rows) == 48
    frames = {tuple(sorted(TABLE.frame[rows][TABLE.video[rows] == v])) for v in range(16)}
    assert len(frames) > 8  # not the same frames of each


def test_epochs_draw_different_frames_and_in_time_all():
    drawn = [set(draw(seed=seed, frames_per_video=3).ravel()) for seed in range(20)]
    assert drawn[0] != drawn[1]
    assert len(set.union(*drawn)) > 150


def test_balanced_classes_have_as_many_crops_and_every_fake_video_its_turn():
    rows = draw(frames_per_video=6, balanced=True).ravel()
    y_true = TABLE.y_true[rows]
    assert (y_true == 0).sum() == (y_true == 1).sum() == 4 * 6
    assert len(set(rows)) == len(rows)
    of_fakes = np.bincount(TABLE.video[rows[y_true == 1]])
    assert set(of_fakes[of_fakes > 0]) == {2}  # 24 crops of 12 videos
    assert (of_fakes > 0).sum() == 12


def test_pairs_are_a_real_and_a_fake_of_one_source_and_frame():
    units = draw(frames_per_video=5, pairs=True)
    assert units.shape == (20, 2)
    real, fake = units.T
    assert (TABLE.y_true[real] == 0).all()
    assert (TABLE.y_true[fake] == 1).all()
    assert (TABLE.source[real] == TABLE.source[fake]).all()
    assert (TABLE.frame[real] == TABLE.frame[fake]).all()
    assert len(set(units.ravel())) == 40
    assert len(set(TABLE.video[fake])) > 6  # not always the first fake of a source


def hand_made(rows):
    columns = ["source", "label", "frame", "video"]
    return CropTable.from_index(pd.DataFrame(rows, columns=columns).assign(dataset="d"))


def test_pair_falls_back_from_frame_to_source_to_any():
    table = hand_made(
        [("a", "REAL", 0, "a"), ("a", "REAL", 5, "a"), ("b", "REAL", 0, "b"),
         ("a", "FAKE", 0, "a1"), ("a", "FAKE", 9, "a1"), ("c", "FAKE", 0, "c1")]
    )  # fmt: skip
    for seed in range(8):
        partner = dict(draw(table, seed, pairs=True).tolist())
        assert partner[0] == 3  # same source and frame
        assert partner[1] in (3, 4)  # same source
        assert partner[2] in (3, 4, 5)  # its source has no fake
    assert len({dict(draw(table, seed, pairs=True).tolist())[2] for seed in range(20)}) == 3


def test_two_reals_of_one_source_get_two_fakes():
    table = hand_made([("a", "REAL", 0, "a"), ("a", "REAL", 1, "a"),
                       ("a", "FAKE", 7, "x"), ("a", "FAKE", 8, "y")])  # fmt: skip
    assert all(set(draw(table, seed, pairs=True)[:, 1]) == {2, 3} for seed in range(8))


@pytest.mark.parametrize("options", [{"balanced": True}, {"pairs": True}])
def test_one_class_is_refused_where_both_are_needed(options):
    with pytest.raises(ValueError, match="both"):
        draw(hand_made([("a", "REAL", 0, "a"), ("b", "REAL", 0, "b")]), **options)


def test_batches_leave_nothing_out_and_none_is_too_small_for_its_processes():
    units = np.arange(23)[:, None]
    sizes = [[len(b) for b in split_batches(units, 10, processes)] for processes in (1, 2)]
    assert sizes == [[10, 10, 3], [10, 13]]
    assert np.array_equal(np.concatenate(split_batches(units, 7, 2)), units)


def test_a_batch_of_pairs_holds_half_as_many_units():
    assert [b.shape for b in split_batches(np.zeros((7, 2), int), 6)] == [(3, 2), (3, 2), (1, 2)]


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_each_batch_and_miss_no_crop(processes, pairs):
    options = {"pairs": pairs, "frames_per_video": 7, "batch_size": 12}
    whole = shown(plan(**options), epoch=3)
    parts = [shown(plan(rank=r, processes=processes, **options), 3) for r in range(processes)]
    together = np.concatenate([share for shares in zip(*parts) for share in shares])
    assert np.array_equal(together, np.concatenate(whole))
    assert all(share.size >= 2 for part in parts for share in part)


def test_order_follows_from_seed_and_epoch_alone():
    def order(seed, epoch):
        return np.concatenate(shown(plan(seed=seed), epoch)).ravel().tolist()

    np.random.seed(5)
    first = order(0, 3)
    np.random.seed(6)
    assert order(0, 3) == first
    assert sorted(order(0, 4)) == sorted(first)
    assert order(0, 4) != first
    assert order(1, 3) != first
    assert len({tuple(order(seed, 3)) for seed in (0, 1, -1, -2, 2**40)}) == 5


def test_plan_starts_where_a_run_was_stopped():
    whole = shown(plan(), epoch=2)
    rest = shown(plan(), epoch=2, start=5)
    assert len(rest) == len(whole) - 5
    assert all(np.array_equal(a, b) for a, b in zip(whole[5:], rest))


@pytest.mark.parametrize("options", [{}, {"balanced": True}, {"pairs": True}])
def test_every_epoch_has_as_many_steps_and_labels(options):
    made = plan(frames_per_video=3, **options)
    for made.epoch in (1, 2, 9):
        assert [b.size for b in shown(made, made.epoch)] == made.sizes
        assert np.bincount(made.labels()).tolist() == np.bincount(plan(
            frames_per_video=3, **options).labels()).tolist()  # fmt: skip


def test_batch_too_small_for_its_processes_is_refused():
    with pytest.raises(ValueError, match="batch_size 3 gives each of 2 processes"):
        plan(batch_size=3, processes=2)


# images


NONE, REFERENCE = POLICIES["none"], POLICIES["reference"]
BLEND = make_policy("none", {"self_blend": 1.0})


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
    batches(crops, pairs=True)
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
    for _, targets, rows in batches(crops, BLEND, pairs=True):
        assert targets.tolist() == [0, 1] * 2
        real, blended = rows.view(-1, 2).T
        assert torch.equal(real, blended)


def test_some_are_blended_where_the_policy_asks_for_some(crops):
    some = make_policy("none", {"self_blend": 0.5})
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


def test_negative_and_large_seeds_are_taken(crops):
    for seed in (-1, 2**40):
        fill_train(crops, REFERENCE, seed, (1, np.array([[0]])), np.empty((1, 8, 8, 3), np.uint8))
