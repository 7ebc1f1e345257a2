"""The network, its transform, the one way from crops to logits."""

from utils.model.network import build_model, choose_model, find_model
from utils.model.scoring import load_scorer, loss_of

__all__ = ["build_model", "choose_model", "find_model", "load_scorer", "loss_of"]
