"""What is too short to learn from is refused."""

import pytest
from tests.app.data.tables import daily

from cellwright.app import data
from cellwright.app.data import Options
from cellwright.app.errors import InputError
from cellwright.app.model.design import Design
from cellwright.app.training.session import train
from cellwright.cells import gru


def test_a_series_shorter_than_the_window():
    problem = data.read_problem(daily(20), options=Options(targets=("load",)))
    with pytest.raises(InputError, match=r"at least 32 steps .* lower --window"):
        train(problem, Design(gru, hidden_size=3))
