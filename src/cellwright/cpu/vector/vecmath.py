"""The elementwise operations as vector code.

exp follows Cody and Waite's reduction, x = n ln 2 + r, with a polynomial for e^r: in float32 the
minimax one of degree 6, whose error is a twentieth of what rounding makes, in float64 the Taylor
series to r¹³. tanh goes through expm1, which keeps small arguments exact. Factors of x, -1 in
sigmoid and 2 in tanh, go into the constants. The largest errors found against mpmath-rounded
float64 stand in ``tests/cpu/test_vecmath.py``.
"""

import math
import struct
from collections.abc import Callable, Mapping

from cellwright.cpu.vector.simd import Simd, Value
from cellwright.graph.expr import Expr

__all__ = ["EMITTERS", "evaluate"]

_LOG2E, _LN2 = 1.4426950408889634, 0.6931471805599453
# ln 2 in two parts; the first has so few bits that n times it is exact
_LN2_PARTS = {
    "float32": (0.693359375, -2.12194440e-4),
    "float64": (0.693145751953125, 1.42860682030941723e-6),
}
# adding and taking away 1.5 · 2^(mantissa bits) rounds to an integer and leaves it in the low bits
_ROUND = {"float32": 12582912.0, "float64": 6755399441055744.0}
# (e^r - 1 - r) / r², lowest power first
_SERIES = {
    "float32": (0.49999993448, 0.16666520631, 0.041668388054, 0.0083687169837, 0.0013814598564),
    "float64": tuple(1.0 / math.factorial(k) for k in range(2, 14)),
}
_MANTISSA = {"float32": 23, "float64": 52}
_BIAS = {"float32": 127, "float64": 1023}
# the bits of 2^(j/16) in float32, less those of j/16 in the exponent
_ROOTS = [struct.unpack("<I", struct.pack("<f", 2.0 ** (j / 16)))[0] - (j << 19) for j in range(16)]
# beyond these, exp is 0 or infinite in any case, and the exponent below still fits
_RANGE = {"float32": (-104.0, 89.0), "float64": (-746.0, 710.0)}
# beyond these, the power of two of e^-x is infinite, or 0 beside 1
_SIGMOID_RANGE = {"float32": (-88.3, 87.0), "float64": (-709.4, 708.0)}
# beyond this, tanh rounds to 1
_SATURATED = {"float32": 9.1, "float64": 19.1}


def _clamp(s: Simd, x: Value, low: float, high: float) -> Value:
    """Clamp to [low, high]; nan stays nan."""
    x = s.choose("<", x, s.constant(low), s.constant(low), x)
    return s.choose(">", x, s.constant(high), s.constant(high), x)


def _reduce(s: Simd, x: Value, factor: float, *parts: float) -> tuple[Value, Value]:
    """Return (bits that hold n, r) with factor · x = n ln 2 + factor · r.

    ``parts`` add up to ln 2; one will do where n is small.
    """
    magic = s.constant(_ROUND[s.dtype])
    shifted = s.fma(x, s.constant(factor * _LOG2E), magic)
    n, r = s.builder.fsub(shifted, magic), x
    for part in parts:
        r = s.fma(n, s.constant(-part / factor), r)
    return s.builder.bitcast(shifted, s.integers), r


def _rest(s: Simd, r: Value, factor: float, first: Value) -> Value:
    """Return first + (e^(factor · r) - 1 - factor · r) / |factor| for |factor · r| ≤ ln 2 / 2."""
    square = s.builder.fmul(r, r)
    scaled = [c * factor ** (k + 2) / abs(factor) for k, c in enumerate(_SERIES[s.dtype])]
    terms = [s.constant(c) for c in scaled]
    # in pairs (Estrin): half as many steps that wait for each other as Horner's rule has
    pairs = [s.fma(b, r, a) for a, b in zip(terms[::2], terms[1::2], strict=False)]
    sums = [first, *pairs, *terms[2 * len(pairs) :]]
    p = sums.pop()
    while sums:
        p = s.fma(p, square, sums.pop())
    return p


def _sixteenths(s: Simd, x: Value) -> tuple[Value, Value]:
    """Return (p, q) with e^-x = p + p · q and p = 2^(n/16), so that q is three terms of the series.

    The table has 2^(j/16) less j/16 in the exponent, where adding n/16 then gives the whole power.
    p is rounded, so p - 1 is not exact enough for a tanh.
    """
    b, magic, steps = s.builder, s.constant(_ROUND[s.dtype]), len(_ROOTS)
    shifted = s.fma(x, s.constant(-steps * _LOG2E), magic)
    r = s.fma(b.fsub(shifted, magic), s.constant(_LN2 / steps), x)
    q = s.fma(b.fmul(r, r), s.fma(r, s.constant(-1 / 6), s.constant(0.5)), b.fneg(r))
    bits = b.bitcast(shifted, s.integers)
    exponent = b.shl(bits, s.integer(_MANTISSA[s.dtype] - steps.bit_length() + 1))
    return b.bitcast(b.add(s.pick(_ROOTS, bits), exponent), s.vector), q


