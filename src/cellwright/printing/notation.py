"""Writing equations: the printer, and the notations plain Unicode and LaTeX."""

import math
from collections.abc import Mapping
from typing import Protocol

from cellwright.graph.cell import projection
from cellwright.graph.expr import Expr
from cellwright.graph.ops import ELEMENTWISE
from cellwright.printing.naming import Name, composite

__all__ = ["GREEK", "LATEX", "UNICODE", "Notation", "Printer", "digits"]

_GREEK = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa mu nu xi rho sigma tau phi chi psi"
)
GREEK = frozenset({*_GREEK.split(), "omega"})
"""Names that are written as letters where the notation can."""


class Notation(Protocol):
    """How names, numbers and operations are written."""

    def at(self, name: Name, time: str = "t") -> str:
        """Write a symbol at a time."""

    def vector(self, name: str) -> str:
        """Write a per-unit vector."""

    def parameter(self, letter: str, bundle: str, gate: str) -> str:
        """Write a weight matrix W or a bias b."""

    def number(self, value: float) -> str:
        """Write a constant."""

    def template(self, op: str) -> str:
        """Return the format of an elementwise operation, or of ``scale`` by a number."""

    def function(self, name: str, argument: str) -> str:
        """Write a function that is no single operation."""

    def encloses(self, op: str) -> bool:
        """Whether the operation's own signs bracket its operands."""

    def product(self, matrix: str, vector: str) -> str:
        """Write a matrix product."""

    def brackets(self, text: str) -> str:
        """Write ``text`` in round brackets."""

    def is_negative(self, text: str) -> bool:
        """Whether ``text`` begins with a minus sign."""


class _Line:
    """What notations on a line of text share."""

    def product(self, matrix: str, vector: str) -> str:
        return f"{matrix} {vector}"

    def brackets(self, text: str) -> str:
        return f"({text})"

    def is_negative(self, text: str) -> bool:
        return text.startswith(("-", "−"))


class _Unicode(_Line):
    def at(self, name: Name, time: str = "t") -> str:
        mark = name.mark.replace("'", "′").replace("~", "\N{COMBINING TILDE}")
        return f"{name.base}{mark}_{time}" if time == "t" else f"{name.base}{mark}_{{{time}}}"

    def vector(self, name: str) -> str:
        return name

    def parameter(self, letter: str, bundle: str, gate: str) -> str:
        short = len(bundle) == len(gate) == 1
        return f"{letter}_{bundle}{gate}" if short else f"{letter}_{{{bundle},{gate}}}"

    def number(self, value: float) -> str:
        return digits(value).replace("-", "−").replace("inf", "∞")

    def template(self, op: str) -> str:
        return "{} · {}" if op == "scale" else ELEMENTWISE[op].unicode

    def function(self, name: str, argument: str) -> str:
        return f"{name}({argument})"

    def encloses(self, op: str) -> bool:
        return ELEMENTWISE[op].precedence == 9


class _Latex(_Line):
    def at(self, name: Name, time: str = "t") -> str:
        base, *subscripts = self._parts(name.base)
        accented = rf"\tilde{{{base}}}" if name.mark == "~" else base + name.mark
        return self._subscripted(accented, [*subscripts, time])

    def vector(self, name: str) -> str:
        base, *subscripts = self._parts(name)
        return self._subscripted(base, subscripts)

    def parameter(self, letter: str, bundle: str, gate: str) -> str:
        short = len(bundle) == len(gate) == 1
        parts = [bundle + gate] if short else [self._word(bundle), self._word(gate)]
        return self._subscripted(letter, parts)

    def number(self, value: float) -> str:
        mantissa, _, exponent = digits(value).replace("inf", r"\infty").partition("e")
        if not exponent:
            return mantissa if mantissa != "nan" else r"\mathrm{nan}"
        power = f"10^{{{int(exponent)}}}"
        return mantissa[:-1] + power if mantissa in ("1", "-1") else rf"{mantissa} \cdot {power}"

    def template(self, op: str) -> str:
        return r"{} \cdot {}" if op == "scale" else ELEMENTWISE[op].latex

    def function(self, name: str, argument: str) -> str:
        return rf"\operatorname{{{name}}}({argument})"

    def encloses(self, op: str) -> bool:
        return op == "div" or ELEMENTWISE[op].precedence == 9

    def _parts(self, name: str) -> list[str]:
        """Split p_i into base and subscript, each in LaTeX."""
        head, _, tail = name.partition("_")
        return [self._word(head), self._word(tail)] if head and tail else [self._word(name)]

    @staticmethod
    def _word(word: str) -> str:
        if word in GREEK:
            return f"\\{word}"
        escaped = word.replace("_", r"\_")
        return escaped if len(word) == 1 else rf"\mathrm{{{escaped}}}"

    @staticmethod
    def _subscripted(base: str, subscripts: list[str]) -> str:
        inner = ",".join(subscripts)
        return f"{base}_{{{inner}}}" if len(inner) > 1 else f"{base}_{inner}" if inner else base


