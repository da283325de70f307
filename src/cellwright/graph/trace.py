"""From a Python function to a :class:`Cell`: runs it once on symbols, finds gates and states."""

import inspect
import linecache
import sys
from collections.abc import Callable
from numbers import Real
from typing import NoReturn, overload

from cellwright.errors import CellError
from cellwright.graph.cell import ARITHMETIC, INPUT, Cell, bundle_of, projection
from cellwright.graph.expr import Expr, const, leaf, node, topological
from cellwright.graph.simplify import simplify

__all__ = [
    "ARITHMETIC",
    "Symbol",
    "cell",
    "exp",
    "log",
    "maximum",
    "minimum",
    "relu",
    "sigmoid",
    "silu",
]
__all__ += ["softplus", "sqrt", "tanh"]


class Symbol:
    """What a cell's function computes with: a vector of H numbers that is not there yet.

    ``symbol.name`` is the projection of the vector to the gate ``name``.
    """

    __slots__ = ("_expr", "_tracer")

    def __init__(self, expr: Expr, tracer: "_Tracer") -> None:
        self._expr = expr
        self._tracer = tracer

    def __getattr__(self, gate: str) -> "Symbol":
        if gate.startswith("_"):
            raise AttributeError(gate)
        return Symbol(self._tracer.project(self._expr, gate), self._tracer)

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            _fail(f"a projection cannot be assigned; give the result a name, as in `{name} = …`")
        object.__setattr__(self, name, value)

    def __add__(self, other: object) -> "Symbol":
        return _apply("add", self, other)

    def __radd__(self, other: object) -> "Symbol":
        return _apply("add", other, self)

    def __sub__(self, other: object) -> "Symbol":
        return _apply("sub", self, other)

    def __rsub__(self, other: object) -> "Symbol":
        return _apply("sub", other, self)

    def __mul__(self, other: object) -> "Symbol":
        return _apply("mul", self, other)

    def __rmul__(self, other: object) -> "Symbol":
        return _apply("mul", other, self)

    def __truediv__(self, other: object) -> "Symbol":
        return _apply("div", self, other)

    def __rtruediv__(self, other: object) -> "Symbol":
        return _apply("div", other, self)

    def __neg__(self) -> "Symbol":
        return _apply("neg", self)

    def __abs__(self) -> "Symbol":
        return _apply("abs", self)

    def __pow__(self, exponent: int) -> "Symbol":
        if not isinstance(exponent, int) or not 1 <= exponent <= 8:
            given = "a symbol" if isinstance(exponent, Symbol) else repr(exponent)
            _fail(f"a power takes a whole exponent from 1 to 8, not {given}")
        result = self
        for _ in range(exponent - 1):
            result = result * self
        return result

    def __bool__(self) -> NoReturn:  # noqa: PLE0304
        _fail(
            "the value of a symbol is not known while the equations are read, so it cannot "
            "steer `if`, `while`, `and`, `or` or `not`; use maximum, minimum, relu or a gate"
        )

    __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = lambda self, _other: self.__bool__()
    __hash__ = object.__hash__
    __array_ufunc__ = None  # numpy's scalars leave the arithmetic to the methods above

    def __iter__(self) -> NoReturn:
        _fail("a symbol cannot be iterated over or unpacked: it stands for the whole vector")

    def _unsupported(self, *_: object, **__: object) -> NoReturn:
        _fail(
            "a symbol knows + - * /, whole powers, abs() and cellwright's functions, as in "
            "`tanh(x.i)`; a product with weights is a projection, as in `h.n` or `(r * h).n`"
        )

    __call__ = __getitem__ = __matmul__ = __rmatmul__ = __rpow__ = __mod__ = _unsupported

    def __float__(self) -> NoReturn:
        _fail("a symbol has no number yet; use cellwright's sigmoid, tanh, exp, … in place of math")

    @classmethod
    def __torch_function__(cls, function: Callable[..., object], *_: object) -> NoReturn:
        """Refuse torch's functions, which ask this of what is no tensor."""
        name = getattr(function, "__name__", "this function")
        _fail(f"torch's {name} takes tensors; use cellwright's sigmoid, tanh, exp, … in its place")


