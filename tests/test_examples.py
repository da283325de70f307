"""The examples run, without a warning, and learn."""

import os
import re
import subprocess
import sys
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "examples"


def test_own_cell():
    done = subprocess.run(
        [sys.executable, "-W", "error", FOLDER / "own_cell.py"],
        capture_output=True,
        encoding="utf-8",
        timeout=120,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    losses = [float(loss) for loss in re.findall(r"loss (\S+)", done.stdout)]
    assert len(losses) > 2
    assert losses[-1] < 0.1 * losses[0]
    assert "kernel minimal_gated_unit_forward" in done.stdout
