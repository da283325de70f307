"""Cellwright's speed and memory beside ``torch.nn``: ``python -m benchmarks --help``."""
