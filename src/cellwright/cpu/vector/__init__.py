"""Emitters of vector code: a small language for it, elementwise functions, products."""