def _fail(message: str) -> NoReturn:
    """Raise a CellError that quotes the line of the cell at which tracing stands."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
        frame = frame.f_back
    path, line = frame.f_code.co_filename, frame.f_lineno
    raise CellError(f"{message}\n  {path}:{line}: {linecache.getline(path, line).strip()}")


def _apply(op: str, *operands: object) -> Symbol:
    tracer = next(o._tracer for o in operands if isinstance(o, Symbol))
    args: list[Expr] = []
    for operand in operands:
        if isinstance(operand, Symbol):
            if operand._tracer is not tracer:
                _fail(
                    f"{op} takes symbols of one cell, and was given one of another cell's tracing"
                )
            args.append(operand._expr)
        elif isinstance(operand, Real) and not isinstance(operand, bool):
            args.append(const(float(operand)))
        else:
            _fail(f"{op} takes symbols and numbers, not {type(operand).__name__}")
    return Symbol(node(op, tuple(args)), tracer)


def _function(op: str, *operands: object) -> Symbol:
    if not any(isinstance(o, Symbol) for o in operands):
        got = ", ".join(type(o).__name__ for o in operands)
        _fail(f"{op} is a function of a cell's symbols, and was called with {got}")
    return _apply(op, *operands)


def sigmoid(a: Symbol) -> Symbol:
    """σ(a) = 1 / (1 + exp(-a)), elementwise."""
    return _function("sigmoid", a)


def tanh(a: Symbol) -> Symbol:
    """Hyperbolic tangent, elementwise."""
    return _function("tanh", a)


def relu(a: Symbol) -> Symbol:
    """max(a, 0), elementwise."""
    return _function("relu", a)


def exp(a: Symbol) -> Symbol:
    """Exponential, elementwise."""
    return _function("exp", a)


def log(a: Symbol) -> Symbol:
    """Natural logarithm, elementwise."""
    return _function("log", a)


def sqrt(a: Symbol) -> Symbol:
    """Square root, elementwise."""
    return _function("sqrt", a)


def maximum(a: Symbol | float, b: Symbol | float) -> Symbol:
    """The larger of two, elementwise; its gradient is shared half and half in a tie."""
    return _function("maximum", a, b)


def minimum(a: Symbol | float, b: Symbol | float) -> Symbol:
    """The smaller of two, elementwise; its gradient is shared half and half in a tie."""
    return _function("minimum", a, b)


def softplus(a: Symbol) -> Symbol:
    """log(1 + exp(a)), elementwise, without overflow."""
    # maximum, not relu: sharing a tie's gradient makes the slope at 0 right, 1/2
    return maximum(a, 0.0) + log(1.0 + exp(-abs(a)))


def silu(a: Symbol) -> Symbol:
    """The product a · σ(a), elementwise."""
    return a * sigmoid(a)


class _Tracer:
    """Collects the projections that a cell's function asks for."""

    def __init__(self, states: tuple[str, ...]) -> None:
        self.states = states
        self.gates: list[str] = []
        self.sources: dict[tuple[str, str], Expr] = {}

    def project(self, source: Expr, gate: str) -> Expr:
        bundle = bundle_of(source, self.states)
        known = self.sources.setdefault((bundle, gate), source)
        if known is not source:
            _fail(
                f"gate {gate!r} is projected from {bundle!r} twice, from different expressions, "
                "which would share one weight matrix; give the second one another gate name"
            )
        if gate not in self.gates:
            self.gates.append(gate)
        return node("project", (source,), (bundle, gate))


@overload
def cell(function: Callable[..., object], /) -> Cell: ...
@overload
def cell(*, name: str) -> Callable[[Callable[..., object]], Cell]: ...
def cell(
    function: Callable[..., object] | None = None, /, *, name: str | None = None
) -> Cell | Callable[[Callable[..., object]], Cell]:
    """Read a recurrent cell from a function that states its equations.

    The first argument is the input, the others are the states, of which the first is the output.
    An attribute of one of them is a projection: ``x.i`` is W_xi x_t + b_xi. Keyword-only arguments
    are learned per-unit vectors, their default the initial value. The function returns the new
    states in the order of its arguments.

    Raises:
        CellError: the function's form or an equation cannot be understood; quotes the line.
    """
    if function is None:
        return lambda f: _trace(f, name)
    return _trace(function, name)


