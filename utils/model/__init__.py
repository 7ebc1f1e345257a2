"""The network, its transform, the one way from crops to logits."""
