"""The same equations as MathML Core, which browsers show and screen readers speak."""

import unicodedata
from collections.abc import Iterable
from html import escape

from cellwright.graph.ops import ELEMENTWISE
from cellwright.printing.naming import Name
from cellwright.printing.notation import GREEK, Notation, digits

__all__ = ["MATHML", "TEMPLATES", "aligned"]

APPLY = "<mo>\N{FUNCTION APPLICATION}</mo>"
TIMES = "<mo>\N{INVISIBLE TIMES}</mo>"
MINUS = '<mo form="prefix">−</mo>'


def _called(name: str, arguments: str = "{}") -> str:
    """Return the template of a function's call; names of one letter are upright too."""
    upright = ' mathvariant="normal"' if len(name) == 1 else ""
    return (
        f"<mrow><mi{upright}>{name}</mi>{APPLY}"
        f'<mrow><mo form="prefix">(</mo>{arguments}<mo form="postfix">)</mo></mrow></mrow>'
    )


TEMPLATES: dict[str, str] = {
    "add": "{}<mo>+</mo>{}",
    "sub": '{}<mo form="infix">−</mo>{}',
    "mul": "{}<mo>⊙</mo>{}",
    "div": "<mfrac><mrow>{}</mrow><mrow>{}</mrow></mfrac>",
    "neg": MINUS + "{}",
    "sigmoid": _called("σ"),
    "tanh": _called("tanh"),
    "relu": _called("relu"),
    "exp": _called("exp"),
    "log": _called("log"),
    "sqrt": "<msqrt><mrow>{}</mrow></msqrt>",
    "abs": '<mrow><mo form="prefix">|</mo>{}<mo form="postfix">|</mo></mrow>',
    "sign": _called("sign"),
    "positive": (
        '<mrow><mo form="prefix">[</mo>{}<mo>&gt;</mo><mn>0</mn><mo form="postfix">]</mo></mrow>'
    ),
    "maximum": _called("max", "{}<mo>,</mo>{}"),
    "minimum": _called("min", "{}<mo>,</mo>{}"),
}
"""How each elementwise operation is written."""


class _MathML:
    def at(self, name: Name, time: str = "t") -> str:
        base, *subscripts = self._parts(name.base)
        moment = "<mi>t</mi>" if time == "t" else "<mi>t</mi><mo>−</mo><mn>1</mn>"
        inner = self._row([*subscripts, moment])
        if name.mark == "~":
            base = f'<mover accent="true">{base}<mo stretchy="false">~</mo></mover>'
        elif name.mark:
            primes = "′" * len(name.mark)
            return f"<msubsup>{base}{inner}<mo>{primes}</mo></msubsup>"
        return f"<msub>{base}{inner}</msub>"

    def vector(self, name: str) -> str:
        base, *subscripts = self._parts(name)
        return f"<msub>{base}{self._row(subscripts)}</msub>" if subscripts else base

    def parameter(self, letter: str, bundle: str, gate: str) -> str:
        short = len(bundle) == len(gate) == 1
        words = [self._word(bundle), self._word(gate)]
        inner = f"<mrow>{''.join(words)}</mrow>" if short else self._row(words)
        return f"<msub><mi>{letter}</mi>{inner}</msub>"

    def number(self, value: float) -> str:
        text = digits(value)
        sign = MINUS if text.startswith("-") else ""
        mantissa, _, exponent = text.removeprefix("-").partition("e")
        if mantissa in ("inf", "nan"):
            return sign + ("<mi>∞</mi>" if mantissa == "inf" else "<mi>nan</mi>")
        if not exponent:
            return f"{sign}<mn>{mantissa}</mn>"
        raised = (
            "<mo>−</mo>" if exponent.startswith("-") else ""
        ) + f"<mn>{abs(int(exponent))}</mn>"
        power = f"<msup><mn>10</mn><mrow>{raised}</mrow></msup>"
        return sign + (power if mantissa == "1" else f"<mn>{mantissa}</mn><mo>·</mo>{power}")

    def template(self, op: str) -> str:
        return "{}<mo>·</mo>{}" if op == "scale" else TEMPLATES[op]

    def function(self, name: str, argument: str) -> str:
        return _called(name).format(argument)

    def encloses(self, op: str) -> bool:
        return op == "div" or ELEMENTWISE[op].precedence == 9

    def product(self, matrix: str, vector: str) -> str:
        return f"{matrix}{TIMES}{vector}"

    def brackets(self, text: str) -> str:
        return f'<mrow><mo form="prefix">(</mo>{text}<mo form="postfix">)</mo></mrow>'

    def is_negative(self, text: str) -> bool:
        return text.startswith(MINUS)

    def _parts(self, name: str) -> list[str]:
        """Split p_i into base and subscript."""
        head, _, tail = name.partition("_")
        return [self._word(head), self._word(tail)] if head and tail else [self._word(name)]

    @staticmethod
    def _word(word: str) -> str:
        if word in GREEK:
            return f"<mi>{unicodedata.lookup(f'GREEK SMALL LETTER {word}')}</mi>"
        return f"<mi>{escape(word)}</mi>"

    @staticmethod
    def _row(parts: list[str]) -> str:
        return f"<mrow>{'<mo>,</mo>'.join(parts)}</mrow>"


MATHML: Notation = _MathML()


def aligned(lines: Iterable[tuple[str, str]]) -> str:
    """Return a block of equations, aligned at their signs of equality.

    Args:
        lines: the left and the right side of each equation, in MathML.
    """
    rows = "".join(
        f'<mtr><mtd style="text-align: right; padding-right: 0">{left}</mtd>'
        f'<mtd style="text-align: left; padding-left: 0">'
        f'<mrow><mo form="infix">=</mo>{right}</mrow></mtd></mtr>'
        for left, right in lines
    )
    return (
        '<math xmlns="http://www.w3.org/1998/Math/MathML" display="block">'
        f'<mtable displaystyle="true">{rows}</mtable></math>'
    )
