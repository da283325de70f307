"""The elementwise operations as vector code.

exp follows Cody and Waite's reduction, x = n ln 2 + r, with Cephes' polynomial in float32 and the
Taylor series to r¹³ in float64. tanh goes through expm1, which keeps small arguments exact. The
largest errors found against mpmath-rounded float64 stand in ``tests/cpu/test_vecmath.py``.
"""

import math
from collections.abc import Callable

from cellwright.cpu.simd import Simd, Value

__all__ = ["EMITTERS"]

_LOG2E = 1.4426950408889634
# ln 2 in two parts; the first has so few bits that n times it is exact
_LN2 = {
    "float32": (0.693359375, -2.12194440e-4),
    "float64": (0.693145751953125, 1.42860682030941723e-6),
}
# adding and taking away 1.5 · 2^(mantissa bits) rounds to an integer and leaves it in the low bits
_ROUND = {"float32": 12582912.0, "float64": 6755399441055744.0}
_CEPHES = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
# (e^r - 1 - r) / r², highest power first
_SERIES = {
    "float32": _CEPHES,
    "float64": tuple(1.0 / math.factorial(k) for k in range(13, 1, -1)),
}
_MANTISSA = {"float32": 23, "float64": 52}
_BIAS = {"float32": 127, "float64": 1023}
# beyond these, exp is 0 or infinite in any case, and the exponent below still fits
_RANGE = {"float32": (-104.0, 89.0), "float64": (-746.0, 710.0)}
# beyond this, tanh rounds to 1
_SATURATED = {"float32": 9.1, "float64": 19.1}


def _clamp(s: Simd, x: Value, low: float, high: float) -> Value:
    """Clamp to [low, high]; nan stays nan."""
    x = s.choose("<", x, s.constant(low), s.constant(low), x)
    return s.choose(">", x, s.constant(high), s.constant(high), x)


def _reduce(s: Simd, x: Value) -> tuple[Value, Value, Value]:
    """Return (n as float, bits that hold n, r) with x = n ln 2 + r."""
    high, low = _LN2[s.dtype]
    shifted = s.fma(x, s.constant(_LOG2E), s.constant(_ROUND[s.dtype]))
    n = s.builder.fsub(shifted, s.constant(_ROUND[s.dtype]))
    r = s.fma(n, s.constant(-high), x)
    r = s.fma(n, s.constant(-low), r)
    return n, s.builder.bitcast(shifted, s.integers), r


def _series(s: Simd, r: Value) -> Value:
    """Return e^r - 1 for |r| ≤ ln 2 / 2."""
    square = s.builder.fmul(r, r)
    # in pairs (Estrin): half as many steps that wait for each other as Horner's rule has
    terms = [s.constant(c) for c in _SERIES[s.dtype]]
    if len(terms) % 2:
        terms.insert(0, s.constant(0.0))
    p, *rest = [s.fma(a, r, b) for a, b in zip(terms[::2], terms[1::2], strict=True)]
    for pair in rest:
        p = s.fma(p, square, pair)
    return s.fma(p, square, r)


def _power(s: Simd, bits: Value) -> Value:
    """Return 2^n from the low bits that hold n."""
    b, shift = s.builder, s.integer(_MANTISSA[s.dtype])
    one = s.integer(_BIAS[s.dtype] << _MANTISSA[s.dtype])
    return b.bitcast(b.add(b.shl(bits, shift), one), s.vector)


def _exp_normal(s: Simd, x: Value) -> Value:
    """e^x for x where 2^n is a normal number or infinite: all that sigmoid needs."""
    _, bits, r = _reduce(s, x)
    return s.builder.fmul(s.builder.fadd(_series(s, r), s.constant(1.0)), _power(s, bits))


def _exp(s: Simd, x: Value) -> Value:
    """e^x over the whole range: the power of two is applied in two halves, so neither overflows."""
    b = s.builder
    _, bits, r = _reduce(s, _clamp(s, x, *_RANGE[s.dtype]))
    y = b.fadd(_series(s, r), s.constant(1.0))
    shift = s.integer(_MANTISSA[s.dtype])
    n = b.ashr(b.shl(bits, s.integer(_MANTISSA[s.dtype] - 12)), s.integer(_MANTISSA[s.dtype] - 12))
    half = b.ashr(n, s.integer(1))
    one = s.integer(_BIAS[s.dtype])
    first = b.bitcast(b.shl(b.add(half, one), shift), s.vector)
    second = b.bitcast(b.shl(b.add(b.sub(n, half), one), shift), s.vector)
    return b.fmul(b.fmul(y, first), second)


def _sigmoid(s: Simd, x: Value) -> Value:
    b = s.builder
    low, high = {"float32": (-87.0, 89.0), "float64": (-708.0, 710.0)}[s.dtype]
    e = _exp_normal(s, _clamp(s, b.fneg(x), low, high))
    return b.fdiv(s.constant(1.0), b.fadd(s.constant(1.0), e))


def _tanh(s: Simd, x: Value) -> Value:
    """(e^2x - 1) / (e^2x + 1), with e^2x - 1 computed without cancellation."""
    b, limit = s.builder, _SATURATED[s.dtype]
    doubled = _clamp(s, b.fadd(x, x), -2 * limit, 2 * limit)
    _, bits, r = _reduce(s, doubled)
    power = _power(s, bits)
    expm1 = s.fma(power, _series(s, r), b.fsub(power, s.constant(1.0)))
    return b.fdiv(expm1, b.fadd(expm1, s.constant(2.0)))


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
