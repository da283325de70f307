"""Plain methods beside the networks, so that a reader sees whether a recurrent network pays.

All are fitted on the training part alone and judged on the same sequences, origins, steps ahead or
characters as the networks. Shapes: N sequences, S steps of all sequences together, H_in input
columns, K targets, P steps ahead, V characters.
"""

import math
from time import perf_counter
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.model_selection import GridSearchCV, TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from cellwright.app.problem import Part, Problem, Scaling
from cellwright.app.schema import Task
from cellwright.app.training.evaluate import which_unknown
from cellwright.app.training.results import Entry, Run

__all__ = ["baselines"]

LAGS = 14
"""Steps that ridge looks back, beside those of one season ago."""
ALPHAS = tuple(float(alpha) for alpha in np.logspace(-1, 5, 13))
FOLDS = 5
MOST_ROWS = 50_000
"""Rows that ridge is fitted on; of more, every n-th is taken."""
LOGISTIC_ITERATIONS = 5000


def baselines(problem: Problem) -> tuple[Entry, ...]:
    """The plain methods of the problem's task, fitted and judged.

    classify: majority class; logistic regression on each column's mean, deviation, smallest,
    largest, first and last value and on the length. forecast: last value; seasonal naive where
    there is a season; ridge on lags, its penalty chosen by cross-validation in the order of time.
    text: unigram with add-one smoothing; bigram with Witten and Bell's interpolation.
    """
    match problem.schema.task:
        case Task.CLASSIFY:
            return _classifiers(problem)
        case Task.FORECAST:
            return _forecasters(problem)
        case Task.TEXT:
            return _text_models(problem)


def _entry(
    label: str,
    score: float,
    started: float,
    *,
    parameters: int | None = None,
    predictions: Tensor | None = None,
) -> Entry:
    run = Run(seed=0, history=(), score=score, seconds=perf_counter() - started)
    return Entry(label, None, None, parameters, (run,), predictions=predictions)


def _classifiers(problem: Problem) -> tuple[Entry, ...]:
    classes = len(problem.schema.classes)
    majority = DummyClassifier(strategy="prior")
    logistic = make_pipeline(StandardScaler(), LogisticRegression(max_iter=LOGISTIC_ITERATIONS))
    train, test = _summary_features(problem.train), _summary_features(problem.test)
    entries = []
    for label, method in (("majority class", majority), ("logistic regression", logistic)):
        started = perf_counter()
        method.fit(train, problem.train.targets.numpy())
        probabilities = torch.zeros(len(test), classes)
        probabilities[:, torch.from_numpy(method.classes_)] = _float(method.predict_proba(test))
        right = probabilities.argmax(1) == problem.test.targets
        parameters = None
        if method is logistic:
            linear = logistic[-1]
            parameters = int(linear.coef_.size + linear.intercept_.size)
        entries.append(
            _entry(label, float(right.double().mean()), started, parameters=parameters,
                   predictions=probabilities)
        )  # fmt: skip
    return tuple(entries)


def _summary_features(part: Part) -> NDArray[np.float64]:
    """(N, 6 · H_in + 1): what is left of each sequence when its order is dropped."""
    rows = []
    for n in range(len(part)):
        x = part.inputs[n].double()
        deviation, mean = torch.std_mean(x, 0, correction=0)
        rows.append(torch.cat((mean, deviation, x.amin(0), x.amax(0), x[0], x[-1])))
    lengths = part.inputs.lengths.double()[:, None]
    summary: NDArray[np.float64] = torch.cat((torch.stack(rows), lengths), 1).numpy()
    return summary


def _forecasters(problem: Problem) -> tuple[Entry, ...]:
    horizon, season = problem.schema.horizon, problem.schema.season
    test = problem.test
    started = perf_counter()
    entries = [_forecaster("last value", _seasonal(test, horizon, 1), problem, started)]
    if season > 1:
        started = perf_counter()
        seasonal = _seasonal(test, horizon, season)
        entries.append(_forecaster(f"seasonal naive ({season})", seasonal, problem, started))
    started = perf_counter()
    ridge, parameters = _ridge(problem.train, test, horizon, season)
    entries.append(_forecaster("ridge on lags", ridge, problem, started, parameters))
    return tuple(entries)


def _forecaster(
    label: str, scaled: Tensor, problem: Problem, started: float, parameters: int | None = None
) -> Entry:
    """A row for scaled forecasts (S, K, P) of the test part."""
    scaling = problem.scaling
    assert scaling is not None  # only text has none
    values = _unscaled(scaled, scaling)
    score = _mean_absolute_error(values, problem.test, scaling)
    predictions = torch.full((*values.shape, 3), math.nan)
    predictions[..., 1] = values
    return _entry(label, score, started, parameters=parameters, predictions=predictions)


def _unscaled(values: Tensor, scaling: Scaling) -> Tensor:
    """(S, K, P) in the targets' units."""
    return values * scaling.target_deviation[:, None] + scaling.target_mean[:, None]


def _truth(part: Part, horizon: int, at: Tensor) -> Tensor:
    """(len(at), K, P): the scaled values of the steps after each of the steps `at`."""
    ahead = at[:, None] + torch.arange(1, horizon + 1)
    return part.targets[ahead].transpose(1, 2)


