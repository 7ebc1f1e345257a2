"""A frozen decision on whole videos: headline, groups, corruption, heat maps, elsewhere."""

from utils.evaluation.explanation import explain, worst_errors
from utils.evaluation.results import Evaluation, score_index
from utils.evaluation.robustness import stress
from utils.evaluation.showing import draw, tabulate

__all__ = ["Evaluation", "draw", "explain", "score_index", "stress", "tabulate", "worst_errors"]
