"""Random small cells: kernel and interpreter agree, forward and backward."""

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.cpu.agreement import compare, make
from tests.random_cells import REPRODUCIBLE, cells


@settings(REPRODUCIBLE, max_examples=25)
@given(cell=cells(), directions=st.integers(1, 2), packed=st.booleans(), bias=st.booleans())
def test_random_cells(cell, directions, packed, bias):
    hidden = 9  # a whole vector and a part of one, or several
    lengths = (4, 3, 3, 1) if packed else None
    options = {"directions": directions, "bias": bias, "lengths": lengths}
    compare(make(cell, hidden, inputs=hidden, batch=3, **options))
