"""Which projections share an accumulator, and that sharing changes no value."""

import torch
from hypothesis import given
from tests.graph.evaluation import Run, Values
from tests.random_cells import REPRODUCIBLE, cells, random_cell

import cellwright as cw
from cellwright import Cell, cell
from cellwright.cells import gru, lstm
from cellwright.graph.accumulate import Step, accumulate
from cellwright.graph.expr import leaf, topological
from cellwright.graph.interpret import interpret_step


def terms(step: Step) -> list[list[str]]:
    return [[f"{t.bundle}.{t.gate}" for t in a.terms] for a in step.accumulators]


def check_values(subject: Cell) -> None:
    values = Values.random(subject)
    parts = [values.weights, values.biases, values.vectors]
    wanted = interpret_step(subject, values.x, list(values.states.values()), *parts)
    got = Run(subject, values).forward()
    torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-12, msg=lambda m: f"{subject}: {m}")


def test_lstm_has_one_accumulator_a_gate() -> None:
    step = accumulate(lstm)
    assert terms(step) == [[f"x.{g}", f"h.{g}"] for g in "ifgo"]
    assert (step.stages, step.input_width, step.expressions) == (1, 4, ())
    assert step.slots("x") == step.slots("h") == (0, 1, 2, 3)


def test_the_reset_of_gru_splits_n() -> None:
    step = accumulate(gru)
    assert terms(step) == [["x.r", "h.r"], ["x.z", "h.z"], ["x.n"], ["h.n"]]
    assert (step.stages, step.input_width) == (1, 3)
    assert step.slots("x") == (0, 1, 2)
    assert step.slots("h") == (0, 1, 3)


def functions(step: Step) -> list[str | None]:
    return [a.function for a in step.accumulators]


def test_accumulators_hold_what_alone_is_read_of_their_sums() -> None:
    assert functions(accumulate(lstm)) == ["sigmoid", "sigmoid", "tanh", "sigmoid"]
    assert functions(accumulate(gru)) == ["sigmoid", "sigmoid", None, None]
    held = [leaf("accumulator", k) for k in range(4)]
    assert not any(e.op == "sigmoid" for e in topological(accumulate(lstm).updates))
    assert set(held) <= set(topological(accumulate(gru).updates))


def test_a_sum_that_more_is_read_of_is_held_itself() -> None:
    @cell
    def several(x, h):
        a, b, d = x.a + h.a, x.b + h.b, x.d + h.d
        e = cw.tanh(cw.tanh(x.e + h.e))  # one tanh would look like the other
        return cw.tanh(a) * a + cw.relu(b) + cw.sigmoid(x.k) * e + cw.exp(d) * cw.exp(d) + (x.g * h)

    found = dict(zip(several.gates, functions(accumulate(several)), strict=True))
    expected = {"a": None, "b": None, "e": None, "k": "sigmoid", "d": "exp", "g": None}
    assert found == {gate: expected[gate] for gate in several.gates}
    check_values(several)


def test_a_sum_that_is_a_state_is_held_itself() -> None:
    @cell
    def both(x, h, c):
        a = x.a + h.a
        return cw.tanh(a) + c, a

    assert functions(accumulate(both)) == [None]
    check_values(both)


def test_a_projection_used_twice_stands_alone() -> None:
    @cell
    def twice(x, h):
        return cw.tanh(x.a + h.a) * h.a

    assert terms(accumulate(twice)) == [["x.a"], ["h.a"]]
    check_values(twice)


def test_a_sum_used_twice_is_one_accumulator() -> None:
    @cell
    def shared(x, h):
        a = x.a + h.a
        return cw.tanh(a) * cw.sigmoid(a)

    assert terms(accumulate(shared)) == [["x.a", "h.a"]]
    check_values(shared)


def test_nested_sums_are_flattened_around_other_terms() -> None:
    @cell
    def nested(x, h, c, *, p=0.5):
        return cw.tanh((p * c + (x.a + 1.0)) + (c.a + (h.a + h))), c

    assert terms(accumulate(nested)) == [["x.a", "c.a", "h.a"]]
    check_values(nested)