def digits(value: float) -> str:
    """Return a number as few digits tell it, a whole one without a point."""
    whole = math.isfinite(value) and value.is_integer() and abs(value) < 1e16
    return str(int(value)) if whole else repr(value)


UNICODE: Notation = _Unicode()
LATEX: Notation = _Latex()


class Printer:
    """Writes expressions in one notation.

    Args:
        notation: how it is written.
        names: values that are referred to by name.
        bias: whether projections have one.
    """

    def __init__(self, notation: Notation, names: Mapping[Expr, Name], *, bias: bool) -> None:
        self.notation, self.names, self.bias = notation, names, bias

    def defining(self, e: Expr) -> str:
        """Write ``e`` itself, though it may have a name."""
        return self._text(e)[0]

    def __call__(self, e: Expr, least: int = 0) -> str:
        """Write ``e``, in brackets if it binds less tightly than ``least``."""
        if e in self.names:
            return self.notation.at(self.names[e])
        text, precedence = self._text(e)
        return text if precedence >= least else self.notation.brackets(text)

    def _text(self, e: Expr) -> tuple[str, int]:
        match e.op:
            case "const" if isinstance(e.value, float):
                return self.notation.number(e.value), 9
            case "input":
                return self.notation.at(Name("x")), 9
            case "state":
                return self.notation.at(Name(str(e.value)), "t-1"), 9
            case "vector":
                return self.notation.vector(str(e.value)), 9
            case "project":
                return self._projection(e)
        made = composite(e)
        return (self.notation.function(made[0], self(made[1])), 9) if made else self._operation(e)

    def _projection(self, e: Expr) -> tuple[str, int]:
        bundle, gate = projection(e)
        matrix = self.notation.parameter("W", bundle, gate)
        product = self.notation.product(matrix, self(e.args[0], 9))
        if not self.bias:
            return product, ELEMENTWISE["mul"].precedence
        bias = self.notation.parameter("b", bundle, gate)
        return self.notation.template("add").format(product, bias), ELEMENTWISE["add"].precedence

    def _operation(self, e: Expr) -> tuple[str, int]:
        precedence = ELEMENTWISE[e.op].precedence
        scaled = e.op == "mul" and any(arg.op == "const" for arg in e.args)
        template = self.notation.template("scale" if scaled else e.op)
        if self.notation.encloses(e.op):
            return template.format(*map(self, e.args)), 9
        left, *others = e.args
        operands = [self(left, self._least(e.op, left))]
        for arg in others:
            right = self(arg, self._least(e.op, arg) + (e.op == "sub"))
            negative = self.notation.is_negative(right)
            operands.append(self.notation.brackets(right) if negative else right)
        return template.format(*operands), precedence

    @staticmethod
    def _least(op: str, operand: Expr) -> int:
        """How tightly an operand binds if it needs no brackets; a / b ⊙ c would be ambiguous."""
        precedence = ELEMENTWISE[op].precedence
        return precedence + (op == "div" or (op == "mul" and operand.op == "div"))
