"""The command line: output, help, errors and exit codes, some in a process of its own."""

import os
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from cellwright.app.cli import app

COMMAND = [sys.executable, "-W", "error", "-c", "from cellwright.app.cli import main; main()"]


def run(*arguments):
    # One thread: the test suite runs in several processes already.
    environment = os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80", "NO_COLOR": "1"}
    return subprocess.run(
        [*COMMAND, *arguments],
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
    )


def invoke(*arguments):
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "80", "NO_COLOR": "1"})


def words(text):
    """`text` on one line, without the frame that Rich draws around it."""
    return " ".join(re.sub(r"[│╭╮╰╯─]", " ", text).split())


def test_compare_prints_a_row_for_every_model():
    done = run("compare", "--epochs", "1", "--seeds", "1")
    assert done.returncode == 0, done.stderr
    rows = re.findall(
        r"^ *(\S+) +(\d) +([\d,]+) +(0\.\d{3}) +[\d.]+ s +[\d.]+ s +(–|[\d.]+ µs) *$",
        done.stdout,
        re.MULTILINE,
    )
    assert [row[:3] for row in rows] == [
        ("RNN", "0", "5,568"),
        ("GRU", "2", "15,552"),
        ("LSTM", "3", "20,544"),
        ("Bi-GRU", "2", "31,104"),
        ("Bi-LSTM", "3", "41,088"),
    ], done.stdout
    assert [row[4] == "–" for row in rows] == [False, False, False, True, True]
    # Chance is 0.11; a readout or a label out of order stays there.
    assert all(float(row[3]) > 0.2 for row in rows), done.stdout


def test_describe_prints_the_equations_of_the_cell():
    done = run("describe", "lstm")
    assert done.returncode == 0, done.stderr
    assert "σ" in done.stdout
    assert r"\sigma" in done.stdout
    assert invoke("describe", "rnn_tanh").output != done.stdout


@pytest.mark.parametrize(
    ("arguments", "example"),
    [
        ((), "cellwright describe lstm"),
        (("compare",), "cellwright compare --epochs 20 --seeds 1"),
        (("describe",), "cellwright describe gru"),
    ],
)
def test_help_shows_an_example(arguments, example):
    done = invoke(*arguments, "--help")
    assert done.exit_code == 0, done.output
    assert f"Example: {example}" in words(done.output)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("describe", "lstmm"),
            "expected one of rnn_tanh, rnn_relu, lstm, gru, but got 'lstmm'; did you mean lstm?",
        ),
        (("describe",), "Missing argument"),
        (("compare", "--epochs", "0"), "'--epochs': expected at least 1, but got 0"),
        (("compare", "--torch-seeds", "-1"), "expected at least 0, but got -1"),
        (("compare", "--epochs", "many"), "Invalid value for '--epochs'"),
        (
            ("compare", "--seeds", "2", "--torch-seeds", "3"),
            "expected at most as many as --seeds, 2, but got 3; raise --seeds or lower",
        ),
        (("compere",), "No such command 'compere'"),
    ],
)
def test_bad_input_ends_with_code_2_and_says_why(arguments, message):
    done = invoke(*arguments)
    assert done.exit_code == 2
    assert message in words(done.output)


def test_an_error_of_the_command_itself_goes_to_standard_error():
    done = run("describe", "lstmm")
    assert done.returncode == 2
    assert "did you mean lstm?" in words(done.stderr)
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
