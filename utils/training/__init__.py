"""Augmentation, decoded crops, batches, recipes, the loop, its checkpoint."""
