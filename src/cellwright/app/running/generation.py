"""Text from a language model, character by character."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from cellwright.app.errors import InputError
from cellwright.app.model.folder import Model
from cellwright.app.running.symbols import Symbols
from cellwright.app.schema import Task

__all__ = ["generate"]


def generate(
    model: Model, prompt: str, length: int = 200, temperature: float = 1.0, seed: int = 0
) -> Iterator[str]:
    """The text that `model` writes after `prompt`, each character as it comes.

    Args:
        model: a language model, as `load_model` returns it; its network is put into the mode for
            evaluation.
        prompt: what stands before, at least one character; it is read, and not repeated.
        length: how many symbols are drawn: characters, or bytes of a model of bytes.
        temperature: what the logits are divided by: 1 draws as the model has learned, less is more
            cautious, 0 takes the likeliest symbol each time.
        seed: of the draws; torch's own random numbers are neither used nor changed.

    Raises:
        InputError: the model writes no text; the prompt is empty or has symbols that the model
            does not know; length or temperature makes no sense. Raised by the call, before the
            first character is asked for.
    """
    if model.schema.task is not Task.TEXT:
        raise InputError(
            f"expected a model that writes text, but this one's task is {model.schema.task}; train "
            "one on a .txt file, or use `cellwright predict` with this one"
        )
    if not prompt:
        raise InputError("expected a prompt of at least one character; give the text to go on from")
    if length < 0:
        raise InputError(f"expected a length of 0 or more, but got {length}")
    if not (temperature >= 0 and math.isfinite(temperature)):
        raise InputError(f"expected a temperature of 0 or more, but got {temperature}")
    if not 0 <= seed < 2**64:
        raise InputError(f"expected a seed from 0 to 2⁶⁴ - 1, but got {seed}")
    symbols = Symbols(model.schema)
    return _write(model, symbols, symbols.encode(prompt), length, temperature, seed)


def _write(
    model: Model, symbols: Symbols, read: Tensor, length: int, temperature: float, seed: int
) -> Iterator[str]:
    network = model.network.eval()
    generator = torch.Generator().manual_seed(seed)
    decode = symbols.decoder()
    states: Any = None
    for _ in range(length):
        with torch.inference_mode():  # not around the yield: it would hold for the caller too
            outputs, states = network(read[:, None], states)
            read = _draw(symbols.sayable(outputs[-1, 0]), temperature, generator)
        if text := decode(int(read)):
            yield text
    if text := decode(None):
        yield text


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """The index (1,) of the next symbol."""
    if temperature == 0:
        return logits.argmax(-1, keepdim=True)
    # in float64, and with the largest at 0, no temperature overflows
    scaled = (logits.double() - logits.max()) / temperature
    return scaled.softmax(-1).multinomial(1, generator=generator)
