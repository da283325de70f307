"""What is printed of a cell: equations, gates, parameters."""

import re

import pytest
import torch
from hypothesis import given
from tests.random_cells import REPRODUCIBLE, cells

import cellwright as cw
import cellwright.nn as cw_nn
from cellwright import cell, describe
from cellwright.cells import CELLS


def test_lstm_in_unicode() -> None:
    assert describe("lstm").equations == (
        "i_t = σ(W_xi x_t + b_xi + W_hi h_{t-1} + b_hi)",
        "f_t = σ(W_xf x_t + b_xf + W_hf h_{t-1} + b_hf)",
        "g_t = tanh(W_xg x_t + b_xg + W_hg h_{t-1} + b_hg)",
        "o_t = σ(W_xo x_t + b_xo + W_ho h_{t-1} + b_ho)",
        "c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t",
        "h_t = o_t ⊙ tanh(c_t)",
    )


def test_gru_in_unicode() -> None:
    assert describe("gru").equations == (
        "r_t = σ(W_xr x_t + b_xr + W_hr h_{t-1} + b_hr)",
        "z_t = σ(W_xz x_t + b_xz + W_hz h_{t-1} + b_hz)",
        "n_t = tanh(W_xn x_t + b_xn + r_t ⊙ (W_hn h_{t-1} + b_hn))",
        "h_t = n_t + z_t ⊙ (h_{t-1} − n_t)",
    )


def test_rnn_in_latex() -> None:
    assert describe("rnn_tanh").latex == (
        "\\begin{align*}\n"
        r"h_t &= \tanh(W_{xh} x_t + b_{xh} + W_{hh} h_{t-1} + b_{hh})"
        "\n\\end{align*}"
    )


def test_gru_in_latex_without_bias() -> None:
    assert describe("gru", bias=False).latex.splitlines()[1:-1] == [
        r"r_t &= \sigma(W_{xr} x_t + W_{hr} h_{t-1}) \\",
        r"z_t &= \sigma(W_{xz} x_t + W_{hz} h_{t-1}) \\",
        r"n_t &= \tanh(W_{xn} x_t + r_t \odot W_{hn} h_{t-1}) \\",
        r"h_t &= n_t + z_t \odot (h_{t-1} - n_t)",
    ]


def test_the_whole_text() -> None:
    assert str(describe("rnn_relu", 3, 4)) == (
        "rnn_relu\n\n"
        "Simple recurrent network with rectified units. Le, Jaitly & Hinton 2015.\n\n"
        "Equations\n"
        "  h_t = relu(W_xh x_t + b_xh + W_hh h_{t-1} + b_hh)\n\n"
        "LaTeX\n"
        "  \\begin{align*}\n"
        "  h_t &= \\operatorname{relu}(W_{xh} x_t + b_{xh} + W_{hh} h_{t-1} + b_{hh})\n"
        "  \\end{align*}\n\n"
        "Gates       0\n"
        "Parameters  H·I + H·H + 2·H = 36 at I = 3, H = 4"
    )


@pytest.mark.parametrize(
    ("name", "gates", "formula", "twin"),
    [
        ("rnn_tanh", 0, "H·I + H·H + 2·H", torch.nn.RNN),
        ("rnn_relu", 0, "H·I + H·H + 2·H", torch.nn.RNN),
        ("lstm", 3, "4·(H·I + H·H + 2·H)", torch.nn.LSTM),
        ("gru", 2, "3·(H·I + H·H + 2·H)", torch.nn.GRU),
    ],
)
def test_gates_and_parameters(name: str, gates: int, formula: str, twin: type) -> None:
    found = describe(name)
    assert (found.gates, found.parameters) == (gates, formula)
    assert describe(name, bias=False).parameters == formula.replace(" + 2·H", "")
    for bias in (True, False):
        wanted = sum(p.numel() for p in twin(7, 5, bias=bias).parameters())
        assert found.count(7, 5, bias) == wanted