def _power(s: Simd, bits: Value) -> Value:
    """Return 2^n from the low bits that hold n."""
    b, shift = s.builder, s.integer(_MANTISSA[s.dtype])
    one = s.integer(_BIAS[s.dtype] << _MANTISSA[s.dtype])
    return b.bitcast(b.add(b.shl(bits, shift), one), s.vector)


def _exp(s: Simd, x: Value) -> Value:
    """e^x over the whole range: the power of two is applied in two halves, so neither overflows."""
    b = s.builder
    bits, r = _reduce(s, _clamp(s, x, *_RANGE[s.dtype]), 1.0, *_LN2_PARTS[s.dtype])
    y = b.fadd(_rest(s, r, 1.0, r), s.constant(1.0))
    shift = s.integer(_MANTISSA[s.dtype])
    n = b.ashr(b.shl(bits, s.integer(_MANTISSA[s.dtype] - 12)), s.integer(_MANTISSA[s.dtype] - 12))
    half = b.ashr(n, s.integer(1))
    one = s.integer(_BIAS[s.dtype])
    first = b.bitcast(b.shl(b.add(half, one), shift), s.vector)
    second = b.bitcast(b.shl(b.add(b.sub(n, half), one), shift), s.vector)
    return b.fmul(b.fmul(y, first), second)


def _reciprocal(s: Simd, x: Value) -> Value:
    """Return 1 / x for finite x ≥ 1/2.

    A division keeps a processor busy for as long as the rest of a sigmoid. Where there are
    estimates, a step of Newton's doubles their bits, to more than float32 has.
    """
    b, one = s.builder, s.constant(1.0)
    if not s.estimates:
        return b.fdiv(one, x)
    near = s.near_reciprocal(x)
    return s.fma(near, s.fma(b.fneg(x), near, one), near)


def _sigmoid(s: Simd, x: Value) -> Value:
    """Return 1 / (1 + e^-x), and 0 below the range, where that is hardly a denormal number."""
    one, (low, high) = s.constant(1.0), _SIGMOID_RANGE[s.dtype]
    inside = _clamp(s, x, low, high)
    if s.picks:
        p, q = _sixteenths(s, inside)
        above = s.fma(p, q, s.builder.fadd(p, one))
    else:
        bits, r = _reduce(s, inside, -1.0, *_LN2_PARTS[s.dtype])
        above = s.fma(_rest(s, r, -1.0, s.builder.fsub(one, r)), _power(s, bits), one)
    found = _reciprocal(s, above)
    return s.choose("<", x, s.constant(low), s.constant(0.0), found)


def _tanh(s: Simd, x: Value) -> Value:
    """Return y / (y + 1) with y = (e^2x - 1) / 2, computed without cancellation."""
    b, limit, half = s.builder, _SATURATED[s.dtype], s.constant(0.5)
    bits, r = _reduce(s, _clamp(s, x, -limit, limit), 2.0, _LN2)
    power = _power(s, bits)
    y = s.fma(power, _rest(s, r, 2.0, r), s.fma(power, half, s.constant(-0.5)))
    above = b.fadd(y, s.constant(1.0))
    return b.fmul(y, _reciprocal(s, above))


def _relu(s: Simd, x: Value) -> Value:
    zero = s.constant(0.0)
    return s.choose("<", x, zero, zero, x)


def _sign(s: Simd, x: Value) -> Value:
    zero = s.constant(0.0)
    up = s.choose(">", x, zero, s.constant(1.0), x)  # nan and 0 stay
    return s.choose("<", x, zero, s.constant(-1.0), up)


def _positive(s: Simd, x: Value) -> Value:
    return s.choose("<=", x, s.constant(0.0), s.constant(0.0), s.constant(1.0))


def _extreme(comparison: str) -> Callable[[Simd, Value, Value], Value]:
    def emit(s: Simd, x: Value, y: Value) -> Value:
        best = s.choose(comparison, x, y, x, y)  # y where either is nan
        ordered = s.builder.fcmp_unordered("uno", x, x)
        return s.builder.select(ordered, x, best)

    return emit


EMITTERS: dict[str, Callable[..., Value]] = {
    "add": lambda s, a, b: s.builder.fadd(a, b),
    "sub": lambda s, a, b: s.builder.fsub(a, b),
    "mul": lambda s, a, b: s.builder.fmul(a, b),
    "div": lambda s, a, b: s.builder.fdiv(a, b),
    "neg": lambda s, a: s.builder.fneg(a),
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "relu": _relu,
    "exp": _exp,
    "log": lambda s, a: s.unary("log", a),
    "sqrt": lambda s, a: s.unary("sqrt", a),
    "abs": lambda s, a: s.unary("fabs", a),
    "sign": _sign,
    "positive": _positive,
    "maximum": _extreme(">"),
    "minimum": _extreme("<"),
}
"""How each elementwise operation is emitted: (simd, operands…) → vector."""


def evaluate(
    s: Simd, e: Expr, values: Mapping[Expr, Value], leaf: Callable[[Expr], Value]
) -> Value:
    """Return the vector of an expression, given those of its operands.

    ``leaf`` gives that of one that has none and is no number.
    """
    if e.args:
        return EMITTERS[e.op](s, *(values[arg] for arg in e.args))
    return s.constant(e.value) if e.op == "const" else leaf(e)  # type: ignore[arg-type]
