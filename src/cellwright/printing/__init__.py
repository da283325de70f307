"""Cells as equations to read, in Unicode, LaTeX and MathML."""
