"""A frozen decision on whole videos: headline, groups, corruption, heat maps, elsewhere."""

from utils.evaluation.results import Evaluation, score_index
from utils.evaluation.robustness import stress
from utils.evaluation.showing import draw, explain, tabulate, worst_errors

__all__ = ["Evaluation", "draw", "explain", "score_index", "stress", "tabulate", "worst_errors"]
