"""Training, baselines and comparisons."""
