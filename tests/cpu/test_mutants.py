"""Wrong kernels, made on purpose: the comparison that all tests here rest on must see each of them.

A mutant changes a program (or a derivative rule, or the code of the walk) as it is handed to the
compiler; plans are made anew for it, and its code is kept in a cache of its own.
"""

from dataclasses import replace

import pytest
from tests.cpu.agreement import FORMS, compare, make
from tests.cpu.cells import CELLS

from cellwright.autograd.operation import run_layer
from cellwright.cells import gru, lstm, rnn_tanh
from cellwright.cpu.call import plan
from cellwright.cpu.machine import jit
from cellwright.cpu.vector import vecmath
from cellwright.graph import derive, schedule
from cellwright.graph.cell import PROJECTION
from cellwright.graph.expr import Expr, leaf, node, substitute
from cellwright.graph.schedule import Program, Read, Write

EVERY_FORM = ("one row", "time first", "zeros, both ways", "packed, both ways")


@pytest.fixture
def mutate(monkeypatch, tmp_path):
    """Return a function that changes the forward or the backward program of every new plan."""
    monkeypatch.setenv("CELLWRIGHT_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(jit, "_loaded", dict(jit._loaded))  # mutants are forgotten afterwards
    _forget()

    def install(way, change):
        schedule_program = getattr(plan, way)
        mutants = []

        def changed(*args):
            program = schedule_program(*args)
            mutant = change(program)
            if mutant == program:  # no AssertionError: those are what kills a mutant
                raise LookupError("the mutation found nothing to change")
            mutants.append(mutant)
            return mutant

        monkeypatch.setattr(plan, way, changed)
        return mutants

    yield install
    monkeypatch.undo()
    _forget()


def _forget():
    plan.plan_of.cache_clear()
    derive.adjoint.cache_clear()
    schedule.backward.cache_clear()
    schedule.forward.cache_clear()


def killed(cell, forms=EVERY_FORM, outputs=None, **options):
    """Check that the comparison fails for a cell in each form of a call."""
    for form in forms:
        with pytest.raises(AssertionError, match=r"output|final|gradient"):
            compare(make(cell, 5, 3, outputs=outputs, **FORMS[form]), **options)


def in_products(change):
    """Change each product of each stage."""

    def mutant(program: Program) -> Program:
        stages = [
            replace(stage, products=tuple(map(change, stage.products))) for stage in program.stages
        ]
        return replace(program, stages=tuple(stages))

    return mutant


def in_equations(change):
    """Replace expressions of what is written; ``change`` returns None for those that stay."""

    def changed(writes: tuple[Write, ...]) -> tuple[Write, ...]:
        values = substitute([w.value for w in writes], change)
        return tuple(replace(w, value=v) for w, v in zip(writes, values, strict=True))

    def mutant(program: Program) -> Program:
        stages = tuple(replace(s, writes=changed(s.writes)) for s in program.stages)
        return replace(program, stages=stages, constants=changed(program.constants))

    return mutant


def reads(matching, replacement):
    """Change what reads of memory look at; ``replacement`` may be a number instead."""

    def change(e: Expr) -> Expr | None:
        if e.op == "read" and isinstance(e.value, Read) and matching(e.value):
            new = replacement(e.value)
            return leaf("read", new) if isinstance(new, Read) else leaf("const", new)
        return None

    return in_equations(change)


def swap_tiles(a, b):
    """Let the first two gates of an equation read each other's tile."""
    swapped = {a: b, b: a}
    return in_equations(
        lambda e: leaf("tile", swapped[e.value]) if e.op == "tile" and e.value in swapped else None
    )


@pytest.mark.parametrize("gates", [(0, 1), (1, 3), (0, 2)])
def test_swapped_gates(gates, mutate):
    assert not mutate("forward", swap_tiles(*gates))
    killed(lstm)


@pytest.mark.parametrize("bundle", ["x", ".h"])
def test_dropped_bias(bundle, mutate):
    mutate("forward", reads(lambda r: r.buffer == f"bias.{bundle}", lambda _: 0.0))
    killed(gru)


def test_bias_of_another_gate(mutate):
    mutate("forward", reads(lambda r: r == Read("bias.x", 5), lambda r: replace(r, column=0)))
    killed(gru)


@pytest.mark.parametrize("cell", [rnn_tanh, lstm, gru], ids=lambda c: c.name)
def test_product_with_the_wrong_step(cell, mutate):
    def later(p):
        return replace(p, source=replace(p.source, when="now")) if p.source.when != "now" else p

    mutate("forward", in_products(later))
    killed(cell)


@pytest.mark.parametrize("way", ["forward", "backward"])
def test_projection_of_the_step_before(way, mutate):
    def moved(p):
        own = p.matrix == PROJECTION
        return replace(p, source=replace(p.source, when="before")) if own else p

    mutate(way, in_products(moved))
    killed(lstm, outputs=2)


@pytest.mark.parametrize("when", ["now", "after"])
def test_wrong_step_in_the_backward_walk(when, mutate):
    def moved(p):
        return replace(p, source=replace(p.source, when=when))

    mutate("backward", in_products(moved))
    killed(gru)


@pytest.mark.parametrize("when", ["now", "before"])
def test_wrong_step_of_a_state_in_the_backward_walk(when, mutate):
    mutate("backward", reads(lambda r: r.when == "after", lambda r: replace(r, when=when)))
    killed(lstm)


def test_reset_on_the_wrong_side_of_the_product():
    """(r ⊙ h) W in the place of r ⊙ (h W)."""
    other = CELLS["reset_before"]
    killed(gru, engine=lambda _, *rest: run_layer(other, *rest))


def test_reset_that_is_left_out(mutate):
    def bare(e):
        (sigmoid, *_) = [a for a in e.args if a.op == "sigmoid"] or [None]
        if e.op == "mul" and sigmoid is not None:
            (kept,) = [a for a in e.args if a is not sigmoid]
            return kept
        return None

    mutate("forward", in_equations(bare))
    killed(gru)


RULES = {
    "tanh": lambda e, g: (g * (1.0 + e * e),),
    "sigmoid": lambda e, g: (-(g * (e * (1.0 - e))),),
    "mul": lambda e, g: (g * e.args[0], g * e.args[1]),
    "sub": lambda _, g: (g, g),
}


@pytest.mark.parametrize("rule", RULES)
def test_wrong_rule_of_a_derivative(rule, mutate, monkeypatch):
    monkeypatch.setitem(derive.RULES, rule, RULES[rule])
    _forget()
    killed(gru)


@pytest.mark.parametrize("buffer", ["dy", "d.h", "d.c"])
def test_cotangent_that_is_left_out(buffer, mutate):
    mutate("backward", reads(lambda r: r.buffer == buffer, lambda _: 0.0))
    killed(lstm)


@pytest.mark.parametrize("gate", [0, 2])
def test_wrong_bias_gradient(gate, mutate):
    def dropped(program):
        stages = [
            replace(
                s, writes=tuple(w for w in s.writes if (w.buffer, w.column) != ("db", 5 * gate))
            )
            for s in program.stages
        ]
        return replace(program, stages=tuple(stages))

    mutate("backward", dropped)
    killed(gru)


def test_final_states_that_are_not_copied(mutate):
    mutate("forward", lambda program: replace(program, finals=program.finals[1:]))
    killed(lstm, [form for form in FORMS if form.startswith("packed")])


def test_rows_that_start_late_are_not_told_apart(mutate):
    def unmasked(program):
        buffers = [replace(b, start=None) for b in program.buffers]
        return replace(program, buffers=tuple(buffers))

    mutate("forward", unmasked)
    killed(lstm, ["packed, both ways", "packed, zeros, both ways"])


@pytest.mark.parametrize("name", ["tanh", "sigmoid"])
def test_inexact_function(name, mutate, monkeypatch):
    """A relative error of 1e-3 in one function."""
    exact = vecmath.EMITTERS[name]
    monkeypatch.setitem(
        vecmath.EMITTERS, name, lambda s, a: s.builder.fmul(exact(s, a), s.constant(1.001))
    )
    mutate("forward", lambda program: replace(program, name=f"{program.name}_inexact"))
    monkeypatch.setattr(jit, "_loaded", {})
    killed(gru)


def test_walks_in_the_wrong_order():
    """The two directions exchanged, or the steps of the only one turned round."""

    def flipped(cell, x, states, weights, batch_sizes, hidden):
        out, finals = run_layer(cell, x, states, weights[::-1], batch_sizes, hidden)
        return (out.flip(0) if len(weights) == 1 else out), finals

    killed(lstm, engine=flipped)


def test_unchanged_programs_pass(mutate):
    """What is installed for mutants does not itself make a comparison fail."""
    mutate("forward", lambda program: replace(program, name="renamed"))
    mutate("backward", lambda program: replace(program, name="renamed_too"))
    for form in EVERY_FORM:
        compare(make(lstm, 5, 3, **FORMS[form]))


def test_double_negation_is_no_mutant(mutate):
    def twice(e):
        return node("neg", (node("neg", (e,)),)) if e.op == "tile" else None

    mutate("forward", in_equations(twice))
    compare(make(gru, 5, 3))
