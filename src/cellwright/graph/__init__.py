"""Cells as graphs: pure Python, no torch except in ``interpret``."""