def evaluated(formula: str, I: int, H: int) -> int:  # noqa: E741
    return int(eval(formula.replace("·", "*"), {}, {"I": I, "H": H}))


@REPRODUCIBLE
@given(cells())
def test_the_formula_is_the_count(subject: cw.Cell) -> None:
    I = 5 if subject.reads_input else 7  # noqa: E741
    for bias in (True, False):
        found = describe(subject, I, 5, bias)
        assert evaluated(found.parameters, I, 5) == found.count(I, 5, bias)


@REPRODUCIBLE
@given(cells())
def test_any_cell_reads_top_down_and_balanced(subject: cw.Cell) -> None:
    found = describe(subject, 4, 4)
    defined: list[str] = []
    for line in found.equations:
        left, right = line.split(" = ", 1)
        assert left not in defined
        used = set(re.findall(r"(?<![\w}])([\w′]+_t)\b", right)) - {"x_t"}
        assert used <= set(defined), line
        defined.append(left)
    assert {f"{state}_t" for state in subject.states} <= set(defined)
    for opening, closing in ("()", "{}"):
        assert found.latex.count(opening) == found.latex.count(closing)
    assert found.latex.count("&=") == len(found.equations)
    assert str(found).isprintable() or "\n" in str(found)


def test_names_of_a_peephole_lstm() -> None:
    @cell
    def peephole(x, h, c, *, p_i=0.0, p_f=0.0, p_o=0.0):
        i = cw.sigmoid(x.i + h.i + p_i * c)
        f = cw.sigmoid(x.f + h.f + p_f * c)
        c = f * c + i * cw.tanh(x.g + h.g)
        o = cw.sigmoid(x.o + h.o + p_o * c)
        return o * cw.tanh(c), c

    found = describe(peephole)
    lines = found.equations
    assert [line.split()[0] for line in lines] == ["i_t", "f_t", "g_t", "c_t", "o_t", "h_t"]
    assert lines[0] == "i_t = σ(W_xi x_t + b_xi + W_hi h_{t-1} + b_hi + p_i ⊙ c_{t-1})"
    assert lines[4] == "o_t = σ(W_xo x_t + b_xo + W_ho h_{t-1} + b_ho + p_o ⊙ c_t)"
    assert (found.gates, found.parameters) == (3, "4·(H·I + H·H + 2·H) + 3·H")
    assert found.count(2, 3) == 4 * (6 + 9 + 6) + 9


def test_a_candidate_named_like_its_state_gets_a_tilde() -> None:
    @cell
    def mgu(x, h):
        f = cw.sigmoid(x.f + h.f)
        n = cw.tanh(x.h + (f * h).h)
        return (1 - f) * h + f * n

    found = describe(mgu)
    candidate = "h\N{COMBINING TILDE}_t"
    assert found.gates == 1
    assert found.equations[1:] == (
        f"{candidate} = tanh(W_xh x_t + b_xh + W_hh (f_t ⊙ h_{{t-1}}) + b_hh)",
        f"h_t = (1 − f_t) ⊙ h_{{t-1}} + f_t ⊙ {candidate}",
    )
    assert r"\tilde{h}_t &= \tanh(W_{xh} x_t" in found.latex


def test_what_is_a_gate() -> None:
    @cell
    def coupled(x, h, c):
        f = cw.sigmoid(x.f + h.f)
        c = f * c + (1 - f) * cw.tanh(x.g + h.g)
        return cw.sigmoid(x.o + h.o) * cw.tanh(c), c

    @cell
    def sigmoid_rnn(x, h):
        return cw.sigmoid(x.h + h.h)

    @cell
    def silu_rnn(x, h):
        return cw.silu(x.h + h.h)

    @cell
    def leaky(x, h):
        return (1 - cw.sigmoid(h.z)) * h

    @cell
    def summand(x, h):
        return cw.sigmoid(x.a + h.a) + h

    found = [describe(c).gates for c in (coupled, sigmoid_rnn, silu_rnn, leaky, summand)]
    assert found == [2, 0, 0, 1, 0]
    assert describe(silu_rnn).equations == ("h_t = silu(W_xh x_t + b_xh + W_hh h_{t-1} + b_hh)",)


