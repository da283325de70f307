"""Calls: what each needs, how it runs, its threads, and the machine code with its addresses."""
