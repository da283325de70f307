"""A model that reads one step at a time and says after each what it makes of all it has read."""

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from cellwright.app.data import RowEncoder
from cellwright.app.errors import InputError
from cellwright.app.model.folder import Model
from cellwright.app.running.columns import class_columns, quantile_columns, unscaled
from cellwright.app.running.symbols import Symbols
from cellwright.app.schema import Task

__all__ = ["Stream"]

TOP = 5
"""How many of the likeliest next characters a step of text names."""


class Stream:
    """One step in, one prediction out; the state is carried from step to step.

    Each key has a state of its own, which is kept until `reset`: the memory grows with the number
    of keys, and not with the number of steps.

    Args:
        model: as `load_model` returns it, of one direction; its network is put into the mode for
            evaluation.

    Raises:
        InputError: the model reads backwards too.
    """

    def __init__(self, model: Model) -> None:
        design = model.network.design
        if design.bidirectional:
            raise InputError(
                f"expected a model that reads forwards, but got {design.label}: its second "
                "direction begins at the last step, which a stream has not seen; train one whose "
                "--cell has no `bi-` before it, or use `cellwright predict` on whole sequences"
            )
        self.model = model
        self._network = model.network.eval()
        self._dtype = model.network.readout.weight.dtype
        self._states: dict[Hashable, Any] = {}
        schema = model.schema
        self._say: Callable[[Tensor], dict[str, Any]]
        match schema.task:
            case Task.CLASSIFY:
                self._columns, self._say = class_columns(schema), self._classes
            case Task.FORECAST:
                self._columns, self._say = quantile_columns(schema), self._forecast
            case Task.TEXT:
                self._symbols, self._say = Symbols(schema), self._next
        self._rows = None if model.scaling is None else RowEncoder(schema, model.scaling)

    def step(self, row: Mapping[str, Any] | str, key: Hashable = None) -> dict[str, Any]:
        """Read one step, and return what the model says now.

        Args:
            row: a value for each column that the model reads, by name; others are not looked at.
                For text the next character, or several.
            key: which stream the step belongs to.

        Returns:
            classify: "predicted <target>" and "probability <class>" for each class, of the steps so
            far. forecast: "<target> p10", "<target> p50" and "<target> p90" in the target's unit:
            a number, or a list of the horizon's numbers if it is above 1. text: "next", the
            likeliest next character, and "probabilities" of the likeliest five.

        Raises:
            InputError: a column is missing, or a value is none that the model can read.
        """
        with torch.inference_mode():
            inputs = self._encode(row, key)
            outputs, self._states[key] = self._network(inputs, self._states.get(key))
            return self._say(outputs)

    def reset(self, key: Hashable = None) -> None:
        """Forget all that was read for `key`; its next step is the first of a sequence."""
        self._states.pop(key, None)
        if self._rows is not None:
            self._rows.reset(key)

    @property
    def keys(self) -> tuple[Hashable, ...]:
        """The keys for which a state is kept."""
        return tuple(self._states)

    def _encode(self, row: Mapping[str, Any] | str, key: Hashable) -> Tensor:
        """(1, 1, H_in), of text (L, 1)."""
        if self._rows is None:
            if not isinstance(row, str) or not row:
                raise InputError(f"expected the next character of a text, but got {row!r}")
            return self._symbols.encode(row)[:, None]
        if not isinstance(row, Mapping):
            names = ", ".join(f'"{one.name}": …' for one in self.model.schema.features)
            raise InputError(f"expected one value a column, {{{names}}}, but got {row!r}")
        return self._rows.encode(row, key).to(self._dtype)[None, None]

    def _classes(self, logits: Tensor) -> dict[str, Any]:
        """Of logits (1, classes)."""
        probabilities = logits[0].softmax(-1).tolist()
        best = self.model.schema.classes[probabilities.index(max(probabilities))]
        return dict(zip(self._columns, (best, *probabilities), strict=True))

    def _forecast(self, outputs: Tensor) -> dict[str, Any]:
        """Of scaled quantiles (1, 1, K, P, 3)."""
        assert self.model.scaling is not None  # a forecast has one
        quantiles = unscaled(outputs[0, 0], self.model.scaling).transpose(1, 2).flatten(0, 1)
        if self.model.schema.horizon == 1:
            quantiles = quantiles[:, 0]
        return dict(zip(self._columns, quantiles.tolist(), strict=True))

    def _next(self, outputs: Tensor) -> dict[str, Any]:
        """Of logits (L, 1, V)."""
        sayable = self._symbols.sayable(outputs[-1, 0])
        likeliest = sayable.softmax(-1).topk(min(TOP, len(self._symbols)))
        names = map(self._symbols.name, likeliest.indices.tolist())
        probabilities = dict(zip(names, likeliest.values.tolist(), strict=True))
        return {"next": next(iter(probabilities)), "probabilities": probabilities}
