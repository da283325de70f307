"""What was typed wrong: help, exit code 2, one message that says what to do, nothing written."""

import re

import polars as pl
import pytest
from typer.testing import CliRunner

from cellwright.app.cli import program

LABELLED = "data.csv --series who --target label"
VERBS = ("compare", "train", "predict", "stream", "generate", "describe", "bench")


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [
        {"who": f"n{n}", "x": float(n % 5 + step), "label": "ab"[n % 2]}
        for n in range(20)
        for step in range(4)
    ]
    pl.DataFrame(rows).write_csv("data.csv")


def invoke(*arguments):
    return CliRunner().invoke(program, arguments, env={"COLUMNS": "80", "NO_COLOR": "1"})


def words(text):
    """`text` on one line, without the frame that Rich draws around it."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


@pytest.mark.parametrize("verb", [None, *VERBS])
def test_help_shows_an_example(verb):
    done = invoke(*([verb] if verb else []), "--help")
    assert done.exit_code == 0, done.output
    assert re.search(rf"Example: .*cellwright {verb or '.'}", words(done.output))
    assert all(each in done.output for each in VERBS) or verb


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("describe gruu", "expected one of rnn, .* but got 'gruu'; did you mean gru"),
        ("describe", "Missing argument"),
        ("describe cells.py:mine", "^error: cells.py: expected a Python file .* there is none"),
        ("compare --epochs 0", "epochs at least 1, but got 0"),
        ("compare --torch-seeds -1", "expected at least 0, but got -1"),
        ("compare --epochs many", "Invalid value for '--epochs'"),
        ("compare --seeds 2 --torch-seeds 3", "at most as many as --seeds, 2, but got 3; raise"),
        ("compare wether", "^error: wether: expected a file or one .* did you mean weather"),
        ("compare weather --cell bi-gru", "expected a network that reads forwards"),
        ("compare LABELLED --report nowhere/r.html", "nowhere: expected a folder"),
        ("compare topics --target x", "expected no targets"),
        ("compere", "No such command 'compere'"),
        ("train data.csv --target label", "Missing option '--out'"),
        ("train data.csv --target lable --out m", "data.csv.*'lable'.*did you mean 'label'"),
        ("train LABELLED --out data.csv", "data.csv: expected a folder"),
        ("train LABELLED --out .", "it holds other files"),
        ("train LABELLED --out m --dropout 1", "from 0 to below 1, but got 1"),
        ("train LABELLED --out m --devices 0", "at least 1, but got 0"),
        ("train LABELLED --out m --resume", "expected a checkpoint .* there is none"),
        ("train vowels --test data.csv --out m", "leave --test out"),
        ("predict m data.csv", "^error: m: expected the folder of a model"),
        ("predict . data.csv", "it has no model.json"),
        ("predict . data.csv --out said.xlsx", "ends in .csv, .parquet"),
        ("predict . data.csv --out no/said.csv", "no: expected a folder .* there is none"),
        ("generate m --prompt a --length -1", "at least 0, but got -1"),
        ("generate m --prompt a --temperature -1", "at least 0, but got -1"),
        ("stream data.csv", "expected the folder of a model, but there is a file"),
        ("generate m --prompt a", "expected the folder of a model"),
        ("bench --cell gru --steps 0", "expected at least 1, but got 0"),
        ("bench --cell own.py:cell", "there is none"),
    ],
)  # fmt: skip
def test_bad_input_ends_with_code_2_and_says_why(tmp_path, arguments, message):
    done = invoke(*arguments.replace("LABELLED", LABELLED).split())
    assert (done.exit_code, done.stdout) == (2, ""), done.output
    said = [line for line in done.stderr.splitlines() if not line.startswith("Japanese Vowels:")]
    assert re.search(message, words("\n".join(said))), done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["data.csv"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("compare --cell gruu", "got 'gruu'; did you mean gru"),
        ("train --out m --cell gruu", "got 'gruu'; did you mean gru"),
        ("compare --horizon 0", "at least 1, but got 0"),
        ("compare --seeds 0", "at least 1, but got 0"),
        ("compare --test-share 1.5", "from 0 to below 1, but got 1.5"),
        ("compare --split-seed -1", "from 0 to below 2⁶³, but got -1"),
        ("compare --missing skip", "'skip' is not one of"),
        ("compare --frequency often", "mend --frequency"),
        ("compare --calendar moon", "hour or weekday or year, but got 'moon'"),
        ("compare --unit word", "character or byte, but got 'word'"),
        ("compare --epochs 0", "epochs at least 1, but got 0"),
        ("train --out m --epochs 0", "epochs at least 1, but got 0"),
        ("train --out m --dropout -1", "from 0 to below 1, but got -1"),
        ("train --out m --seed -1", "from 0 to below 2⁶³, but got -1"),
        (f"train --out m --seed {2**63}", f"from 0 to below 2⁶³, but got {2**63}"),
        ("train --out m --task text --horizon 2", "expected no horizon"),
        ("train --out data.csv/m", "data.csv: expected a folder .* it is a file"),
        ("train --out m --resume", "expected a checkpoint .* there is none"),
        ("compare --report data.csv/r.html", "data.csv: expected a folder .* it is a file"),
    ],
)
def test_what_needs_no_data_is_judged_before_any_is_read(tmp_path, arguments, message):
    (tmp_path / "broken.csv").write_text("a,a\n")
    verb, *options = arguments.split()
    done = invoke(verb, "broken.csv", *options)
    assert done.exit_code == 2
    assert re.search(message, words(done.stderr)), done.stderr
    assert "'a' twice" in words(invoke("compare", "broken.csv").stderr)


def describe_that_raises(raised, monkeypatch):
    def fail(*_, **__):
        raise raised

    monkeypatch.setattr("cellwright.app.cli.describe.describe", fail)
    return invoke("describe", "lstm")


@pytest.mark.parametrize(
    ("raised", "message"),
    [
        (OSError(28, "No space left on device", "m/weights"), "error: .*No space left on device"),
        (MemoryError(), "error: there is not enough memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: 9"), "error: .*enough memory"),
    ],
)
def test_what_the_machine_lacks_is_told_without_a_traceback(monkeypatch, raised, message):
    done = describe_that_raises(raised, monkeypatch)
    assert done.exit_code == 2
    assert re.search(message, done.stderr)


def test_other_errors_are_not_hidden(monkeypatch):
    done = describe_that_raises(RuntimeError("an error of ours"), monkeypatch)
    assert isinstance(done.exception, RuntimeError)


def test_a_cell_that_uses_its_input_elementwise_asks_for_its_size(tmp_path):
    lines = ["from cellwright import cell, tanh", "", "", "@cell", "def skip(x, h):"]
    (tmp_path / "own.py").write_text("\n".join([*lines, "    return x + tanh(x.n + h.n)", ""]))
    done = invoke("train", *LABELLED.split(), "--out", "m", "--cell", "own.py")
    assert done.exit_code == 2, done.output
    assert re.search("input_size .1. must equal hidden_size .64.; choose", words(done.stderr))
    assert not (tmp_path / "m").exists()


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("import nothing_of_this_name", r"own.py, row 1: .*ModuleNotFoundError"),
        ("x = 1\nif x\n", r"own.py, row 2: .*SyntaxError"),
        ("from cellwright import cell\n\n\n@cell\ndef own(x, h):\n    return x.a @ h\n", "own.py"),
        ("own = 3\n", "expected a cell 'own', but the file has no cells"),
    ],
)
def test_a_file_of_cells_that_does_not_run_is_told_by_its_line(tmp_path, source, message):
    (tmp_path / "own.py").write_text(source)
    done = invoke("describe", "own.py:own")
    assert done.exit_code == 2
    assert re.search(message, words(done.stderr)), done.stderr
    assert "Traceback" not in done.stderr


def test_cells_of_a_file_are_named_where_one_must_be_chosen(tmp_path):
    one = "\n\n@cell\ndef {}(x, h):\n    return sigmoid(x.a + h.a)\n"
    source = "from cellwright import cell, sigmoid\n"
    (tmp_path / "own.py").write_text(source + one.format("first"))
    assert invoke("describe", "own.py").stdout.startswith("first\n")
    (tmp_path / "own.py").write_text(source + one.format("first") + one.format("second"))
    assert "the file has first, second" in words(invoke("describe", "own.py").stderr)
    assert invoke("describe", "own.py:second").stdout.startswith("second\n")