def test_an_inner_sum_that_others_use_keeps_its_own_accumulator() -> None:
    @cell
    def inner(x, h, c):
        a = x.a + h.a
        return cw.tanh(a + c.a), cw.sigmoid(a)

    assert sorted(terms(accumulate(inner))) == [["c.a"], ["x.a", "h.a"]]
    check_values(inner)


def test_a_difference_is_no_sum() -> None:
    @cell
    def difference(x, h):
        return cw.tanh(x.a - h.a)

    assert terms(accumulate(difference)) == [["x.a"], ["h.a"]]
    check_values(difference)


def test_two_gates_of_one_bundle_never_share() -> None:
    @cell
    def pair(x, h):
        return cw.tanh(x.a + x.b + h.a + h.b)

    assert sum(len(t) for t in terms(accumulate(pair))) == 4
    assert all(len({name[0] for name in t}) == len(t) for t in terms(accumulate(pair)))
    check_values(pair)


def test_an_expression_makes_a_second_stage() -> None:
    @cell
    def first_gru(x, h):
        r = cw.sigmoid(x.r + h.r)
        z = cw.sigmoid(x.z + h.z)
        n = cw.tanh(x.n + (r * h).n)
        return z * h + (1 - z) * n

    step = accumulate(first_gru)
    assert terms(step) == [["x.r", "h.r"], ["x.z", "h.z"], ["x.n", "h.n"]]
    assert [a.stage for a in step.accumulators] == [0, 0, 1]
    assert len(step.expressions) == 1
    check_values(first_gru)


def test_stages_chain_and_an_expression_of_states_alone_comes_after_the_first() -> None:
    @cell
    def chain(x, h, c):
        a = cw.tanh((h * c).a)
        b = cw.tanh((a * h).b + x.b)
        return cw.tanh((b * c).n), a

    step = accumulate(chain)
    assert {t.gate: a.stage for a in step.accumulators for t in a.terms} == {"a": 1, "b": 2, "n": 3}
    check_values(chain)


def test_a_projected_input_expression_is_not_known_before_the_step() -> None:
    @cell
    def gated_input(x, h):
        g = cw.sigmoid(h.g)
        return cw.tanh((g * x).n + h.n) * cw.sigmoid(x.o + h.o)

    step = accumulate(gated_input)
    assert gated_input.bundles["x"] == ("n", "o")
    assert step.input_width == 1
    assert terms(step)[0] == ["x.o", "h.o"]
    check_values(gated_input)


def test_a_cell_without_projections_has_no_accumulators() -> None:
    @cell
    def leak(x, h):
        return 0.9 * h + 0.1 * x

    assert accumulate(leak).accumulators == ()
    assert accumulate(leak).stages == 1
    check_values(leak)


@REPRODUCIBLE
@given(cells())
def test_accumulating_a_random_cell_changes_no_value(subject: Cell) -> None:
    check_values(subject)


@REPRODUCIBLE
@given(cells())
def test_every_projection_is_in_one_accumulator(subject: Cell) -> None:
    step = accumulate(subject)
    found = [(t.bundle, t.gate) for a in step.accumulators for t in a.terms]
    wanted = [(bundle, gate) for bundle, gates in subject.bundles.items() for gate in gates]
    assert sorted(found) == sorted(wanted)
    plain = [any(t.source.op == "input" for t in a.terms) for a in step.accumulators]
    assert plain == sorted(plain, reverse=True)
    assert sum(plain) == step.input_width


def test_random_cells_are_made_again_from_their_names() -> None:
    made = random_cell(12345, 3, 4, 2)
    assert made.name == "random_cell_12345_3_4_2"
    assert random_cell(12345, 3, 4, 2) == made
    assert random_cell(12346, 3, 4, 2).updates != made.updates


def test_random_cells_reach_what_they_are_for() -> None:
    drawn = [random_cell(seed, 1 + seed % 3, 1 + seed % 4, seed % 3) for seed in range(200)]
    steps = [accumulate(c) for c in drawn]
    assert sum(step.stages > 1 for step in steps) > 20
    assert sum(c.reads_input for c in drawn) > 5
    assert sum(len(a.terms) > 1 for step in steps for a in step.accumulators) > 100
    assert sum(bool(c.vectors) for c in drawn) > 50
