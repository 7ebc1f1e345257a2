"""What runs around the notebooks."""
