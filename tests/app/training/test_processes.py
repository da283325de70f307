"""Processes that share a batch reach the loss of one that has it all."""

import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from tests.app.training import worker

ROOT = Path(__file__).parents[3]
WORKER = "tests.app.training.worker"
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")


# 23 sequences in batches of 5: shares of 3 and 2, and of 2 and 1
@pytest.mark.parametrize(
    ("tasks", "launcher", "options"),
    [("classify", TORCHRUN, ()), ("forecast,text", (), ("two",))],
)
def test_two_processes_reach_the_loss_of_one(tasks, launcher, options, tmp_path):
    arguments = [tasks, tmp_path / "two", tmp_path / "two", "even", *options]
    command = [sys.executable, *launcher, "-m", WORKER, *map(str, arguments)]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stderr
    worker.main(tasks, tmp_path / "one", tmp_path / "one", "even")
    for task in tasks.split(","):
        one, two, other = (
            safetensors.torch.load((tmp_path / name).read_bytes())
            for name in (f"one.{task}", f"two.{task}", f"two.{task}.1")
        )
        assert one.keys() == two.keys() == other.keys()
        for name, value in two.items():
            assert torch.equal(value, other[name]), name
            torch.testing.assert_close(value, one[name], rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(two["losses"], one["losses"], rtol=1e-4, atol=1e-5)
