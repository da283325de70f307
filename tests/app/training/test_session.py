"""The training loop: it learns, its seed sets it, it stops early, and it says what goes wrong."""

import math
from dataclasses import replace

import pytest
import torch
from tests.app.training.problems import PROBLEMS, classify_problem, forecast_problem, text_problem
from torch import nn

from cellwright.app.errors import InputError
from cellwright.app.model.design import Design
from cellwright.app.problem import Ragged
from cellwright.app.training.evaluate import assess, evaluate
from cellwright.app.training.recipe import Recipe
from cellwright.app.training.session import initial_network, train
from cellwright.cells import CELLS

GRU = Design(CELLS["gru"], 8)
SHORT = Recipe(epochs=3, batch_size=5, window=6, context=3)


def weights_of(trained):
    return torch.cat([value.flatten() for value in trained.network.state_dict().values()])


@pytest.mark.parametrize(
    ("make", "better"),
    [
        (classify_problem, lambda score: score > 0.9),
        (lambda: forecast_problem((300, 200), horizon=1), lambda score: score < 1.0),
        (lambda: text_problem(2000), lambda score: score < 1.0),
    ],
)
def test_every_task_is_learned(make, better):
    problem = make()
    recipe = replace(SHORT, epochs=25, learning_rate=2e-2, window=20, patience=None)
    before, _ = evaluate(
        initial_network(problem, GRU), problem.test, problem.schema, problem.scaling
    )
    trained = train(problem, GRU, recipe)
    assert not better(before)
    assert better(trained.run.score)
    assert trained.run.history[-1].train_loss < trained.run.history[0].train_loss / 2


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_seed_is_a_training_of_its_own(name):
    problem = PROBLEMS[name]()
    design = replace(GRU, dropout=0.2)
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    runs = [train(problem, design, SHORT, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.rand(3), expected), "the user's own randomness was touched"
    assert torch.equal(weights_of(runs[0]), weights_of(runs[1]))
    assert not torch.equal(weights_of(runs[0]), weights_of(runs[2]))
    scores = [[epoch.validation_score for epoch in run.run.history] for run in runs]
    assert scores[0] == scores[1]


def test_windows_carry_the_state_and_whole_sequences_need_none():
    problem = classify_problem(validation=False)
    longest = int(problem.train.inputs.lengths.max())
    whole, same, parted = (
        train(problem, GRU, replace(SHORT, window=window)) for window in (longest, 1000, 3)
    )
    assert torch.equal(weights_of(whole), weights_of(same))
    assert not torch.allclose(weights_of(whole), weights_of(parted))


def test_the_best_epoch_is_kept_and_patience_ends():
    problem = classify_problem()
    part = problem.validation
    # what is learned is wrong here, so that the first epochs are the best ones
    wrong = replace(problem, validation=replace(part, targets=1 - part.targets))
    recipe = replace(SHORT, epochs=40, patience=4, learning_rate=2e-2)
    trained = train(wrong, GRU, recipe)
    history = trained.run.history
    assert len(history) == trained.best_epoch + 4 < 40
    best = max(history, key=lambda epoch: (epoch.validation_score, -epoch.validation_loss))
    assert best.number == trained.best_epoch
    found = assess(trained.network, wrong.validation, wrong.schema, wrong.scaling)
    assert found.score == best.validation_score
    assert found.loss == pytest.approx(best.validation_loss)
    assert trained.run.score == evaluate(trained.network, wrong.test, wrong.schema, None)[0]
    assert len(train(wrong, GRU, replace(recipe, epochs=8, patience=None)).run.history) == 8
    last = train(replace(problem, validation=None), GRU, SHORT)
    assert last.best_epoch == 3
    assert {epoch.validation_score for epoch in last.run.history} == {None}


def test_progress_is_told_of_every_step_and_epoch():
    problem = classify_problem(23)
    updates = []
    trained = train(problem, GRU, replace(SHORT, window=100), progress=updates.append)
    steps = [update for update in updates if update.finished is None]
    assert [(u.epoch, u.step) for u in steps] == [(e, s) for e in (1, 2, 3) for s in range(1, 6)]
    assert {(u.epochs, u.steps) for u in updates} == {(3, 5)}
    assert [u.finished for u in updates if u.finished] == list(trained.run.history)
    assert steps[0].score is None
    assert steps[5].score == trained.run.history[0].validation_score
    assert all(u.sequences_per_second > 0 and math.isfinite(u.loss) for u in steps)
    sizes = torch.tensor([5.0] * 4 + [3.0])  # the last batch has what is left, wherever it comes
    first = torch.tensor([u.loss for u in steps[:5]])
    assert sizes.sum() == 23
    assert first.min() < trained.run.history[0].train_loss < first.max()


def test_a_loss_that_is_not_finite_says_what_to_do():
    problem = classify_problem()
    values = problem.train.inputs.values.clone()
    values[5] = math.inf
    damaged = replace(
        problem, train=replace(problem.train, inputs=Ragged(values, problem.train.inputs.starts))
    )
    with pytest.raises(InputError, match=r"in epoch 1, step \d; lower the learning rate"):
        train(damaged, GRU, SHORT)


def test_other_layers_can_be_trained_in_the_same_place():
    def on_torch(ours):
        theirs = nn.GRU(ours.input_size, ours.hidden_size)
        theirs.load_state_dict(ours.state_dict())
        return theirs

    problem = classify_problem()
    ours = train(problem, GRU, SHORT)
    theirs = train(problem, GRU, SHORT, make_recurrent=on_torch)
    assert isinstance(theirs.network.recurrent, nn.GRU)
    torch.testing.assert_close(weights_of(ours), weights_of(theirs), rtol=1e-3, atol=1e-4)


def test_double_precision_trains_in_doubles_and_gives_singles():
    problem = classify_problem()
    single = train(problem, GRU, SHORT)
    double = train(problem, GRU, replace(SHORT, precision="64-true"))
    assert {p.dtype for p in double.network.parameters()} == {torch.float32}
    torch.testing.assert_close(weights_of(single), weights_of(double), rtol=1e-3, atol=1e-3)
    assert not torch.equal(weights_of(single), weights_of(double))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs at least 1"),
        ({"learning_rate": math.nan}, "learning_rate above 0"),
        ({"patience": 0}, "patience at least 1"),
        ({"noise": -1.0}, "noise at least 0"),
        ({"precision": "16"}, "32-true or 64-true"),
    ],
)
def test_a_recipe_that_makes_no_sense_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        Recipe(**values)


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_recipe_fits_its_problem_and_comes_back_from_json(name):
    recipe = Recipe.for_problem(PROBLEMS[name]())
    assert Recipe.from_json(recipe.to_json()) == recipe
    with pytest.raises(InputError, match="another version"):
        Recipe.from_json({"epochs": 3})