def _trace(function: Callable[..., object], given: str | None) -> Cell:
    name = given or getattr(function, "__name__", None)
    if not callable(function) or name is None:
        raise CellError(
            f"expected a function that states a cell's equations, got {function!r}; put @cell "
            "above one, as in `def my_cell(x, h):`"
        )
    inputs, vectors = _signature(function)
    states = inputs[1:]
    tracer = _Tracer(states)
    symbols = [Symbol(e, tracer) for e in (leaf("input"), *(leaf("state", s) for s in states))]
    keywords = {v: Symbol(leaf("vector", v), tracer) for v in vectors}
    updates = tuple(simplify(_updates(function, function(*symbols, **keywords), states)))
    alive = {projection(e) for e in topological(updates) if e.op == "project"}
    gates = tuple(g for g in tracer.gates if any(g == gate for _, gate in alive))
    bundles = {b: tuple(g for g in gates if (b, g) in alive) for b in (INPUT, *states)}
    filled = {bundle: found for bundle, found in bundles.items() if found}
    used = {e.value for e in topological(updates) if e.op == "vector"}
    for vector in vectors.keys() - used:
        _refuse(function, f"the vector {vector!r} is in the signature and no new state uses it")
    return Cell(name, inspect.getdoc(function) or "", states, updates, gates, filled, vectors)


def _refuse(function: Callable[..., object], message: str) -> NoReturn:
    """Raise a CellError that quotes the cell's `def` line."""
    code = getattr(inspect.unwrap(function), "__code__", None)
    if code is None:
        raise CellError(f"{function!r}: {message}")
    path, line = code.co_filename, code.co_firstlineno
    while linecache.getline(path, line).lstrip().startswith("@"):
        line += 1
    raise CellError(f"{message}\n  {path}:{line}: {linecache.getline(path, line).strip()}")


def _signature(function: Callable[..., object]) -> tuple[tuple[str, ...], dict[str, float]]:
    inputs: list[str] = []
    vectors: dict[str, float] = {}
    for p in inspect.signature(function).parameters.values():
        if p.kind is p.KEYWORD_ONLY:
            vectors[p.name] = _initial(function, p)
        elif p.kind is not p.POSITIONAL_OR_KEYWORD:
            _refuse(function, f"a cell takes no *args, **kwargs or `/`, and this has `{p}`")
        elif p.default is not p.empty:
            _refuse(
                function,
                f"the state {p.name!r} has a default; if it is a learned per-unit vector, put it "
                f"behind a star: `*, {p.name}={p.default}`",
            )
        else:
            inputs.append(p.name)
    if len(inputs) < 2:
        _refuse(function, "a cell takes the input and at least one state, as in `def cell(x, h)`")
    for state in inputs[1:]:
        if state in (INPUT, "i"):  # x is the input's bundle, weight_ih the input's parameter
            _refuse(function, f"a state cannot be called {state!r}, which stands for the input")
    return tuple(inputs), vectors


def _initial(function: Callable[..., object], vector: inspect.Parameter) -> float:
    """Return the initial value of a per-unit vector."""
    if not isinstance(vector.default, int | float) or isinstance(vector.default, bool):
        _refuse(
            function,
            f"the per-unit vector {vector.name!r} needs a number as its default, the initial "
            f"value, as in `{vector.name}=0.0`",
        )
    if vector.name.startswith(("weight_", "bias_")):
        _refuse(function, f"the vector {vector.name!r} is named like the weights; rename it")
    return float(vector.default)


def _updates(
    function: Callable[..., object], result: object, states: tuple[str, ...]
) -> list[Expr]:
    values = result if isinstance(result, tuple) else (result,)
    symbols = [v for v in values if isinstance(v, Symbol)]
    if len(values) != len(states) or len(symbols) != len(states):
        got = ", ".join(type(v).__name__ for v in values)
        _refuse(
            function,
            f"a cell returns its new states ({', '.join(states)}), in the order of its arguments, "
            f"and this one returned ({got}); end it with `return {', '.join(states)}`",
        )
    return [symbol._expr for symbol in symbols]
