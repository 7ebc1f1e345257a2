"""The network, its transform, the one way from crops to logits."""

from utils.model.network import build_model
from utils.model.scoring import loss_of

__all__ = ["build_model", "loss_of"]
