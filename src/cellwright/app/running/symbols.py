"""A language model's symbols as numbers and back: characters, or the bytes of UTF-8."""

import codecs
import math
from collections.abc import Callable

import torch
from torch import Tensor

from cellwright.app.errors import InputError
from cellwright.app.schema import Schema

__all__ = ["Symbols"]

SHOWN = 10
"""How many unknown symbols an error names."""


class Symbols:
    """The vocabulary of a schema, whose unit is a character or a byte.

    Attributes:
        unknown: the index of what stands for characters that training has not seen; None where
            there is none.
    """

    def __init__(self, schema: Schema) -> None:
        self._vocabulary = schema.vocabulary
        self._index = {symbol: index for index, symbol in enumerate(schema.vocabulary)}
        self._bytes = schema.unit == "byte"
        self.unknown = schema.unknown

    def __len__(self) -> int:
        """The number of symbols that can be said."""
        return len(self._vocabulary) - (self.unknown is not None)

    def encode(self, text: str) -> Tensor:
        """The indices (L,) of the symbols of `text`.

        Raises:
            InputError: symbols that training has not seen, named one by one, of a vocabulary that
                has none for them.
        """
        symbols = text.encode().decode("latin-1") if self._bytes else text
        if self.unknown is not None:
            return torch.tensor([self._index.get(symbol, self.unknown) for symbol in symbols])
        unknown = sorted(set(symbols) - self._index.keys())
        if unknown:
            named = ", ".join(map(self._quoted, unknown[:SHOWN]))
            more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
            raise InputError(
                f"expected {'bytes' if self._bytes else 'characters'} that were in the text of the "
                f"training, but got {named}{more}; leave them out, or train on a text that has them"
            )
        return torch.tensor([self._index[symbol] for symbol in symbols])

    def sayable(self, logits: Tensor) -> Tensor:
        """The logits (V,) with no chance for what is unknown: it is no character."""
        if self.unknown is None:
            return logits
        return logits.index_fill(-1, torch.tensor([self.unknown]), -math.inf)

    def name(self, index: int) -> str:
        """The symbol as a reader knows it: the character, or a byte that is none as "0xe9"."""
        symbol = self._vocabulary[index]
        return f"0x{ord(symbol):02x}" if self._bytes and ord(symbol) > 127 else symbol

    def decoder(self) -> Callable[[int | None], str]:
        """A function from one symbol's index after another to the text that is whole by then.

        A byte in the middle of a character gives "" until the character is there; None ends the
        text. Bytes that are no UTF-8 become U+FFFD.
        """
        if not self._bytes:
            return lambda index: "" if index is None else self._vocabulary[index]
        utf8 = codecs.getincrementaldecoder("utf-8")(errors="replace")

        def decode(index: int | None) -> str:
            data = b"" if index is None else self._vocabulary[index].encode("latin-1")
            return utf8.decode(data, final=index is None)

        return decode

    def _quoted(self, symbol: str) -> str:
        return f"0x{ord(symbol):02x}" if self._bytes else repr(symbol)
