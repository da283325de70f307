"""Recurrent modules on compiled kernels, and with them all of ``torch.nn``.

``import cellwright.nn as nn`` serves code that was written for ``torch.nn``: RNN, LSTM and GRU are
Cellwright's, whatever else is asked for is torch's.
"""

from typing import TYPE_CHECKING, Any

import torch.nn

from cellwright.nn.recurrent import Recurrent
from cellwright.nn.rnn import GRU, LSTM, RNN
from cellwright.nn.sequence import SequenceModel

if TYPE_CHECKING:  # so that a type checker knows what __getattr__ hands on
    from torch.nn import *  # type: ignore[assignment]  # noqa: F403
    from torch.nn import functional as functional
    from torch.nn import init as init
    from torch.nn import modules as modules
    from torch.nn import parameter as parameter
    from torch.nn import utils as utils

__all__ = ["GRU", "LSTM", "RNN", "Recurrent", "SequenceModel"]


def __getattr__(name: str) -> Any:
    """Hand on to ``torch.nn`` what is not defined here."""
    if not name.startswith("__") and hasattr(torch.nn, name):
        return getattr(torch.nn, name)
    raise AttributeError(f"module 'cellwright.nn' has no attribute {name!r}, nor has 'torch.nn'")


def __dir__() -> list[str]:
    return sorted({*globals(), *(name for name in dir(torch.nn) if not name.startswith("_"))})
