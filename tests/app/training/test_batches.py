"""What goes through a network: everything once, nothing padded, no target but the next ones."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from tests.app.training.problems import PROBLEMS, classify_problem, forecast_problem, generator

from cellwright.app.schema import Task
from cellwright.app.training.batches import epoch, make, passes
from cellwright.app.training.recipe import Recipe

RECIPE = Recipe(batch_size=4, window=5, context=3)


def cuts_of(problem, recipe=RECIPE, seed=0, *, whole=False):
    return epoch(problem.train, problem.schema, recipe, generator(seed), whole=whole)


def rows_of(cut):
    """The rows of each piece, one after another."""
    pairs = zip(cut.starts.tolist(), cut.lengths.tolist(), strict=True)
    return [row for start, length in pairs for row in range(start, start + length)]


@pytest.mark.parametrize("name", PROBLEMS)
def test_nothing_is_padded_and_pieces_fall_in_length(name):
    problem = PROBLEMS[name]()
    for cut in cuts_of(problem):
        batch = make(problem.train, problem.schema, cut)
        assert cut.lengths.tolist() == sorted(cut.lengths.tolist(), reverse=True)
        assert len(batch.inputs.data) == int(cut.lengths.sum())
        values = problem.train.inputs.values[rows_of(cut)]
        got = batch.inputs.data
        assert torch.equal(got.flatten().sort().values, values.flatten().sort().values)


def test_every_sequence_comes_once_and_in_windows():
    problem = classify_problem(23, longest=17)
    seen = Counter()
    alive = []
    for cut in cuts_of(problem):
        seen.update(rows_of(cut))
        if cut.fresh:
            alive = cut.sequences.tolist()
        assert alive[: len(cut.sequences)] == cut.sequences.tolist()
        assert int(cut.lengths.max()) <= RECIPE.window
        batch = make(problem.train, problem.schema, cut)
        assert torch.equal(batch.targets, problem.train.targets[cut.sequences])
    assert seen == Counter(range(len(problem.train.inputs.values)))
    assert all(cut.fresh for cut in cuts_of(problem, whole=True))
    orders = [[c.sequences.tolist() for c in cuts_of(problem, seed=s)] for s in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]


def test_a_forecast_learns_from_each_origin_once_and_from_its_own_series():
    problem = forecast_problem()
    part = problem.train
    seen = Counter()
    for cut in cuts_of(problem):
        batch = make(part, problem.schema, cut)
        steps = torch.arange(int(cut.lengths[0]))[:, None]
        rows = (cut.starts + steps)[steps < cut.lengths][batch.rows]
        seen.update(rows.tolist())
        for ahead in (1, 2):
            assert torch.equal(batch.targets[:, 0, ahead - 1], part.targets[rows + ahead, 0])
        stops = part.inputs.starts[cut.sequences + 1]
        assert (cut.starts >= part.inputs.starts[cut.sequences]).all()
        assert (cut.starts + cut.lengths <= stops).all()
        assert (cut.warm_up <= RECIPE.context).all()
        assert batch.total == batch.count == len(rows) > 0
    assert seen == Counter(part.origins.nonzero()[:, 0].tolist())


def test_a_text_is_read_in_streams_whose_targets_are_the_next_symbols():
    problem = PROBLEMS["text"]()
    text = problem.train.targets
    seen = Counter()
    ends = None
    for cut in cuts_of(problem):
        batch = make(problem.train, problem.schema, cut)
        seen.update(rows_of(cut))
        if not cut.fresh:
            assert torch.equal(cut.starts, ends)
        ends = cut.starts + cut.lengths
        streams = batch.targets.view(-1, len(cut.starts))
        for stream, start in enumerate(cut.starts.tolist()):
            length = len(streams)
            assert torch.equal(streams[:, stream], text[start + 1 : start + 1 + length])
    assert max(seen.values()) == 1
    assert len(seen) > len(text) - RECIPE.window - RECIPE.batch_size - 1


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("processes", [2, 3, 7])
def test_shares_make_the_whole(name, processes):
    problem = PROBLEMS[name]()
    for cut in cuts_of(problem):
        whole = make(problem.train, problem.schema, cut, noise=0.5, generator=generator(1))
        shares = [
            make(
                problem.train,
                problem.schema,
                cut,
                noise=0.5,
                generator=generator(1),
                share=(rank, processes),
            )
            for rank in range(processes)
        ]
        assert sum(share.count for share in shares) == whole.count == whole.total
        assert {share.total for share in shares} == {whole.total}
        busy = [share for share in shares if share.count or len(share.inputs.data) > 1]
        rows = torch.cat([share.inputs.data.flatten() for share in busy]).tolist()
        if all(share.count for share in shares):
            assert Counter(rows) == Counter(whole.inputs.data.flatten().tolist())
        targets = torch.cat([share.targets.flatten() for share in shares])
        assert torch.equal(targets.sort().values, whole.targets.flatten().sort().values)


def test_noise_is_fresh_and_never_in_the_data():
    problem = classify_problem(40)
    before = problem.train.inputs.values.clone()
    cut = cuts_of(problem, replace(RECIPE, batch_size=40, window=50))[0]
    g = generator(2)
    clean = make(problem.train, problem.schema, cut).inputs.data
    noisy = [make(problem.train, problem.schema, cut, noise=0.5, generator=g) for _ in range(2)]
    first, second = (batch.inputs.data - clean for batch in noisy)
    assert not torch.equal(first, second)
    assert abs(first.std().item() - 0.5) < 0.05
    assert torch.equal(problem.train.inputs.values, before)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("rows", [1, 7, 10_000])
@pytest.mark.parametrize("whole", [False, True])
def test_passes_read_every_step_once(name, rows, whole):
    problem = PROBLEMS[name]()
    seen = Counter()
    for cut in passes(problem.train, problem.schema, rows, whole=whole):
        assert whole or int(cut.lengths.sum()) <= max(rows, 1)
        seen.update(rows_of(cut))
    last = problem.schema.task is Task.TEXT
    assert seen == Counter(range(len(problem.train.inputs.values) - last))
