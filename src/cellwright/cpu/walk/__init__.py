"""Emitters of a walk over time: what it reads, its products, its equations."""
