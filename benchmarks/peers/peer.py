"""What a peer is, and which of those that are known are installed here."""

import importlib
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from cellwright.app.bench.row import Work
from cellwright.app.bench.workload import Workload

__all__ = ["Array", "Peer", "Run", "find_peers", "starts"]

Array = NDArray[np.float32]
_MODULES = ("onnx_runtime", "open_vino", "jax_scan")


class Run(NamedTuple):
    """A layer, made ready for one piece of work.

    Attributes:
        call: does it once, to the end.
        results: does it once; returns the output (L, N, H_out), the final states (1, N, H_out) and,
            of a training step, the gradients of the input and the parameters in torch's order.
    """

    call: Callable[[], object]
    results: Callable[[], list[Array]]


class Peer(Protocol):
    """Another library."""

    @property
    def name(self) -> str:
        """What it is called, with its version."""

    @property
    def works(self) -> tuple[Work, ...]:
        """Which kinds of work it does."""

    def prepare(self, reference: Workload) -> Run:
        """Return the same layer with the weights, input and states of torch.nn's."""


def starts(reference: Workload) -> list[Array]:
    """Return the initial states (1, N, H_out), which are 0 where the row gives none."""
    given = reference.row.work == "call"
    states = (s if given else torch.zeros_like(s) for s in reference.states)
    return [s.detach().numpy() for s in states]


def find_peers() -> tuple[list[Peer], list[str]]:
    """Return the peers that can be imported, and what is missing for the others."""
    found: list[Peer] = []
    missing: list[str] = []
    for name in _MODULES:
        try:
            module: Any = importlib.import_module(f"benchmarks.peers.{name}")
        except ModuleNotFoundError as error:
            missing.append(str(error.name))
        else:
            found.append(module.PEER)
    return found, missing
