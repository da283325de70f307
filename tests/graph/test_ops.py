"""Every operation has an entry in every table, and all entries mean the same."""

import importlib
import importlib.util
import math

import pytest
import torch

from cellwright.graph.derive import RULES
from cellwright.graph.interpret import MEANINGS
from cellwright.graph.ops import ELEMENTWISE, LEAVES
from cellwright.printing.mathml import TEMPLATES

POINTS = [-3.0, -1.0, -0.25, 0.0, 0.5, 1.0, 2.0, 30.0]


def test_every_operation_is_derived_interpreted_and_emitted() -> None:
    assert set(RULES) == set(ELEMENTWISE)
    assert set(MEANINGS) == set(ELEMENTWISE)
    assert set(TEMPLATES) == set(ELEMENTWISE)
    if importlib.util.find_spec("cellwright.cpu") is not None:  # the machine code's own table
        assert set(importlib.import_module("cellwright.cpu.vector.vecmath").EMITTERS) == set(
            ELEMENTWISE
        )
    assert not set(LEAVES) & set(ELEMENTWISE)


@pytest.mark.parametrize("op", sorted(ELEMENTWISE))
def test_a_number_means_what_a_tensor_means(op: str) -> None:
    entry = ELEMENTWISE[op]
    for a in POINTS:
        for b in POINTS if entry.arity == 2 else [0.0]:
            args = [a, b][: entry.arity]
            try:
                number = entry.value(*args)
            except (ArithmeticError, ValueError):
                continue  # left to the machine
            tensors = [torch.tensor(arg, dtype=torch.float64) for arg in args]
            assert math.isclose(number, MEANINGS[op](*tensors).item(), rel_tol=1e-14), (op, args)


@pytest.mark.parametrize("op", sorted(ELEMENTWISE))
def test_the_templates_take_as_many_operands_as_the_operation(op: str) -> None:
    entry = ELEMENTWISE[op]
    names = ["first", "second"][: entry.arity]
    for template in (entry.unicode, entry.latex, TEMPLATES[op]):
        written = template.format(*names)
        assert all(written.count(name) == 1 for name in names)
        assert written.count("{") == written.count("}")