def _mean_absolute_error(values: Tensor, part: Part, scaling: Scaling) -> float:
    at = _origins(part)
    truth = _unscaled(_truth(part, values.shape[2], at), scaling)
    return float((values[at] - truth).abs().double().mean())


def _origins(part: Part) -> Tensor:
    """The steps whose forecasts count, (number of origins,)."""
    assert part.origins is not None  # a forecast has origins
    return torch.nonzero(part.origins).flatten()


def _first_steps(part: Part) -> Tensor:
    """(S,): for each step the first step of its sequence."""
    return part.inputs.starts[:-1].repeat_interleave(part.inputs.lengths)


def _seasonal(part: Part, horizon: int, season: int) -> Tensor:
    """(S, K, P): the latest known value at the same place in the season, scaled.

    Where a series is younger than a season, its last value stands in.
    """
    steps = torch.arange(len(part.targets))[:, None]
    ahead = torch.arange(1, horizon + 1)
    seasons = torch.ceil(ahead / season).long()
    source = steps + ahead - season * seasons
    source = torch.where(source < _first_steps(part)[:, None], steps, source)
    return part.targets[source].transpose(1, 2)


def _ridge(train: Part, test: Part, horizon: int, season: int) -> tuple[Tensor, int]:
    """(S, K, P) of `test`, scaled, and the number of coefficients.

    What is fitted is the change from the last value, as the networks' is: a strong penalty then
    leads to the last value and not to the mean.
    """
    at = _in_order_of_time(train)
    at = at[:: max(1, math.ceil(len(at) / MOST_ROWS))]
    changes = _truth(train, horizon, at) - train.targets[at][:, :, None]
    folds = min(FOLDS, len(at) // (2 * horizon * len(train)) - 1)
    if folds >= 2:
        gap = (horizon - 1) * len(train)  # what one origin asks for, the next ones may see
        search: Any = GridSearchCV(
            Ridge(),
            {"alpha": ALPHAS},
            cv=TimeSeriesSplit(folds, gap=gap),
            scoring="neg_mean_absolute_error",
        )
    else:
        search = Ridge()  # too short to choose a penalty
    search.fit(_lagged(train, at, season), changes.flatten(1).double().numpy())
    linear = search.best_estimator_ if folds >= 2 else search
    steps = torch.arange(len(test.targets))
    fitted = [  # in pieces: lags of all steps at once would be many times the data
        _float(np.atleast_2d(linear.predict(_lagged(test, piece, season)).T).T)
        for piece in steps.split(MOST_ROWS)
    ]
    change = torch.cat(fitted).unflatten(1, changes.shape[1:])
    parameters = int(np.size(linear.coef_) + np.size(linear.intercept_))
    return test.targets[:, :, None] + change, parameters


def _in_order_of_time(part: Part) -> Tensor:
    """The origins of all series, earlier ones first."""
    at = _origins(part)
    if len(part) == 1:
        return at
    if part.times is not None:
        order = torch.from_numpy(part.times.rank("dense").to_numpy().astype(np.int64))[at]
    else:
        order = (torch.arange(len(part.targets)) - _first_steps(part))[at]
    return at[torch.argsort(order, stable=True)]


def _lagged(part: Part, at: Tensor, season: int) -> NDArray[np.float64]:
    """(len(at), lags · H_in): the inputs of the last steps and of one season before the next."""
    lags = torch.arange(LAGS)
    if season > LAGS:
        lags = torch.cat((lags, torch.tensor([season - 1])))
    first = _first_steps(part)[at]
    source = torch.maximum(at[:, None] - lags, first[:, None])
    lagged: NDArray[np.float64] = part.inputs.values[source].flatten(1).double().numpy()
    return lagged


def _text_models(problem: Problem) -> tuple[Entry, ...]:
    size = len(problem.schema.vocabulary)
    train, test = problem.train.inputs.values.long(), problem.test.inputs.values.long()
    before, after = test[:-1], test[1:]
    which = float(which_unknown(problem.schema, after).double().mean())
    started = perf_counter()
    unigram = (torch.bincount(train, minlength=size).double() + 1) / (len(train) + size)
    first = _entry("unigram", _bits(unigram[after]) + which, started, parameters=size)
    started = perf_counter()
    pairs = torch.bincount(train[:-1] * size + train[1:], minlength=size * size)
    counts = pairs.view(size, size).double()
    kinds = (counts > 0).sum(1, keepdim=True)
    # A character never seen has no followers: the unigram speaks for it alone.
    total = (counts.sum(1, keepdim=True) + kinds).clamp(min=1)
    rest = torch.where(kinds > 0, kinds / total, 1.0)
    bigram = counts / total + rest * unigram
    second = _entry(
        "bigram",
        _bits(bigram[before, after]) + which,
        started,
        parameters=int((counts > 0).sum()) + size,
    )
    return first, second


def _bits(probabilities: Tensor) -> float:
    """Mean information of what came, in bits per character."""
    return float(-probabilities.log2().mean())


def _float(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values)).float()
