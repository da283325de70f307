"""The Python functions: data frames in, results out, options heeded or refused, one way to each."""

import json
import signal

import polars as pl
import pytest
import torch

from cellwright import app, cell, sigmoid
from cellwright.app.data import Options
from cellwright.app.errors import InputError
from cellwright.app.schema import Missing
from cellwright.app.training.checkpoint import remove_checkpoint
from cellwright.app.training.session import Interrupted


@cell
def fading(x, h):
    return sigmoid(x.a + h.a)


@pytest.fixture(scope="module")
def frame():
    torch.manual_seed(0)
    rows = [
        {"id": n, "x": float(torch.randn(())) + n % 2, "label": "uv"[n % 2]}
        for n in range(40)
        for _ in range(3 + n % 3)
    ]
    return pl.DataFrame(rows)


LABELLED = Options(targets=("label",), series="id")


def small(problem, **changes):
    return app.recipe_for(problem, epochs=2, **changes)


def test_a_user_goes_from_a_frame_to_predictions_and_back_from_a_folder(frame, tmp_path):
    problem = app.read(frame, LABELLED)
    told = []
    model = app.train(problem, cell=fading, hidden_size=3, recipe=small(problem),
                      out=tmp_path / "model", progress=told.append)  # fmt: skip
    assert [update.epoch for update in told if update.finished] == [1, 2]
    said = app.predict(model, frame.drop("label"))
    assert said.columns == ["id", "predicted label", "probability u", "probability v"]
    loaded = app.load(tmp_path / "model")
    assert app.predict(loaded, frame).equals(said)
    assert app.predict(tmp_path / "model", frame).equals(said)
    assert loaded.network.design == model.network.design
    about = loaded.about
    assert json.loads(json.dumps(about["training"])) == about["training"]
    assert about["training"]["finished"] is True
    assert about["metrics"]["name"] == "accuracy"
    assert not (tmp_path / "model" / "checkpoint").exists()
    stream = app.stream(loaded)
    assert set(stream.step({"x": 0.5})) == {"predicted label", "probability u", "probability v"}


def test_training_into_a_model_replaces_it_and_other_folders_are_left_alone(frame, tmp_path):
    problem = app.read(frame, LABELLED)
    for size in (2, 3):
        app.train(problem, hidden_size=size, recipe=small(problem), out=tmp_path / "model")
    assert app.load(tmp_path / "model").network.design.hidden_size == 3
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.txt").write_text("meow")
    with pytest.raises(InputError, match=r"photos: expected a new folder .* holds other files"):
        app.train(problem, recipe=small(problem), out=tmp_path / "photos")
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["cat.txt"]


def test_an_interrupted_training_leaves_an_older_model_until_it_is_done(frame, tmp_path):
    problem, out = app.read(frame, LABELLED), tmp_path / "model"
    recipe = app.recipe_for(problem, epochs=4)

    def stop(update):
        if update.finished and update.epoch == 2:
            signal.raise_signal(signal.SIGINT)

    app.train(problem, hidden_size=2, recipe=recipe, out=out)
    with pytest.raises(Interrupted) as caught:
        app.train(problem, hidden_size=3, recipe=recipe, out=out, progress=stop)
    (note,) = caught.value.__notes__
    assert note.startswith(f"the model in {out} is still the one of an earlier training; go on")
    assert app.load(out).network.design.hidden_size == 2
    app.train(problem, hidden_size=3, recipe=recipe, out=out, resume=True)
    assert app.load(out).network.design.hidden_size == 3
    for _ in range(2):  # but one that is itself unfinished is replaced
        with pytest.raises(Interrupted) as caught:
            app.train(problem, hidden_size=4, recipe=recipe, out=tmp_path / "new", progress=stop)
        assert "the best epoch so far" in caught.value.__notes__[0]
        remove_checkpoint(tmp_path / "new")


def test_a_comparison_of_a_frame_writes_its_report(frame, tmp_path):
    problem = app.read(frame, LABELLED)
    made = app.compare(problem, cells=["rnn", fading], hidden_size=3, recipe=small(problem),
                       seeds=1, report=tmp_path / "r.html")  # fmt: skip
    labels = [entry.label for entry in made.entries]
    assert labels == ["RNN", "fading", "majority class", "logistic regression"]
    assert (tmp_path / "r.html").read_text(encoding="utf-8").startswith("<!doctype html>")


def test_bundled_data_has_short_names_and_takes_options():
    weather = app.read("weather", Options(horizon=2))
    assert (weather.name, weather.schema.horizon) == ("Seattle weather", 2)
    assert app.read("vowels").name == "Japanese Vowels"
    assert app.read(weather) is weather


def test_what_a_task_has_no_use_for_is_refused(frame):
    with pytest.raises(InputError, match=r"expected no horizon, for .* the task classify"):
        app.read(frame, Options(targets=("label",), series="id", horizon=2))
    with pytest.raises(InputError, match="expected no unit"):
        app.read("weather", Options(unit="byte"))
    with pytest.raises(
        InputError, match="expected no series, for topics is read for the task text"
    ):
        app.read("topics", Options(series="id"))
    with pytest.raises(InputError, match="a problem already"):
        app.read(app.read("vowels"), Options(missing=Missing.MASK))
    with pytest.raises(InputError, match="leave --test out"):
        app.read("vowels", test="other.csv")


def test_recipes_take_changes_by_name():
    problem = app.read("weather")
    usual = app.recipe_for(problem)
    assert app.recipe_for(problem, epochs=None) == usual
    assert app.recipe_for(problem, window=usual.window + 1).window == usual.window + 1
    with pytest.raises(InputError, match=r"expected one of epochs, .* but got 'epoch'"):
        app.recipe_for(problem, epoch=3)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_seeds_are_checked(seed):
    with pytest.raises(InputError, match=f"expected a seed from 0 .* but got {seed}$"):
        app.train("weather", seed=seed)


def test_the_facade_knows_its_names():
    assert app.__all__ == sorted(app.__all__)
    assert all(callable(getattr(app, name)) for name in app.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        app.nothing  # noqa: B018
