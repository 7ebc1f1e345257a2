"""Any file → one answer; many files → tables and pictures."""

from utils.inference.answers import choose_inputs, judge_files, predict, write_tables
from utils.inference.judging import load_judge
from utils.inference.pictures import Pictures

__all__ = ["Pictures", "choose_inputs", "judge_files", "load_judge", "predict", "write_tables"]
