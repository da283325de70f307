"""What is the same at all steps of a walk, as the sums of biases are: written once, ahead of it."""

from cellwright.cpu.vector.simd import Value
from cellwright.cpu.vector.vecmath import evaluate
from cellwright.cpu.walk.frame import Frame
from cellwright.graph.expr import Expr, topological
from cellwright.graph.schedule import Read

__all__ = ["emit_constant", "emit_constants"]


def emit_constants(frame: Frame) -> None:
    """Write all of a program's constants."""
    s, units = frame.s, frame.program.stages[0].units
    for write in frame.program.constants:
        target = frame.vector(Read(write.buffer, write.column), s.index(0))

        def put(u: Value, mask: Value, value: Expr = write.value, target: Value = target) -> None:
            s.store(emit_constant(frame, value, u, mask), target, u, mask)

        s.vectors(s.index(units), put)


def emit_constant(frame: Frame, value: Expr, u: Value, mask: Value) -> Value:
    """Return the vector of a constant from unit ``u`` on."""
    s, found = frame.s, dict[Expr, Value]()

    def read(e: Expr) -> Value:
        assert isinstance(e.value, Read)
        return s.load(frame.vector(e.value, s.index(0)), u, mask)

    for e in topological([value]):
        found[e] = evaluate(s, e, found, read)
    return found[value]
