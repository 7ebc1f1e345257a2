"""What the notebooks share: data, model, metrics, figures and the report."""
