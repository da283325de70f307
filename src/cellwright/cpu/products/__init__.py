"""Emitters of matrix products over all steps at once, which follow a walk back."""
