"""Layouts that people have → one index, audit, leak-free split, cheap baselines."""

from utils.data.audit import (
    describe_split,
    ensure_index,
    find_leaks,
    leakage_ladder,
    write_index,
)
from utils.data.crops import STATISTICS, find_pairs, read_crops
from utils.data.datasets import describe_videos, index_videos
from utils.data.splits import split_crops

__all__ = [
    "STATISTICS", "describe_split", "describe_videos", "ensure_index", "find_leaks", "find_pairs",
    "index_videos", "leakage_ladder", "read_crops", "split_crops", "write_index",
]  # fmt: skip