def test_unequal_bundles_and_long_names() -> None:
    @cell
    def unequal(x, h, c, *, p_forget=1.0, alpha=0.5):
        forget = cw.sigmoid(x.forget + h.forget + c.forget + p_forget * c)
        new = cw.minimum(cw.maximum(x.in_gate, -1.0), 1.0)
        c = forget * c + alpha * new
        return cw.softplus(c) / 2 * h, c

    found = describe(unequal)
    assert found.parameters == "2·(H·I + H) + 2·H·H + 2·H + 2·H"
    assert evaluated(found.parameters, 3, 4) == found.count(3, 4) == 2 * 16 + 2 * 20 + 8
    assert found.equations[1] == ("in_gate_t = min(max(W_{x,in_gate} x_t + b_{x,in_gate}, −1), 1)")
    assert found.equations[-1] == "h_t = (softplus(c_t) / 2) ⊙ h_{t-1}"
    assert r"p_{\mathrm{forget}} \odot c_{t-1}" in found.latex
    assert r"\alpha \odot \mathrm{in}_{\mathrm{gate},t}" in found.latex
    assert r"\frac{\operatorname{softplus}(c_t)}{2} \odot h_{t-1}" in found.latex


def test_a_long_value_used_twice_gets_an_equation() -> None:
    @cell
    def shared(x, h):
        s = x.a + h.b
        return cw.tanh(s) * cw.sigmoid(s)

    assert describe(shared).equations == (
        "s_t = W_xa x_t + b_xa + W_hb h_{t-1} + b_hb",
        "h_t = tanh(s_t) ⊙ σ(s_t)",
    )


def test_swapped_and_equal_states() -> None:
    @cell
    def swapped(x, h, c, m):
        new = cw.tanh(x.a + h.a)
        return c, new, new

    assert describe(swapped).equations == (
        "h_t = c_{t-1}",
        "c_t = tanh(W_xa x_t + b_xa + W_ha h_{t-1} + b_ha)",
        "m_t = c_t",
    )


def test_signs_and_brackets() -> None:
    @cell
    def signs(x, h, c):
        return -(h + c) * (h - (c - h)), h * -c - (h / (c / h)) + 0.5 * h - -2.0 * c + 1e-5

    assert describe(signs).equations == (
        "h_t = −(h_{t-1} + c_{t-1}) ⊙ (h_{t-1} − (c_{t-1} − h_{t-1}))",
        (
            "c_t = h_{t-1} ⊙ (−c_{t-1}) − h_{t-1} / (c_{t-1} / h_{t-1}) + 0.5 · h_{t-1} "
            "− (−2 · c_{t-1}) + 1e−05"
        ),
    )
    assert r"+ 10^{-5}" in describe(signs).latex


def test_an_unknown_name_is_answered_with_the_choices() -> None:
    with pytest.raises(
        ValueError, match=r"'gruu' \(did you mean 'gru'\?\); there are rnn_tanh, rnn_relu,"
    ):
        describe("gruu")
    with pytest.raises(TypeError, match="the name of a bundled one, got RNN"):
        describe(cw_nn.RNN(3, 4))


def test_impossible_sizes_are_refused() -> None:
    @cell
    def skip(x, h):
        return cw.tanh(h.h) + x

    with pytest.raises(ValueError, match="hidden_size must be 1 or more, and is 0"):
        describe("gru", 3, 0)
    with pytest.raises(ValueError, match="input_size must equal hidden_size, and 3 is not 4"):
        describe(skip, 3, 4)
    assert describe(skip, hidden_size=6).input_size == 6


def test_every_bundled_cell_names_its_source() -> None:
    for name in CELLS:
        assert re.search(r"\b(19|20)\d\d\b", describe(name).cell.doc)
