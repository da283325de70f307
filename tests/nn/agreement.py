"""Hold a module against torch.nn's: outputs, final states, all gradients."""

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from tests.tolerance import assert_close
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_sequence

import cellwright.nn as nn

KINDS = ("RNN_TANH", "RNN_RELU", "LSTM", "GRU")
_CLASSES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "RNN_TANH": (nn.RNN, torch.nn.RNN, {}),
    "RNN_RELU": (nn.RNN, torch.nn.RNN, {"nonlinearity": "relu"}),
    "LSTM": (nn.LSTM, torch.nn.LSTM, {}),
    "GRU": (nn.GRU, torch.nn.GRU, {}),
}

Module = torch.nn.Module
Run = Callable[[Any, Any], tuple[Any, Any]]


def classes(kind: str) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Return the constructor of our module and of torch's."""
    ours, theirs, fixed = _CLASSES[kind]
    return (lambda *a, **k: ours(*a, **fixed, **k)), (lambda *a, **k: theirs(*a, **fixed, **k))


def pair(kind: str, *sizes: int, dtype: torch.dtype, **options: Any) -> tuple[Any, Any]:
    """Return our module in ``dtype`` and torch's in float64, with the same random parameters."""
    ours, theirs = classes(kind)
    module = ours(*sizes, dtype=dtype, **options)
    reference = theirs(*sizes, dtype=torch.float64, **options)
    reference.load_state_dict(module.state_dict(), strict=True)
    return module, reference


def normal(*shape: int, dtype: torch.dtype) -> Tensor:
    """Return random numbers that float32 holds exactly, so that each precision sees the same."""
    return torch.randn(*shape, dtype=torch.float32).to(dtype)


def states_for(module: Any, *batch: int) -> Any:
    """Return random initial states for a batch, or for one sequence."""
    dtype = next(module.parameters()).dtype
    rows = module.num_layers * (2 if module.bidirectional else 1)
    h = normal(rows, *batch, module.proj_size or module.hidden_size, dtype=dtype)
    return (
        (h, normal(rows, *batch, module.hidden_size, dtype=dtype)) if module.mode == "LSTM" else h
    )


def packed(lengths: Sequence[int], features: int, *, dtype: torch.dtype) -> PackedSequence:
    """Return packed random sequences; lengths that do not fall are packed out of order."""
    steps = [normal(length, features, dtype=dtype) for length in lengths]
    return pack_sequence(steps, enforce_sorted=list(lengths) == sorted(lengths, reverse=True))


def tensors(value: Any) -> list[Tensor]:
    """Return the floating point tensors of a nest of tuples and packed sequences."""
    if isinstance(value, PackedSequence):
        return [value.data]
    if isinstance(value, Tensor):
        return [value]
    return [] if value is None else [t for part in value for t in tensors(part)]


def double(value: Any) -> Any:
    """Return a float64 copy of the same form, cut from any graph."""
    if isinstance(value, PackedSequence):
        return value._replace(data=value.data.detach().double())
    if isinstance(value, Tensor):
        return value.detach().double()
    return None if value is None else tuple(double(part) for part in value)


def compare(module: Module, reference: Module, x: Any, hx: Any = None, **options: Any) -> None:
    """Check outputs, final states and all gradients under random cotangents."""
    twin, twin_hx = double(x), double(hx)
    parameters = dict(reference.named_parameters())
    theirs = run(reference, list(parameters.values()), twin, twin_hx)
    found = run(module, [p for _, p in module.named_parameters()], x, hx, like=theirs)
    names = [f"output {k}" for k in range(len(theirs.outputs))]
    names += [f"gradient of {n}" for n in ("input", *["hx"] * len(tensors(hx)), *parameters)]
    assert found.form == theirs.form
    dtype = tensors(x)[0].dtype
    ours = [*found.outputs, *found.gradients]
    for name, actual, expected in zip(
        names, ours, [*theirs.outputs, *theirs.gradients], strict=True
    ):
        assert actual.dtype == dtype, name
        assert_close(actual, expected, name)


class run:  # noqa: N801
    """One forward and backward run: ``outputs``, ``gradients`` and the ``form`` of the result."""

    def __init__(
        self, module: Module, parameters: list[Tensor], x: Any, hx: Any, like: Any = None
    ) -> None:
        leaves = [*tensors(x), *tensors(hx)]
        for leaf in leaves:
            leaf.requires_grad_()
        result = module(x) if hx is None else module(x, hx)
        self.form = form(result)
        self.outputs = tensors(result)
        made = [normal(*o.shape, dtype=torch.float64) for o in self.outputs]
        self.cotangents = made if like is None else like.cotangents
        cotangents = [c.to(o) for c, o in zip(self.cotangents, self.outputs, strict=True)]
        self.gradients = torch.autograd.grad(self.outputs, [*leaves, *parameters], cotangents)


def form(value: Any) -> Any:
    """Describe the form of a result: tuples, packed sequences and their orders."""
    if isinstance(value, PackedSequence):
        orders = (value.batch_sizes, value.sorted_indices, value.unsorted_indices)
        return ("packed", *(None if o is None else tuple(o.tolist()) for o in orders))
    return tuple(map(form, value)) if isinstance(value, tuple) else "tensor"


def twins(kind: str, *sizes: int, **options: Any) -> tuple[Any, Any]:
    """Return our module and torch's, of one dtype, with the same parameters."""
    ours, theirs = classes(kind)
    module = ours(*sizes, **options)
    reference = theirs(*sizes, **options)
    reference.load_state_dict(copy.deepcopy(module.state_dict()), strict=True)
    return module, reference
