"""One rival's side of a row: the module, its data, and the calls that are timed or compared."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence

from cellwright.app.bench.row import Row

__all__ = ["Library", "Workload", "build"]

SEED = 20150


class Library(Protocol):
    """A module with recurrent layers under torch.nn's names: ``torch.nn`` or a rival of it."""

    @property
    def LSTM(self) -> Callable[..., Any]: ...  # noqa: D102, N802
    @property
    def GRU(self) -> Callable[..., Any]: ...  # noqa: D102, N802
    @property
    def RNN(self) -> Callable[..., Any]: ...  # noqa: D102, N802


@dataclass(frozen=True)
class Workload:
    """A module with its input, initial states and cotangents, ready to be called again and again.

    ``cotangents`` are for the output and each final state; only the first is used when timing.
    """

    row: Row
    module: torch.nn.Module
    x: Tensor | PackedSequence
    states: tuple[Tensor, ...]
    cotangents: tuple[Tensor, ...]

    @property
    def x_data(self) -> Tensor:
        """The leaf that holds the input's values and, after a training step, its gradient."""
        return self.x.data if isinstance(self.x, PackedSequence) else self.x

    @property
    def hx(self) -> Any:
        """The initial states as torch takes them: a pair for the LSTM, else one tensor."""
        return self.states if len(self.states) > 1 else self.states[0]

    @property
    def call(self) -> Callable[..., Any]:
        """The module, within autocast if the row says so."""
        return self._lowered if self.row.variant.autocast else self.module

    def _lowered(self, *given: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return self.module(*given)

    def results(self, with_states: bool) -> tuple[Tensor, ...]:
        """The output's values and the final states, as one flat tuple."""
        output, last = self.call(self.x, self.hx) if with_states else self.call(self.x)
        data = output.data if isinstance(output, PackedSequence) else output
        return (data, *(last if isinstance(last, tuple) else (last,)))

    def timed(self) -> Callable[[], object]:
        """The call to time; what surrounds it (grad mode, threads) is the caller's."""
        call, x, hx = self.call, self.x, self.hx
        if self.row.work == "call":
            return lambda: call(x, hx)
        if self.row.work == "forward":
            return lambda: call(x)
        return self.training_step

    def clear_gradients(self) -> None:
        """Drop every gradient, so that the backward pass writes and never accumulates."""
        for leaf in (self.x_data, *self.states, *self.module.parameters()):
            leaf.grad = None

    def training_step(self) -> None:
        """Forward, then backward of input and weights from a cotangent on the output."""
        self.clear_gradients()
        output, _ = self.call(self.x)
        data = output.data if isinstance(output, PackedSequence) else output
        torch.autograd.backward([data], [self.cotangents[0].to(data.dtype)])


def build_module(library: Library, row: Row) -> torch.nn.Module:
    """The row's layer out of a library; seeded, so that every library starts from the same."""
    torch.manual_seed(SEED)
    variant = row.variant
    options: dict[str, Any] = {"nonlinearity": "relu"} if variant.relu else {}
    if variant.proj_size:
        options["proj_size"] = variant.proj_size
    module: torch.nn.Module = getattr(library, row.cell)(
        row.shape.input_size,
        row.shape.hidden_size,
        num_layers=variant.num_layers,
        bidirectional=variant.bidirectional,
        batch_first=variant.batch_first,
        dtype=getattr(torch, variant.dtype),
        **options,
    )
    return module.train(row.work == "train")


def build(library: Library, row: Row) -> Workload:
    """Module and data for one library; the data depend on the row alone."""
    module = build_module(library, row)
    draw = torch.Generator().manual_seed(SEED)
    dtype, train = getattr(torch, row.variant.dtype), row.work == "train"

    def random(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=draw, dtype=dtype)

    shape, directions = row.shape, 2 if row.variant.bidirectional else 1
    leading = (shape.steps, shape.batch)
    if row.variant.batch_first:
        leading = (shape.batch, shape.steps)
    dense = random(*leading, shape.input_size).requires_grad_(train)
    x: Tensor | PackedSequence = dense
    outputs: tuple[int, ...] = leading
    if row.variant.packed:
        packed = pack_padded_sequence(dense, torch.tensor(row.lengths), enforce_sorted=False)
        x = PackedSequence(packed.data.detach().requires_grad_(train), *packed[1:])
        outputs = (sum(row.lengths),)
    rows = row.variant.num_layers * directions
    widths = [row.output_size, *([shape.hidden_size] if row.cell == "LSTM" else [])]
    states = tuple(random(rows, shape.batch, width).requires_grad_(train) for width in widths)
    cotangents = (
        random(*outputs, directions * row.output_size),
        *(random(rows, shape.batch, width) for width in widths),
    )
    return Workload(row, module, x, states, cotangents)
