"""RNN, LSTM and GRU, in the place of torch.nn's."""

from typing import Any, ClassVar, Literal, overload

import torch

from cellwright.cells import CELLS, gru, lstm
from cellwright.nn.recurrent import Recurrent

__all__ = ["GRU", "LSTM", "RNN"]

Device = torch.device | str | int | None


class _Bundled(Recurrent):
    """A bundled cell, printed as torch prints it, and lowered by autocast where torch lowers it."""

    _lowered_on: ClassVar[frozenset[str]] = frozenset({"cuda"})

    def extra_repr(self) -> str:
        """Return the arguments that differ from their defaults."""
        return self._sizes_repr()


class RNN(_Bundled):
    r"""Simple recurrent network, Elman 1990, in the place of ``torch.nn.RNN``.

    .. math:: h_t = \tanh(W_{ih} x_t + b_{ih} + W_{hh} h_{t-1} + b_{hh})

    Args:
        input_size: H_in, the features of a step of the input.
        hidden_size: H_out, the units of the hidden state.
        num_layers: how many layers are stacked. Default: 1
        nonlinearity: "tanh" or "relu". Default: "tanh"
        bias: whether b_ih and b_hh are there. Default: True
        batch_first: whether input and output are (N, L, features), not (L, N, features).
            Default: False
        dropout: probability that an element is zeroed between layers, in training. Default: 0
        bidirectional: whether a second direction runs backwards in time. Default: False
        device: where the parameters are made.
        dtype: the parameters' type.

    Inputs and outputs:
        input (L, N, H_in), (N, L, H_in), (L, H_in) or packed; hx and h_n
        (D · num_layers, N, H_out), unbatched (D · num_layers, H_out); output (L, N, D · H_out) in
        the form of the input.
        :class:`Recurrent` says all of it, the parameters' names and the errors too.

    Raises:
        ValueError: nonlinearity is neither "tanh" nor "relu", proj_size is given, a size is not
            above 0, or dropout not from 0 to 1.
        TypeError: a size is no int, bias or batch_first no bool, or an argument unknown.
    """

    nonlinearity: str

    @overload
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        nonlinearity: str,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        proj_size: Literal[0],
        device: Device = None,
        dtype: torch.dtype | None = None,
        /,
    ) -> None: ...
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if len(args) > 3:
            nonlinearity, args = args[3], args[:3] + args[4:]
        else:
            nonlinearity = kwargs.pop("nonlinearity", "tanh")
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity must be 'tanh' or 'relu', not {nonlinearity!r}")
        _refuse_projection("RNN", args, kwargs)
        super().__init__(CELLS[f"rnn_{nonlinearity}"], *args, **kwargs)
        self.nonlinearity = nonlinearity


class LSTM(_Bundled):
    r"""Long short-term memory, Hochreiter & Schmidhuber 1997, in the place of ``torch.nn.LSTM``.

    .. math::
        i_t &= \sigma(W_{ii} x_t + b_{ii} + W_{hi} h_{t-1} + b_{hi}) \\
        f_t &= \sigma(W_{if} x_t + b_{if} + W_{hf} h_{t-1} + b_{hf}) \\
        g_t &= \tanh(W_{ig} x_t + b_{ig} + W_{hg} h_{t-1} + b_{hg}) \\
        o_t &= \sigma(W_{io} x_t + b_{io} + W_{ho} h_{t-1} + b_{ho}) \\
        c_t &= f_t \odot c_{t-1} + i_t \odot g_t \\
        h_t &= o_t \odot \tanh(c_t)

    Args:
        input_size: H_in, the features of a step of the input.
        hidden_size: the units of the cell state.
        num_layers: how many layers are stacked. Default: 1
        bias: whether b_ih and b_hh are there. Default: True
        batch_first: whether input and output are (N, L, features), not (L, N, features).
            Default: False
        dropout: probability that an element is zeroed between layers, in training. Default: 0
        bidirectional: whether a second direction runs backwards in time. Default: False
        proj_size: if above 0, h_t is W_hr (o_t ⊙ tanh(c_t)) and H_out = proj_size; else
            H_out = hidden_size. Default: 0
        device: where the parameters are made.
        dtype: the parameters' type.

    Inputs and outputs:
        input (L, N, H_in), (N, L, H_in), (L, H_in) or packed; hx and the final states are a tuple
        (h, c) of (D · num_layers, N, H_out) and (D · num_layers, N, hidden_size), without N if
        unbatched; output (L, N, D · H_out) in the form of the input.
        :class:`Recurrent` says all of it, the parameters' names and the errors too.

    Raises:
        ValueError: a size is not above 0, proj_size not below hidden_size, dropout not from 0 to 1.
        TypeError: a size is no int, bias or batch_first no bool, or an argument unknown.
    """

    _lowered_on = frozenset({"cpu", "cuda"})

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            lstm,
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            proj_size,
            device,
            dtype,
        )


class GRU(_Bundled):
    r"""Gated recurrent unit, Cho et al. 2014, in the place of ``torch.nn.GRU``.

    .. math::
        r_t &= \sigma(W_{ir} x_t + b_{ir} + W_{hr} h_{t-1} + b_{hr}) \\
        z_t &= \sigma(W_{iz} x_t + b_{iz} + W_{hz} h_{t-1} + b_{hz}) \\
        n_t &= \tanh(W_{in} x_t + b_{in} + r_t \odot (W_{hn} h_{t-1} + b_{hn})) \\
        h_t &= (1 - z_t) \odot n_t + z_t \odot h_{t-1}

    Args:
        input_size: H_in, the features of a step of the input.
        hidden_size: H_out, the units of the hidden state.
        num_layers: how many layers are stacked. Default: 1
        bias: whether b_ih and b_hh are there. Default: True
        batch_first: whether input and output are (N, L, features), not (L, N, features).
            Default: False
        dropout: probability that an element is zeroed between layers, in training. Default: 0
        bidirectional: whether a second direction runs backwards in time. Default: False
        device: where the parameters are made.
        dtype: the parameters' type.

    Inputs and outputs:
        input (L, N, H_in), (N, L, H_in), (L, H_in) or packed; hx and h_n
        (D · num_layers, N, H_out), unbatched (D · num_layers, H_out); output (L, N, D · H_out) in
        the form of the input.
        :class:`Recurrent` says all of it, the parameters' names and the errors too.

    Raises:
        ValueError: proj_size is given, a size is not above 0, or dropout not from 0 to 1.
        TypeError: a size is no int, bias or batch_first no bool, or an argument unknown.
    """

    @overload
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        *,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None: ...
    @overload
    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        proj_size: Literal[0],
        device: Device = None,
        dtype: torch.dtype | None = None,
        /,
    ) -> None: ...
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        _refuse_projection("GRU", args, kwargs)
        super().__init__(gru, *args, **kwargs)


def _refuse_projection(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Refuse proj_size, which torch takes as the eighth positional argument if it is 0."""
    if "proj_size" in kwargs or (len(args) > 7 and isinstance(args[7], int) and args[7] != 0):
        raise ValueError(
            f"{name} has no proj_size: only LSTM does; leave it out, or put a Linear after {name}"
        )
