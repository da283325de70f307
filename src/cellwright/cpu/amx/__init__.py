"""Products by AMX: the unit, planes of bfloat16, a walk's blocks, products over all steps."""
