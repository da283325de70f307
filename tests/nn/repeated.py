"""Modules that are ready for a repeated call, beside torch's."""

import torch
from tests.tolerance import assert_close
from torch import Tensor

import cellwright.nn as nn

__all__ = ["KINDS", "assert_same", "flat", "gradients", "warmed"]

KINDS = ("RNN", "LSTM", "GRU")


def warmed(
    kind: str, *, grad: bool = False, shape: tuple[int, ...] = (4, 2, 3), **options
) -> tuple[nn.Recurrent, torch.nn.Module, Tensor]:
    """A module that is ready for a repeated call, torch's with the same weights, and an input."""
    ours, theirs = getattr(nn, kind)(3, 3, **options), getattr(torch.nn, kind)(3, 3, **options)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(shape)
    with torch.set_grad_enabled(grad):
        for _ in range(3):
            ours(x)
    assert ours._repeats[0]
    return ours, theirs, x


def flat(result) -> list[Tensor]:
    output, finals = result
    return [output, *(finals if isinstance(finals, tuple) else (finals,))]


def assert_same(found, expected) -> None:
    for left, right in zip(flat(found), flat(expected), strict=True):
        assert_close(left, right)


def gradients(module: torch.nn.Module, x: Tensor, hx=None, mode: str = "") -> list[Tensor]:
    """Results and gradients of a step, of everything that asks for one."""
    found = flat(module(x, hx))
    wanted = [t for t in (x, *module.parameters()) if t.requires_grad]
    loss = sum(t.square().sum() for t in found)
    if mode == "twice":
        loss.backward(retain_graph=True, inputs=wanted)
        for t in wanted:
            t.grad = None
    loss.backward(inputs=wanted)
    made = [t.grad for t in wanted]
    for t in wanted:
        t.grad = None
    return [*found, *made]
