"""Run code in a Python process of its own."""

import os
import subprocess
import sys

__all__ = ["python"]

_START = """
import torch
from cellwright.cells import gru, lstm, rnn_tanh
from tests.cpu.agreement import FORMS, compare, make, results, run
torch.manual_seed(20)
"""


def python(code: str, timeout: float = 120, **environment: str) -> str:
    """Return what ``code`` prints; a warning in it is an error unless it filters it."""
    finished = subprocess.run(
        [sys.executable, "-W", "error", "-c", _START + code],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
        env={**os.environ, **environment},
    )
    assert finished.returncode == 0, finished.stderr
    return finished.stdout.strip()
