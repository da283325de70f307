"""Against torch.nn: values, nan and infinity, large numbers, and the size of rounding errors."""

from statistics import median

import pytest
import torch
from tests.cpu.agreement import (
    FORMS,
    Case,
    Run,
    compare,
    double,
    flatten,
    make,
    normal,
    results,
    run,
)
from tests.cpu.cells import BUNDLED
from tests.cpu.torch_layers import torch_layer
from tests.tolerance import assert_close

from cellwright.autograd.operation import run_layer
from cellwright.graph.interpret import interpret_layer

each_cell = pytest.mark.parametrize("cell", BUNDLED, ids=lambda c: c.name)
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)


@DTYPES
@each_cell
@pytest.mark.parametrize("form", FORMS)
def test_agrees_with_torch(cell, form, dtype):
    compare(make(cell, dtype=dtype, **FORMS[form]), truth=torch_layer)


@DTYPES
@each_cell
@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf], ids=str)
@pytest.mark.parametrize("form", ["time first", "one row", "one step of one row", "packed"])
def test_special_values_come_out_where_torch_has_them(cell, value, form, dtype):
    case = make(cell, dtype=dtype, **FORMS[form])
    for name, tensor in flatten(case).items():
        kept = tensor.clone()
        tensor.view(-1)[tensor.numel() // 2] = value
        with torch.no_grad():
            ours, theirs = results(case), results(case, torch_layer)
        again, _ = run(case, {n: torch.ones_like(t) for n, t in theirs.items()})
        for result, expected in theirs.items():
            where = f"{result} after {value} in {name}"
            for found in (ours[result], again[result]):
                assert torch.equal(found.isnan(), expected.isnan()), where
                assert torch.equal(found.isposinf(), expected.isposinf()), where
                assert torch.equal(found.isneginf(), expected.isneginf()), where
            assert_close(ours[result], expected, where)
        tensor.copy_(kept)


@DTYPES
@each_cell
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_special_values_in_gradients(cell, value, dtype):
    case = make(cell, dtype=dtype, steps=3, batch=2)
    case.x[1, 1, 0] = value
    cotangents = {n: torch.ones_like(t) for n, t in results(case).items()}
    ours, theirs = run(case, cotangents)[1], run(case, cotangents, engine=torch_layer)[1]
    for name, expected in theirs.items():
        assert torch.equal(ours[name].isnan(), expected.isnan()), name
        assert torch.equal(ours[name].isfinite(), expected.isfinite()), name


@DTYPES
@each_cell
@pytest.mark.parametrize("scale", [30.0, 1e3, 1e6])
def test_large_pre_activations(cell, scale, dtype):
    case = make(cell, dtype=dtype, steps=2)
    for name, tensor in flatten(case).items():
        if name.startswith(("bundles", "biases")):
            tensor.mul_(scale)
    with torch.no_grad():
        ours, theirs = results(case), results(double(case), torch_layer)
    for name, expected in theirs.items():
        assert_close(ours[name], expected, name)


def kind_of(name: str) -> str:
    """Return what a tensor is: a result, an input, weights or biases."""
    if name == "x" or name.endswith(".start"):
        return "gradient of inputs"
    if name == "output" or name.endswith(".final"):
        return "results"
    return f"gradient of {name.partition('.')[0]}"


def errors(case: Case, engine: Run, draws: int) -> dict[str, float]:
    """Return the median, over draws of all tensors, of the largest error of each kind."""
    found: dict[str, list[float]] = {}
    for seed in range(draws):
        torch.manual_seed(seed)
        for tensor in flatten(case).values():
            scale = 1.0 if tensor is case.x else tensor.shape[-1] ** -0.5
            tensor.copy_(normal(*tensor.shape, dtype=tensor.dtype) * scale)
        with torch.no_grad():
            shapes = {n: t.shape for n, t in results(case, interpret_layer).items()}
        cotangents = {n: normal(*shape, dtype=torch.float64) for n, shape in shapes.items()}
        right = run(double(case), cotangents, engine=interpret_layer)
        ours = run(case, cotangents, engine=engine)
        worst: dict[str, float] = {}
        for name, expected in (right[0] | right[1]).items():
            error = ((ours[0] | ours[1])[name].detach().double() - expected.detach()).abs().max()
            kind = kind_of(name)
            worst[kind] = max(worst.get(kind, 0.0), float(error))
        for kind, error in worst.items():
            found.setdefault(kind, []).append(error)
    return {kind: median(values) for kind, values in found.items()}


@each_cell
@pytest.mark.parametrize(
    ("steps", "batch", "hidden", "inputs"),
    [
        (30, 1, 65, 17),
        (20, 8, 17, 3),
        (12, 17, 65, 17),
        (128, 16, 64, 32),
        (6, 4, 160, 8),  # of few rows, torch sums up in many parts
        (6, 1, 100, 256),
        (4, 9, 700, 40),
        (24, 2, 256, 128),  # AMX, where it is, takes the input ahead of the walk
    ],
)
def test_errors_are_no_larger_than_those_of_torch(cell, steps, batch, hidden, inputs):
    """In float32, against float64: at most 1.5 times torch's own error.

    The statistic: the largest absolute error over all results, all gradients of inputs and initial
    states, of weights, or of biases; of that the median over 25 draws of all tensors.
    """
    case = make(cell, hidden, inputs, steps=steps, batch=batch)
    ours, theirs = errors(case, run_layer, 25), errors(case, torch_layer, 25)
    for kind, error in theirs.items():
        assert ours[kind] <= 1.5 * error, f"{kind}: {ours[kind]:.2e}, torch has {error:.2e}"
