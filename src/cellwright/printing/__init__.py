"""Cells as equations to read, in Unicode and LaTeX."""
