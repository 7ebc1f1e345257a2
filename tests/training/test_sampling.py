import numpy as np
import pandas as pd
import pytest

from utils.training.batches import BatchPlan, CropTable, draw_epoch, split_batches


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
    return draw_epoch(table, np.random.default_rng(seed), **options)


def plan(batch_size=10, **options):
    return BatchPlan(TABLE, batch_size=batch_size, **options)


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
    with pytest.raises(ValueError, match="frames_per_video -2"):
        plan(frames_per_video=-2)
