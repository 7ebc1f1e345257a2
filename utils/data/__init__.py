"""Layouts that people have → one index, audit, leak-free split, cheap baselines."""

from utils.data.baselines import leakage_ladder
from utils.data.crops import STATISTICS
from utils.data.indexing import ensure_index

__all__ = ["STATISTICS", "ensure_index", "leakage_ladder"]
