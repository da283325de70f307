"""What is too short to learn from is refused."""

from dataclasses import replace

import pytest
from tests.app.data.tables import daily

from cellwright.app import data
from cellwright.app.data import Options
from cellwright.app.errors import InputError
from cellwright.app.model.design import Design
from cellwright.app.training.recipe import Recipe
from cellwright.app.training.session import train
from cellwright.cells import gru


def test_a_series_shorter_than_the_window():
    problem = data.read_problem(daily(20), options=Options(targets=("load",)))
    longest = int(problem.train.inputs.lengths.max())
    words = rf"at least 32 steps .* lower --window from 64 to {longest} or less"
    with pytest.raises(InputError, match=words):
        train(problem, Design(gru, hidden_size=3))
    recipe = replace(Recipe.for_problem(problem), window=longest, epochs=1)
    assert train(problem, Design(gru, hidden_size=3), recipe).best_epoch == 1
