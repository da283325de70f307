"""Cellwright, torch.nn and the peers on one layer: no speed is told of a wrong result."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import torch

from benchmarks.peers.peer import Array, Peer
from cellwright.app.bench import agreement
from cellwright.app.bench.row import Row
from cellwright.app.bench.timing import Budget, Times, interleave, summarise
from cellwright.app.bench.workload import Library, Workload, build

__all__ = ["OURS", "TORCH", "Beside", "measure_beside"]

OURS, TORCH = "Cellwright", "torch.nn"


@dataclass(frozen=True)
class Beside:
    """A row's times by library, Cellwright and torch.nn first, and what went wrong, by library."""

    row: Row
    times: dict[str, Times] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)

    @property
    def best_peer(self) -> str | None:
        """The fastest of the peers; None where none was timed."""
        others = {name: t.median for name, t in self.times.items() if name not in (OURS, TORCH)}
        return min(others, key=lambda name: others[name], default=None)


def _expected(reference: Workload) -> Iterator[torch.Tensor]:
    """Yield the output, the final states and, of a training step, the gradients."""
    training = reference.row.work == "train"
    with torch.set_grad_enabled(training):
        made = reference.results(with_states=reference.row.work == "call")
        yield from (tensor.detach() for tensor in made)
        if training:
            reference.training_step()
            for leaf in (reference.x_data, *reference.module.parameters()):
                assert leaf.grad is not None
                yield leaf.grad


def _check(found: list[Array], expected: list[torch.Tensor]) -> None:
    """Refuse results that are not torch.nn's.

    Raises:
        DisagreementError: there is one.
    """
    for number, (mine, theirs) in enumerate(zip(found, expected, strict=True)):
        given = torch.from_numpy(mine.copy())
        agreement.compare(f"result {number}", given, theirs)


def measure_beside(row: Row, ours: Library, peers: Iterable[Peer], budget: Budget) -> Beside:
    """Time all that do the row's work and do it right, in turns."""
    mine, reference = build(ours, row), build(torch.nn, row)
    found = Beside(row)
    try:
        agreement.check(mine, reference)
    except Exception as problem:  # one broken row must not hide the others
        found.failures[OURS] = f"{type(problem).__name__}: {problem}"
        return found
    expected = list(_expected(reference))
    rivals = {OURS: mine.timed(), TORCH: reference.timed()}
    for peer in peers:
        if row.work not in peer.works:
            continue
        try:
            run = peer.prepare(reference)
            _check(run.results(), expected)
            rivals[peer.name] = run.call
        except Exception as problem:
            found.failures[peer.name] = f"{type(problem).__name__}: {problem}"
    with torch.set_grad_enabled(row.work == "train"):
        times = interleave([*rivals.values()], budget)
    found.times.update(zip(rivals, map(summarise, times), strict=True))
    return found
