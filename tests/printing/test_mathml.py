"""Equations as MathML: well-formed, of MathML Core alone, and saying what Unicode says."""

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given
from tests.cpu.cells import CELLS
from tests.random_cells import REPRODUCIBLE, cells

import cellwright as cw
from cellwright import cell, describe

NAMESPACE = "{http://www.w3.org/1998/Math/MathML}"
CORE = {
    *("math", "mfrac", "mi", "mn", "mo", "mover", "mrow", "msqrt", "msub", "msubsup", "msup"),
    *("mtable", "mtd", "mtr"),
}
CHILDREN = {"mfrac": 2, "mover": 2, "msub": 2, "msubsup": 3, "msup": 2, "msqrt": 1, "mtr": 2}


def parsed(mathml: str) -> ET.Element:
    root = ET.fromstring(mathml)
    assert root.tag == f"{NAMESPACE}math"
    assert root.get("display") == "block"
    for element in root.iter():
        tag = element.tag.removeprefix(NAMESPACE)
        assert tag in CORE
        if tag in CHILDREN:
            assert len(element) == CHILDREN[tag], ET.tostring(element)
        if tag in ("mi", "mn", "mo"):
            assert len(element) == 0
            assert element.text
        else:
            assert not (element.text or "").strip()
    return root


def lines(mathml: str) -> list[str]:
    """Return what a reader sees, a line an equation."""
    return ["".join(row.itertext()) for row in parsed(mathml).iter(f"{NAMESPACE}mtr")]


def flat(unicode: str) -> str:
    """Return a Unicode equation without what MathML shows by its layout."""
    return re.sub(r"[ _{},]", "", unicode).replace("-", "−")


def seen(mathml: str) -> list[str]:
    return [re.sub("[\u2061\u2062]", "", line) for line in lines(mathml)]


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("bias", [True, False])
def test_mathml_says_what_unicode_says(name: str, bias: bool) -> None:
    found = describe(CELLS[name], bias=bias)
    assert [line.replace(",", "") for line in seen(found.mathml)] == [
        flat(line) for line in found.equations
    ]


def test_the_simple_network_in_full() -> None:
    assert describe("rnn_tanh", bias=False).mathml == (
        '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">'
        '<mtable displaystyle="true"><mtr>'
        '<mtd style="text-align: right; padding-right: 0">'
        "<msub><mi>h</mi><mrow><mi>t</mi></mrow></msub></mtd>"
        '<mtd style="text-align: left; padding-left: 0"><mrow><mo form="infix">=</mo>'
        "<mrow><mi>tanh</mi><mo>\u2061</mo>"
        '<mrow><mo form="prefix">(</mo>'
        "<msub><mi>W</mi><mrow><mi>x</mi><mi>h</mi></mrow></msub><mo>\u2062</mo>"
        "<msub><mi>x</mi><mrow><mi>t</mi></mrow></msub><mo>+</mo>"
        "<msub><mi>W</mi><mrow><mi>h</mi><mi>h</mi></mrow></msub><mo>\u2062</mo>"
        "<msub><mi>h</mi><mrow><mi>t</mi><mo>−</mo><mn>1</mn></mrow></msub>"
        '<mo form="postfix">)</mo></mrow></mrow></mrow></mtd></mtr></mtable></math>'
    )


def test_long_names_numbers_and_signs() -> None:
    @cell
    def odd(x, h, c, *, p_forget=1.0, alpha=0.5):
        forget = cw.sigmoid(x.forget + h.forget + p_forget * c)
        new = cw.minimum(cw.maximum(x.in_gate, -1.0), 1.0)
        c = forget * -c + alpha * new - -2.5 * h + 3e-7
        return cw.softplus(c) / (1.0 + cw.sqrt(abs(h))), c

    assert seen(describe(odd).mathml) == [
        "forgett=σ(Wx,forgetxt+bx,forget+Wh,forgetht−1+bh,forget+pforget⊙ct−1)",
        "ingate,t=min(max(Wx,in_gatext+bx,in_gate,−1),1)",
        "ct=forgett⊙(−ct−1)+α⊙ingate,t−(−2.5·ht−1)+3·10−7",
        "ht=softplus(ct)1+|ht−1|",
    ]


def test_marks_of_a_name() -> None:
    @cell
    def marked(x, h):
        f = cw.sigmoid(x.f + h.f)
        other = cw.tanh(x.f)
        candidate = cw.tanh(x.h + f * other * h.h)
        return (1 - f) * h + f * candidate

    found = describe(marked).mathml
    assert '<mover accent="true"><mi>h</mi><mo stretchy="false">~</mo></mover>' in found
    assert re.search(r"<msubsup><mi>f</mi><mrow><mi>t</mi></mrow><mo>′</mo></msubsup>", found)


@REPRODUCIBLE
@given(cells())
def test_any_cell_is_well_formed(drawn: cw.Cell) -> None:
    found = describe(drawn)
    assert len(lines(found.mathml)) == len(found.equations)
