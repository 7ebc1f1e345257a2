"""Which frames of a video are kept."""

import pandas as pd

from utils.data.crops import spread_frames


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
