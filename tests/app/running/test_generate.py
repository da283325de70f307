"""Generated text: greedy and drawn, set by a seed, with the state carried on."""

import math
from dataclasses import replace

import pytest
import torch
from tests.app.model.makers import SCHEMAS, make_model

from cellwright.app.errors import InputError
from cellwright.app.model.folder import Model
from cellwright.app.running import generate
from cellwright.app.running.symbols import Symbols
from cellwright.app.schema import UNKNOWN, Schema, Task

BYTES = Schema(Task.TEXT, vocabulary=tuple(map(chr, range(256))), unit="byte")


def text(model: Model, *args: object, **options: object) -> str:
    return "".join(generate(model, *args, **options))  # type: ignore[arg-type]


def greedy(model: Model, prompt: str, length: int) -> str:
    """Read the whole text anew for each character."""
    vocabulary = model.schema.vocabulary
    indices = [vocabulary.index(one) for one in prompt]
    with torch.no_grad():
        for _ in range(length):
            logits, _ = model.network.eval()(torch.tensor(indices)[:, None])
            indices.append(int(logits[-1, 0].argmax()))
    return "".join(vocabulary[one] for one in indices[len(prompt) :])


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn_tanh"])
def test_at_temperature_0_the_likeliest_is_taken(cell: str) -> None:
    model = make_model(Task.TEXT, cell)
    assert text(model, "abé a", 40, 0.0) == greedy(model, "abé a", 40)


def test_a_seed_sets_the_text() -> None:
    model = make_model(Task.TEXT)
    one = text(model, "ab", 50, 1.0, 7)
    assert len(one) == 50
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert text(model, "ab", 50, 1.0, 7) == one
    assert torch.equal(torch.get_rng_state(), before)
    assert text(model, "ab", 50, 1.0, 8) != one
    model.network.train()  # dropout would change it
    assert text(model, "ab", 50, 1.0, 7) == one


def test_draws_follow_the_probabilities_at_each_temperature() -> None:
    model = make_model(Task.TEXT)
    with torch.no_grad():
        logits = model.network.eval()(Symbols(model.schema).encode("bad")[:, None])[0][-1, 0]
    for temperature in (0.5, 2.0):
        drawn = [text(model, "bad", 1, temperature, seed) for seed in range(800)]
        expected = (logits / temperature).softmax(-1).tolist()
        for symbol, share in zip(model.schema.vocabulary, expected, strict=True):
            error = 5 * math.sqrt(share * (1 - share) / len(drawn))
            assert drawn.count(symbol) / len(drawn) == pytest.approx(share, abs=error)


def test_an_extreme_temperature_does_not_overflow() -> None:
    model = make_model(Task.TEXT)
    assert text(model, "ab", 20, 1e-300) == text(model, "ab", 20, 0.0)
    assert len(text(model, "ab", 20, 1e300)) == 20


def test_what_is_unknown_is_read_and_never_written() -> None:
    schema = replace(SCHEMAS[Task.TEXT], vocabulary=("a", "b", UNKNOWN))
    model = make_model(schema=schema)
    with torch.no_grad():
        model.network.readout.bias[2] += 9
    assert Symbols(schema).encode("abxé").tolist() == [0, 1, 2, 2]
    for temperature in (0.0, 1.0):
        written = text(model, "axé", 60, temperature)
        assert len(written) == 60
        assert set(written) <= set("ab")


def test_characters_come_one_by_one_and_outside_of_inference_mode() -> None:
    model = make_model(Task.TEXT)
    calls: list[None] = []
    model.network.register_forward_hook(lambda *_: calls.append(None))
    made = generate(model, "abc", 10)
    assert calls == []
    for count in range(1, 4):
        assert len(next(made)) == 1
        assert len(calls) == count
        assert not torch.is_inference_mode_enabled()


def test_what_cannot_be_written() -> None:
    model = make_model(Task.TEXT)
    for arguments, message in (
        (("xay zx",), "expected characters .* but got 'x', 'y', 'z'; leave them out"),
        (("ABCDEFGHIJKL",), "'I', 'J' and 2 more; "),
        (("",), "expected a prompt of at least one character"),
        (("a", -1), "expected a length of 0 or more, but got -1"),
        (("a", 1, -0.5), "expected a temperature of 0 or more, but got -0.5"),
        (("a", 1, math.nan), "expected a temperature of 0 or more, but got nan"),
        (("a", 1, math.inf), "expected a temperature of 0 or more, but got inf"),
        (("a", 1, 1.0, -1), "expected a seed from 0 to 2⁶⁴ - 1, but got -1"),
        (("a", 1, 1.0, 2**64), "expected a seed from 0 to 2⁶⁴ - 1, but got 1844"),
    ):
        with pytest.raises(InputError, match=message):
            generate(model, *arguments)
    with pytest.raises(InputError, match="task is forecast; train one on a"):
        generate(make_model(Task.FORECAST), "a")
    assert text(model, "a", 0) == ""


def test_bytes_are_whole_characters_again() -> None:
    symbols = Symbols(BYTES)
    decode = symbols.decoder()
    indices = symbols.encode("é→a").tolist()
    assert [decode(index) for index in indices] == ["", "é", "", "", "→", "a"]
    assert decode(None) == ""
    assert decode(0xE2) == ""
    assert decode(None) == "\ufffd"
    assert (symbols.name(0x41), symbols.name(0xE9)) == ("A", "0xe9")


def test_a_model_of_bytes() -> None:
    model = make_model(schema=BYTES)
    made = list(generate(model, "é", 60, 2.0))
    assert all(made)
    assert sum(len(piece) for piece in made) <= 60
    few = replace(BYTES, vocabulary=tuple("ab"))
    with pytest.raises(InputError, match=r"expected bytes .* but got 0xa9, 0xc3; "):
        generate(make_model(schema=few), "aé")
