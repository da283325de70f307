"""Recurrent: any cell as a module of layers, directions and dropout."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, overload

import torch
from torch import Tensor
from torch.compiler import is_compiling
from torch.nn import Module, Parameter
from torch.nn.functional import dropout
from torch.nn.init import constant_, uniform_
from torch.nn.utils.rnn import PackedSequence

from cellwright.autograd import operation
from cellwright.autograd.autocast import autocasts
from cellwright.autograd.repeat import Repeat, repeat
from cellwright.cells import find_cell
from cellwright.graph.cell import Cell, projected
from cellwright.graph.interpret import Weights
from cellwright.nn import checks
from cellwright.nn.autocast import lowered_dtype
from cellwright.nn.layout import Names, name_parameters, shapes
from cellwright.nn.packed import is_dense

__all__ = ["Recurrent", "States"]

States = Tensor | tuple[Tensor, ...]
"""One tensor for a cell with one state, else a tuple in the order of the cell's states."""


class Recurrent(Module):
    r"""Run a cell over sequences: y_t, s_t = cell(x_t, s_{t-1}), in layers and directions.

    Each layer applies the cell's equations at every step; the first state is the layer's output and
    the input of the layer above. D is 2 if bidirectional, else 1; H_out is proj_size if that is
    given, else hidden_size.

    Args:
        cell: the cell, as :func:`cellwright.cell` makes it, or the name of a bundled one.
        input_size: H_in, the features of a step of the input.
        hidden_size: the units of a state.
        num_layers: how many layers are stacked. Default: 1
        bias: whether each projection has a bias. Default: True
        batch_first: whether input and output are (N, L, features), not (L, N, features). States
            and unbatched input are not concerned. Default: False
        dropout: probability that an element of a layer's output is zeroed on its way to the layer
            above, in training. Default: 0
        bidirectional: whether a second direction runs backwards in time. Default: False
        proj_size: if above 0, the first state is multiplied with a matrix (proj_size, hidden_size)
            after each step. Default: 0
        device: where the parameters are made.
        dtype: the parameters' type.

    Inputs: input, hx
        * **input**: (L, N, H_in), or (N, L, H_in) if batch_first, or (L, H_in) unbatched, or a
          PackedSequence.
        * **hx**: the initial states, each (D · num_layers, N, H_out), unbatched (D · num_layers,
          H_out); a tensor if the cell has one state, else a tuple. Later states have hidden_size
          where the first has H_out. Default: zeros

    Outputs: output, h_n
        * **output**: (L, N, D · H_out), or in the form of the input: batch first, unbatched,
          packed.
        * **h_n**: the states after the last step of each sequence, in the form of hx.

    Attributes:
        weight_ih_l[k]: W_x, the gates' rows stacked, (gates · hidden_size, H_in); for k > 0
            (gates · hidden_size, D · H_out).
        weight_hh_l[k]: W_h (gates · hidden_size, H_out); likewise weight_ch_l[k] for a state c.
        bias_ih_l[k], bias_hh_l[k]: (gates · hidden_size).
        weight_hr_l[k]: (proj_size, hidden_size), if proj_size is above 0.
        p_l[k]: (hidden_size), for a per-unit vector p of the cell.

    The second direction's names end in ``_reverse``. Weights and biases are drawn from U(-√k, √k),
    k = 1 / hidden_size, in torch's order; vectors start at the default that the cell gives them.

    Raises:
        TypeError, ValueError: an argument of the constructor makes no sense.
        ValueError: the input has no 2 or 3 dimensions, or another dtype than the weights.
        RuntimeError: the shape of the input or of a state does not fit; no steps; other devices.
        AttributeError: the input or a state is no tensor.
    """

    _lowered_on: ClassVar[frozenset[str]] = frozenset()  # devices where autocast lowers whole calls

    def __init__(
        self,
        cell: Cell | str,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: torch.device | str | int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        cell, sizes = find_cell(cell), (input_size, hidden_size, num_layers)
        checks.check_sizes(cell, *sizes, bias, batch_first, dropout, bidirectional, proj_size)
        super().__init__()
        self.cell = cell
        self.mode = cell.name.upper()
        self.input_size = input_size
        self.hidden_size = hidden_size
        self.num_layers = num_layers = int(num_layers)
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = float(dropout)
        self.bidirectional = bidirectional
        self.proj_size = proj_size
        self._directions = 2 if bidirectional else 1
        self._state_rows = self._directions * num_layers
        self._several = len(cell.states) > 1
        self._single = num_layers == 1
        self._state_sizes = (proj_size or hidden_size, *[hidden_size] * (len(cell.states) - 1))
        names = [self._register(k, {"device": device, "dtype": dtype}) for k in range(num_layers)]
        self._called = [[one.called() for one in layer] for layer in names]
        self._names = [[name for _, own in layer for name in own] for layer in self._called]
        self._forget()
        self._all_weights = [one.ordered() for layer in names for one in layer]
        self._flat_weights_names = [name for row in self._all_weights for name in row]
        self._first_name = next(iter(self._flat_weights_names), "")
        self._vectors = {n: cell.vectors[v] for row in names for d in row for v, n in d.vectors}
        self.reset_parameters()

    def _register(self, layer: int, factory: dict[str, Any]) -> list[Names]:
        """Make the parameters of one layer; return their names for each direction."""
        width = self._directions * self._state_sizes[0] if layer else self.input_size
        made: list[Names] = []
        for direction in range(self._directions):
            project = self.proj_size > 0
            names = name_parameters(self.cell, layer, direction, bias=self.bias, project=project)
            for name, shape in shapes(self.cell, names, width, self.hidden_size, self.proj_size):
                self.register_parameter(name, Parameter(torch.empty(shape, **factory)))
            made.append(names)
        return made

    def _forget(self) -> None:
        """Have no layer ready for a call like the ones before."""
        self._repeats: list[tuple[Repeat, ...]] = [()] * self.num_layers
        self._seen: list[torch.Size | None] = [None] * self.num_layers

    def reset_parameters(self) -> None:
        """Draw the weights and biases anew, and set the vectors to their initial values."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for name, parameter in self.named_parameters():
            if name in self._vectors:
                constant_(parameter, self._vectors[name])
            else:
                uniform_(parameter, -bound, bound)

    @property
    def all_weights(self) -> list[list[Parameter]]:
        """The parameters of each layer and direction, in the order of their registration."""
        return [[getattr(self, name) for name in names] for names in self._all_weights]

    @property
    def _flat_weights(self) -> list[Parameter]:
        return [getattr(self, name) for name in self._flat_weights_names]

    def flatten_parameters(self) -> None:
        """Do nothing: torch's modules have this, and kernels pack the weights themselves."""

    def extra_repr(self) -> str:
        """Return the arguments that differ from their defaults."""
        return f"{self.cell.name}, {self._sizes_repr()}"

    def _sizes_repr(self) -> str:
        text = f"{self.input_size}, {self.hidden_size}"
        defaults = {"proj_size": 0, "num_layers": 1, "bias": True, "batch_first": False}
        for name, default in (defaults | {"dropout": 0, "bidirectional": False}).items():
            if getattr(self, name) != default:
                text += f", {name}={getattr(self, name)}"
        return text

    @overload
    def forward(self, input: Tensor, hx: States | None = None) -> tuple[Tensor, Any]: ...
    @overload
    def forward(
        self, input: PackedSequence, hx: States | None = None
    ) -> tuple[PackedSequence, Any]: ...
    def forward(
        self,
        input: Tensor | PackedSequence,  # noqa: A002  # torch's name of it
        hx: States | None = None,
    ) -> tuple[Tensor | PackedSequence, Any]:
        """Return the output and the final states; shapes are in the class's description."""
        # The way of a dense batch is kept short: for a single step it is most of what a call costs.
        done = None
        if self._single and not is_compiling() and self._repeats[0]:
            done = self._repeated(input, hx)
        if done is None:
            if isinstance(input, PackedSequence):
                return self._forward_packed(input, hx)
            if not isinstance(input, Tensor) or input.dim() != 3:
                return self._forward_unbatched(input, hx)
            done = self._forward_dense(input, hx)
        output, finals = done
        if self.batch_first:
            output = output.transpose(0, 1)
        return output, finals if self._several else finals[0]

    def _forward_dense(self, x: Tensor, hx: States | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run a batch; the output is (L, N, D · H_out)."""
        if self.batch_first:
            x = x.transpose(0, 1)
        length, batch, width = x.shape
        weight = self._parameters.get(self._first_name)
        if (
            weight is None
            or width != self.input_size
            or length == 0
            or x.dtype is not weight.dtype
            or not (x.is_cpu and weight.is_cpu)  # cheaper than to compare devices
        ):
            checks.reject_input(x, self._first_weight(x), self.input_size)
        states = None if hx is None else self._checked(hx, x, (batch,))
        return self._run(x, states, None, asked=self._single)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what points into this process's memory."""
        return {k: v for k, v in self.__dict__.items() if k not in ("_repeats", "_seen")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a state in, with nothing ready."""
        super().__setstate__(state)  # type: ignore[no-untyped-call]  # torch's
        self._forget()

    def _repeated(self, x: Any, hx: Any) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        """Run a batch as one before in all but values; None if it is not."""
        states = () if hx is None else hx if self._several else (hx,)
        if type(states) is not tuple or type(x) is not Tensor or x.dim() != 3:
            return None
        lowered = self._lowered(x, states) if autocasts() else None
        return self._again(0, x.transpose(0, 1) if self.batch_first else x, states, lowered)

    def _again(
        self, layer: int, x: Tensor, states: Sequence[Tensor], lowered: torch.dtype | None
    ) -> tuple[Tensor, tuple[Tensor, ...]] | None:
        """Run a layer as in one of the last two kinds of call; None if it is another kind."""
        try:
            held = [*map(self._parameters.__getitem__, self._names[layer])]
        except KeyError:  # parametrized, or replaced by a plain attribute
            return None
        for again in self._repeats[layer]:
            done = again(x, *held, *states) if again.lowered is lowered else None
            if done is not None:
                return done
        return None

    def _forward_unbatched(self, x: Tensor, hx: States | None) -> tuple[Tensor, Any]:
        """Run one sequence (L, H_in); states are (D · num_layers, H_out)."""
        if not isinstance(x, Tensor) or x.dim() != 2:
            checks.reject_form(type(self).__name__, x)
        checks.reject_input(x, self._first_weight(x), self.input_size)
        states = None if hx is None else [s.unsqueeze(1) for s in self._checked(hx, x, ())]
        output, finals = self._run(x.unsqueeze(1), states, None)
        finals = tuple(final.squeeze(1) for final in finals)
        return output.squeeze(1), finals if self._several else finals[0]

    def _forward_packed(
        self, sequence: PackedSequence, hx: States | None
    ) -> tuple[PackedSequence, Any]:
        """Run packed sequences; states are in the user's order, before sorting by length."""
        x, batch_sizes, sorted_indices, unsorted_indices = sequence
        checks.reject_input(x, self._first_weight(x), self.input_size, len(self.cell.states))
        sizes: list[int] = batch_sizes.tolist()
        states = None
        if hx is not None:
            states = self._checked(hx, x, (sizes[0],), packed=True)
            if sorted_indices is not None:
                checks.check_order(sorted_indices, sizes[0])
                states = [state.index_select(1, sorted_indices) for state in states]
        if is_dense(sizes, x):
            output, finals = self._run(x.unflatten(0, (len(sizes), sizes[0])), states, None)
            output = output.flatten(0, 1)
        else:
            output, finals = self._run(x, states, sizes)
        if unsorted_indices is not None:
            finals = tuple(final.index_select(1, unsorted_indices) for final in finals)
        packed = PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices)
        return packed, finals if self._several else finals[0]

    def _checked(
        self, hx: Any, x: Tensor, batch: tuple[int, ...], *, packed: bool = False
    ) -> Sequence[Tensor]:
        """Return the initial states as a sequence, or refuse them. ``batch``: (N,) or ()."""
        if not self._several:
            hx = (hx,)
        elif type(hx) is not tuple or len(hx) != len(self._state_sizes):
            hx = checks.several_states(self.cell, hx, batched=bool(batch), packed=packed)
        rows, dtype, on_cpu = self._state_rows, x.dtype, x.is_cpu
        for state, size in zip(hx, self._state_sizes):  # noqa: B905  # lengths are equal by now
            expected = (rows, *batch, size)
            if (
                not isinstance(state, Tensor)
                or state.shape != expected
                or state.dtype is not dtype
                or not (on_cpu and state.is_cpu)
            ):
                checks.reject_states(self.cell, hx, (rows, *batch), self._state_sizes, x)
        states: Sequence[Tensor] = hx
        return states

    def _run(
        self,
        x: Tensor,
        states: Sequence[Tensor] | None,
        batch_sizes: list[int] | None,
        *,
        asked: bool = False,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run all layers over x (L, N, H_in), or packed (sum, H_in).

        ``asked``: the one layer is known not to be ready for a call like this one.
        """
        lowered = self._lowered(x, states, packed=batch_sizes is not None)
        if self.num_layers == 1:
            return self._run_layer(0, x, states, batch_sizes, asked, lowered)
        parts = [state.chunk(self.num_layers) for state in states or ()]
        finals: list[tuple[Tensor, ...]] = []
        for layer in range(self.num_layers):
            if layer and self.dropout > 0 and self.training:
                # masks are drawn in the order of memory: time first gives the masks of torch
                x = dropout(x.contiguous(), self.dropout, training=True)
            own = None if states is None else [part[layer] for part in parts]
            x, final = self._run_layer(layer, x, own, batch_sizes, False, lowered)
            finals.append(final)
        return x, tuple(torch.cat(layers) for layers in zip(*finals, strict=True))

    def _run_layer(
        self,
        layer: int,
        x: Tensor,
        states: Sequence[Tensor] | None,
        batch_sizes: list[int] | None,
        asked: bool,
        lowered: torch.dtype | None,
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run a layer, the short way where one of the last calls was like this one."""
        dense = batch_sizes is None and not is_compiling()
        if dense and not asked:
            done = self._again(layer, x, states or (), lowered)
            if done is not None:
                return done
        weights, cell, units = self._weights(layer), self._whole_cell, self.hidden_size
        made = operation.run_layer(cell, x, states, weights, batch_sizes, units, lowered)
        if dense:
            self._remember(layer, x, states or (), weights, lowered)
        return made

    def _lowered(
        self, x: Tensor, states: Sequence[Tensor] | None, *, packed: bool = False
    ) -> torch.dtype | None:
        """Return the dtype that autocast lowers a whole call to, if it does."""
        given = (x, self._first_weight(x), *(states or ()))
        return lowered_dtype(self._lowered_on, given, plain=not (packed or self.proj_size))

    def _remember(
        self,
        layer: int,
        x: Tensor,
        states: Sequence[Tensor],
        weights: list[Weights],
        lowered: torch.dtype | None,
    ) -> None:
        """Be ready for a third call of this kind, if this is the second one of its size."""
        held = all(name in self._parameters for name in self._names[layer])
        if held and x.shape == self._seen[layer]:
            made = repeat(self._whole_cell, x, states, weights, self.hidden_size, lowered)
            if made is not None:
                self._repeats[layer] = (made, *self._repeats[layer][:1])
        self._seen[layer] = x.shape

    @property
    def _whole_cell(self) -> Cell:
        """The cell with the projection, if the module has one."""
        return projected(self.cell) if self.proj_size else self.cell

    def _weights(self, layer: int) -> list[Weights]:
        """Look up the parameters of a layer: on each call, for any may have been replaced."""
        held: Any = self._parameters
        try:
            return [
                Weights(form, [held[name] for name in names]) for form, names in self._called[layer]
            ]
        except KeyError:  # parametrized, or replaced by a plain attribute
            return [
                Weights(form, [getattr(self, name) for name in names])
                for form, names in self._called[layer]
            ]

    def _first_weight(self, default: Tensor) -> Tensor:
        """Return a parameter, for its dtype and device; ``default`` if the cell has none."""
        weight: Tensor = getattr(self, self._first_name) if self._first_name else default
        return weight
