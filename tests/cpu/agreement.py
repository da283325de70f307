"""Hold compiled layers against the interpreter in float64: results and all gradients.

``compare`` is what the tests of this folder rest on; ``test_mutants.py`` shows that it sees a
wrong kernel.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from tests.cpu.cells import SQUARE
from tests.tolerance import assert_close
from torch import Tensor

from cellwright.autograd.operation import run_layer
from cellwright.cells import lstm
from cellwright.graph.cell import INPUT, PROJECTION, Cell, projected
from cellwright.graph.interpret import Weights, interpret_layer

__all__ = ["FORMS", "Case", "Run", "apply", "compare", "double", "flatten", "make", "normal"]
__all__ += ["results", "run"]

Result = tuple[Tensor, tuple[Tensor, ...]]
Run = Callable[..., Result]


@dataclass
class Case:
    """A call of a layer: the arguments of ``run_layer``."""

    cell: Cell
    x: Tensor
    states: list[Tensor] | None
    weights: list[Weights]
    batch_sizes: list[int] | None
    hidden: int

    @property
    def arguments(self) -> tuple[Any, ...]:
        """The arguments in order."""
        return (self.cell, self.x, self.states, self.weights, self.batch_sizes, self.hidden)


FORMS: dict[str, dict[str, Any]] = {
    "time first": {},
    "one row": {"batch": 1, "steps": 7},
    "one row, zeros": {"batch": 1, "steps": 7, "given": False},
    "two rows, both ways": {"batch": 2, "directions": 2},
    "one step of one row": {"batch": 1, "steps": 1},
    "one step, both ways": {"batch": 3, "steps": 1, "directions": 2},
    "one step of seven rows": {"batch": 7, "steps": 1},
    "two steps of four rows": {"batch": 4, "steps": 2, "directions": 2, "given": False},
    "zeros, both ways": {"directions": 2, "given": False},
    "batch first": {"batch_first": True},
    "batch first, both ways": {"batch_first": True, "directions": 2, "given": False},
    "batch first, one row": {"batch_first": True, "batch": 1},
    "many rows": {"batch": 65, "steps": 2},
    "packed": {"lengths": (6, 4, 4, 1)},
    "packed, both ways": {"lengths": (5, 5, 3, 2, 2, 1, 1), "directions": 2},
    "packed, zeros, both ways": {"lengths": (7, 1, 1), "directions": 2, "given": False},
    "packed, equal lengths": {"lengths": (3, 3)},
    "packed, one row": {"lengths": (4,), "directions": 2},
    "no bias": {"bias": False, "directions": 2},
}
"""Arguments of ``make`` for each way in which a layer may be called."""


def normal(*shape: int, dtype: torch.dtype) -> Tensor:
    """Return random numbers that float32 holds exactly, so that each precision sees the same."""
    return torch.randn(*shape).to(dtype)


def make(
    cell: Cell = lstm,
    hidden: int = 17,
    inputs: int = 3,
    *,
    dtype: torch.dtype = torch.float32,
    steps: int = 4,
    batch: int = 5,
    lengths: Sequence[int] | None = None,
    directions: int = 1,
    given: bool = True,
    bias: bool = True,
    batch_first: bool = False,
    outputs: int | None = None,
) -> Case:
    """Return a call with random tensors.

    ``lengths`` (falling) makes it a packed one; ``outputs`` projects the first state to so many.
    """
    if cell.name in SQUARE:
        inputs = hidden
    batch_sizes = None
    if lengths is not None:
        batch, batch_sizes = len(lengths), [sum(n > t for n in lengths) for t in range(lengths[0])]
        x = normal(sum(lengths), inputs, dtype=dtype)
    elif batch_first:
        x = normal(batch, steps, inputs, dtype=dtype).transpose(0, 1)
    else:
        x = normal(steps, batch, inputs, dtype=dtype)
    widths = dict.fromkeys(cell.states, hidden) | {INPUT: inputs}
    if outputs is not None:
        cell, widths[cell.states[0]] = projected(cell), outputs
    states = [normal(directions, batch, widths[s], dtype=dtype) for s in cell.states]
    weights = [_weights(cell, widths, hidden, bias, dtype) for _ in range(directions)]
    return Case(cell, x, states if given else None, weights, batch_sizes, hidden)


def _weights(
    cell: Cell, widths: dict[str, int], hidden: int, bias: bool, dtype: torch.dtype
) -> Weights:
    bundles, biases = {}, {}
    for bundle, gates in cell.bundles.items():
        if bundle == PROJECTION:
            continue
        rows = len(gates) * hidden
        bundles[bundle] = _matrix(rows, widths[bundle], dtype)
        if bias:
            biases[bundle] = normal(rows, dtype=dtype)
    vectors = {name: normal(hidden, dtype=dtype) for name in cell.vectors}
    held = Weights.of(bundles, biases, vectors)
    if PROJECTION not in cell.bundles:
        return held
    last = _matrix(widths[cell.states[0]], hidden, dtype)
    return Weights(held.form._replace(projects=True), [*held.tensors, last])


def _matrix(rows: int, depth: int, dtype: torch.dtype) -> Tensor:
    return normal(rows, depth, dtype=dtype) * 0.5 ** round(0.5 * depth.bit_length())


def flatten(case: Case) -> dict[str, Tensor]:
    """Return the tensors of a call by name."""
    found = {"x": case.x}
    for name, state in zip(case.cell.states, case.states or (), strict=case.states is not None):
        found[f"{name}.start"] = state
    for d, held in enumerate(case.weights):
        for part in ("bundles", "biases", "vectors"):
            for name, tensor in getattr(held, part).items():
                found[f"{part}.{name}.{d}"] = tensor
    return found


def apply(case: Case, change: Callable[[Tensor], Tensor]) -> Case:
    """Return the call with every tensor changed."""
    weights = [Weights(w.form, [change(t) for t in w.tensors]) for w in case.weights]
    states = None if case.states is None else list(map(change, case.states))
    return replace(case, x=change(case.x), states=states, weights=weights)


def double(case: Case) -> Case:
    """Return the same call in float64, cut from any graph."""
    return apply(case, lambda t: t.detach().double())


def results(case: Case, run: Run = run_layer) -> dict[str, Tensor]:
    """Return the output and the final states by name."""
    out, finals = run(*case.arguments)
    named = {f"{n}.final": f for n, f in zip(case.cell.states, finals, strict=True)}
    return {"output": out, **named}


def run(
    case: Case,
    cotangents: dict[str, Tensor],
    frozen: Sequence[str] = (),
    engine: Run = run_layer,
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return results, and the gradients of all tensors whose name holds no part of ``frozen``.

    Only the results that ``cotangents`` names are differentiated.
    """
    case = apply(case, torch.Tensor.detach)
    leaves = {n: t for n, t in flatten(case).items() if not any(part in n for part in frozen)}
    for leaf in leaves.values():
        leaf.requires_grad_()
    found = results(case, engine)
    chosen = [found[name] for name in cotangents]
    given = [c.to(r) for c, r in zip(cotangents.values(), chosen, strict=True)]
    gradients = torch.autograd.grad(
        chosen, list(leaves.values()), given, allow_unused=True, materialize_grads=True
    )
    return found, dict(zip(leaves, gradients, strict=True))


def compare(
    case: Case,
    of: str = "",
    frozen: Sequence[str] = (),
    engine: Run = run_layer,
    truth: Run = interpret_layer,
) -> None:
    """Check a call's results, with and without gradients to come, and all its gradients.

    Args:
        case: the call.
        of: differentiate only the results whose name holds this: ``output``, ``final``.
        frozen: parts of the names of tensors that need no gradient.
        engine: what stands in the place of ``run_layer``.
        truth: what says in float64 what is right.
    """
    with torch.no_grad():
        right = results(double(case), truth)
        alone = results(case, engine)
    cotangents = {n: normal(*t.shape, dtype=torch.float64) for n, t in right.items() if of in n}
    found, gradients = run(case, cotangents, frozen, engine)
    _, expected = run(double(case), cotangents, frozen, truth)
    for name, tensor in right.items():
        assert alone[name].dtype == found[name].dtype == case.x.dtype
        assert_close(alone[name], tensor, f"{name} without gradients")
        assert_close(found[name], tensor, name)
    for name, tensor in expected.items():
        assert gradients[name].dtype == case.x.dtype
        assert_close(gradients[name], tensor, f"gradient of {name}")
