"""The verbs from data to predictions, each in a process of its own, on data made here."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import polars as pl
import pytest
import torch
from typer.testing import CliRunner

from cellwright import app
from cellwright.app.cli import program

COMMAND = [sys.executable, "-W", "error", "-c", "from cellwright.app.cli import main; main()"]
CELL = """
from cellwright import cell, sigmoid, tanh


@cell
def leaky(x, h):
    f = sigmoid(x.f + h.f)
    return f * h + (1 - f) * tanh(x.g)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a CSV file of labelled sequences, a series, a text and a cell."""
    made = tmp_path_factory.mktemp("user")
    torch.manual_seed(4)
    rows = []
    for n in range(60):
        level = 2.0 * (n % 3) - 2
        for step in range(3 + n % 4):
            x, y = torch.randn(2).tolist()
            rows.append(
                {"id": f"s{n:02}", "step": step, "x": x + level, "y": y, "kind": "abc"[n % 3]}
            )
    pl.DataFrame(rows).write_csv(made / "kinds.csv")
    steps = torch.arange(150.0)
    days = pl.date_range(pl.date(2024, 1, 1), pl.date(2024, 5, 29), eager=True)
    level = (torch.sin(steps / 5) + 0.1 * torch.randn(150)).tolist()
    pl.DataFrame({"day": days, "level": level}).write_parquet(made / "level.parquet")
    (made / "fox.txt").write_text("the quick brown fox jumps over the lazy dog. " * 60)
    (made / "own.py").write_text(CELL)
    return made


@pytest.fixture(autouse=True)
def _inside(folder, monkeypatch):
    monkeypatch.chdir(folder)


@pytest.fixture(scope="module")
def kinds(folder):
    """The folder of a classifier that has learned the kinds."""
    done = run(folder, "train", "kinds.csv", "--target", "kind", "--series", "id", "--epochs", "12",
               "--cell", "gru", "--hidden-size", "8", "--out", "kinds")  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(
        r"kinds: GRU, best epoch \d+ of \d+; validation accuracy [\d.]+, test accuracy [\d.]+\n",
        done.stdout,
    )
    assert "classify kind (3 classes)" in done.stderr
    return folder / "kinds"


def environment():
    # One thread: the test suite runs in several processes already.
    return os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "80", "NO_COLOR": "1"}


def run(folder, *arguments, **options):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=folder,
        env=environment(),
        capture_output=True,
        encoding="utf-8",
        timeout=300,
        check=False,
        **options,
    )


def invoke(*arguments, **options):
    """The same in this process, in the folder that the test is in: cheap, and enough for most."""
    return CliRunner().invoke(
        program, list(map(str, arguments)), env={"COLUMNS": "80", "NO_COLOR": "1"}, **options
    )


def start(folder, *arguments):
    return subprocess.Popen(
        [*COMMAND, *arguments],
        cwd=folder,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )


def test_compare_prints_networks_and_baselines_and_writes_a_report(folder):
    done = run(folder, "compare", "kinds.csv", "--target", "kind", "--series", "id", "--epochs",
               "2", "--seeds", "1", "--cell", "lstm", "--cell", "own.py:leaky")  # fmt: skip
    assert done.returncode == 0, done.stderr
    number = r"([\d.,]+ ?\S*|–)"
    rows = re.findall(
        rf"^ *(LSTM|leaky|majority) +{number} +{number} +{number} +([\d.]+ s) +"
        rf"{number} +{number} *$",
        done.stdout,
        re.MULTILINE,
    )
    assert [row[0] for row in rows] == ["LSTM", "leaky", "majority"], done.stdout
    assert [row[5] == "–" for row in rows] == [False, True, True]
    assert re.search(r"logistic .*\n *regression", done.stdout)
    assert "A recurrent network " in done.stdout
    assert "Error" not in done.stdout + done.stderr
    page = (folder / "report.html").read_text(encoding="utf-8")
    assert "compare kinds.csv --target kind" in page


def test_predictions_come_as_the_ending_says_and_streams_agree_with_them(folder, kinds):
    for name in ("said.csv", "said.parquet", "said.jsonl"):
        done = invoke("predict", kinds, "kinds.csv", "--out", name)
        assert done.exit_code == 0, done.stderr
        assert done.stdout == f"{name}: 60 rows\n"
    said = pl.read_parquet(folder / "said.parquet")
    assert pl.read_csv(folder / "said.csv")["predicted kind"].equals(said["predicted kind"])
    assert len((folder / "said.jsonl").read_text().splitlines()) == 60
    data = pl.read_csv(folder / "kinds.csv")
    truth = data.group_by("id", maintain_order=True).agg(pl.col("kind").first())
    right = (
        said.join(truth, on="id")["kind"] == said.join(truth, on="id")["predicted kind"]
    ).mean()
    assert right > 0.6
    # Interleaved by step: each stream must keep to its own state.
    mixed = data.sort("step", maintain_order=True)
    done = invoke("stream", kinds, "--key", "id", input=mixed.drop("kind").write_csv())
    assert done.exit_code == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["id"] for line in lines] == mixed["id"].to_list()
    last = {line["id"]: line for line in lines}
    for row in said.iter_rows(named=True):
        assert last[row["id"]]["predicted kind"] == row["predicted kind"]
        assert last[row["id"]]["probability a"] == pytest.approx(row["probability a"], abs=1e-5)


def test_a_stream_answers_each_line_at_once_and_names_a_bad_one(folder, kinds):
    with start(folder, "stream", str(kinds)) as process:
        for x in (0.5, "1.5"):
            process.stdin.write(json.dumps({"x": x, "y": 0.0}) + "\n")
            process.stdin.flush()
            assert set(json.loads(process.stdout.readline())) == {
                "predicted kind", "probability a", "probability b", "probability c",
            }  # fmt: skip
        process.stdin.write('{"x": "much", "y": 1}\n')
        process.stdin.flush()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert out == ""
    assert err.startswith("error: standard input, row 3: column 'x': expected a finite number")


def test_a_cell_of_the_users_own_is_not_needed_to_use_its_model(folder):
    (folder / "gone.py").write_text(CELL)
    done = invoke("train", "kinds.csv", "--target", "kind", "--series", "id", "--epochs", "1",
                  "--cell", "gone.py:leaky", "--out", "leaky")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    (folder / "gone.py").unlink()
    done = run(folder, "predict", "leaky", "kinds.csv")
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 61
    shown = invoke("describe", "leaky").stdout
    assert "leaky, hidden size 64" in shown
    assert "f_t = σ(" in shown


def test_a_forecast_and_its_intervals(folder):
    done = invoke("train", "level.parquet", "--target", "level", "--horizon", "2", "--epochs",
               "2", "--out", "level")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    done = invoke("predict", "level", "level.parquet")
    table = pl.read_csv(done.stdout.encode(), try_parse_dates=True)
    assert [str(day) for day in table["day"]] == ["2024-05-30", "2024-05-31"]
    assert (table["level p10"] < table["level p50"]).all()
    assert (table["level p50"] < table["level p90"]).all()
    assert invoke("predict", "level", "level.parquet", "--every-step").stdout.count("\n") == 301


def test_generated_text_repeats_with_its_seed(folder):
    done = invoke("train", "fox.txt", "--epochs", "2", "--hidden-size", "16", "--out", "fox")
    assert done.exit_code == 0, done.stderr
    asked = ("generate", "fox", "--prompt", "the ", "--length", "30", "--seed")
    first, again, other = (invoke(*asked, seed).stdout for seed in (1, 1, 2))
    assert first == again != other
    assert first.startswith("the ")
    assert len(first) == 4 + 30 + 1


def test_ctrl_c_keeps_the_best_epoch_and_says_where(folder):
    asked = ["train", "kinds.csv", "--target", "kind", "--series", "id", "--epochs", "100000",
             "--patience", "100000", "--out", "stopped"]  # fmt: skip
    with start(folder, *asked) as process:
        checkpoint = folder / "stopped" / "checkpoint" / "last.safetensors"
        deadline = time.monotonic() + 120
        first = None
        while time.monotonic() < deadline:  # two checkpoints: an epoch is finished by then
            now = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
            first = first or now
            if now != first:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, ""), err
    assert re.search(
        r"interrupted; the best epoch so far, \d+ of \d+, is the model in stopped", err
    )
    assert "checkpoint/last.safetensors with the same command and --resume" in err
    assert app.load(folder / "stopped").about["training"]["finished"] is False
    refused = invoke(*asked)
    assert refused.exit_code == 2
    assert "go on with --resume" in refused.stderr


def test_bench_times_only_what_agrees(folder):
    done = invoke("bench", "--cell", "bi-gru", "--cell", "rnn", "--hidden-size", "7",
               "--input-size", "3", "--batch", "2", "--steps", "5", "--layers", "2", "--threads",
               "1", "--seconds", "0")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    rows = re.findall(
        r"^ *(Bi-GRU ×2|RNN ×2) +(\S+(?: step)?) .* ([\d.]+)×", done.stdout, re.MULTILINE
    )
    assert [row[:2] for row in rows] == [
        ("Bi-GRU ×2", "forward"), ("Bi-GRU ×2", "training step"), ("RNN ×2", "streamed step"),
        ("RNN ×2", "forward"), ("RNN ×2", "training step"),
    ], done.stdout  # fmt: skip
