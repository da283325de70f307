"""A training that is killed and resumed ends with the bits of one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tests.app.training import worker
from tests.app.training.problems import classify_problem
from tests.app.training.worker import RECIPE

from cellwright.app.errors import InputError
from cellwright.app.model.design import Design
from cellwright.app.training.checkpoint import checkpoint_path, remove_checkpoint
from cellwright.app.training.session import train
from cellwright.cells import CELLS

ROOT = Path(__file__).parents[3]
DESIGN = Design(CELLS["gru"], 4)


def start(*arguments):
    command = [sys.executable, "-m", "tests.app.training.worker", *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def wait_for_steps(process, folder, steps):
    """Wait until so many checkpoints were written; each replaces the file."""
    path, seen = checkpoint_path(folder), set()
    for _ in range(6000):
        if path.exists():
            seen.add(path.stat().st_mtime_ns)
        if len(seen) > steps:
            return
        assert process.poll() is None, "it ended before it could be killed"
        time.sleep(0.01)
    raise AssertionError("no checkpoint came")


def assert_same_bits(one, other):
    ours, theirs = (safetensors.torch.load(path.read_bytes()) for path in (one, other))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]), name


@pytest.mark.parametrize("task", ["classify", "text"])
def test_killed_and_resumed_is_bit_for_bit_the_same(task, tmp_path):
    process = start(task, tmp_path / "killed", tmp_path / "result", "slow")
    wait_for_steps(process, tmp_path / "killed" / task, random.randrange(1, 25))
    time.sleep(random.uniform(0, 0.03))  # anywhere within a step or a write
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (tmp_path / f"result.{task}").exists()
    worker.main(task, tmp_path / "killed", tmp_path / "resumed", "resume")
    worker.main(task, tmp_path / "whole", tmp_path / "whole")
    assert_same_bits(tmp_path / f"resumed.{task}", tmp_path / f"whole.{task}")


def test_an_interrupt_keeps_the_step_and_says_where(tmp_path):
    process = start("forecast", tmp_path / "stopped", tmp_path / "result", "slow")
    folder = tmp_path / "stopped" / "forecast"
    wait_for_steps(process, folder, 3)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert f"its checkpoint is {checkpoint_path(folder)}" in output
    worker.main("forecast", tmp_path / "stopped", tmp_path / "resumed", "resume")
    worker.main("forecast", tmp_path / "whole", tmp_path / "whole")
    assert_same_bits(tmp_path / "resumed.forecast", tmp_path / "whole.forecast")


def test_a_finished_training_resumes_to_its_end(tmp_path):
    problem = classify_problem()
    first = train(problem, DESIGN, RECIPE, folder=tmp_path)
    again = train(problem, DESIGN, RECIPE, folder=tmp_path, resume=True)
    assert again.run == first.run
    for name, value in first.network.state_dict().items():
        assert torch.equal(again.network.state_dict()[name], value)
    remove_checkpoint(tmp_path)
    remove_checkpoint(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_be_resumed_says_why(tmp_path):
    problem = classify_problem()
    with pytest.raises(InputError, match="name the folder"):
        train(problem, DESIGN, RECIPE, resume=True)
    with pytest.raises(InputError, match="there is none; train without resuming"):
        train(problem, DESIGN, RECIPE, folder=tmp_path, resume=True)
    train(problem, DESIGN, RECIPE, folder=tmp_path)
    with pytest.raises(InputError, match="its seed differs"):
        train(problem, DESIGN, RECIPE, seed=1, folder=tmp_path, resume=True)
    with pytest.raises(InputError, match="its data differs"):
        train(classify_problem(seed=5), DESIGN, RECIPE, folder=tmp_path, resume=True)
    with pytest.raises(InputError, match="its network differs"):
        train(problem, Design(CELLS["lstm"], 4), RECIPE, folder=tmp_path, resume=True)
    path = checkpoint_path(tmp_path)
    content = path.read_bytes()
    altered = safetensors.torch.load(content)
    altered["network.readout.weight"] = torch.zeros(3, 3)
    with safetensors.safe_open(path, framework="pt") as file:
        path.write_bytes(safetensors.torch.save(altered, file.metadata()))
    with pytest.raises(InputError, match="a part is missing or altered"):
        train(problem, DESIGN, RECIPE, folder=tmp_path, resume=True)
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="cannot be read"):
        train(problem, DESIGN, RECIPE, folder=tmp_path, resume=True)
    header = {"about": json.dumps({"version": 99})}
    path.write_bytes(safetensors.torch.save({"a": torch.zeros(1)}, header))
    with pytest.raises(InputError, match="but got version 99"):
        train(problem, DESIGN, RECIPE, folder=tmp_path, resume=True)
