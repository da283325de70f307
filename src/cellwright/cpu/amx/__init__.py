"""Products by Intel's matrix unit: the unit, planes of bfloat16, panels of them."""
