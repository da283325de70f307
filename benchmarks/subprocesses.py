"""Running one of this package's probes in a fresh process, which prints one JSON object."""

import json
import os
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_TIMEOUT_SECONDS = 300


class ProbeError(Exception):
    """A probe's process ended badly; the message holds the end of what it wrote."""


def run_probe(module: str, *arguments: str, **environment: str) -> dict[str, float]:
    """Run ``python -m module arguments`` and return the JSON object on its last line."""
    command = [sys.executable, "-m", module, *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=_ROOT,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as problem:
        raise ProbeError(f"{module} took over {_TIMEOUT_SECONDS} s") from problem
    if done.returncode != 0:
        last = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ProbeError(f"{module} ended with status {done.returncode}: {last[0]}")
    answer: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return answer
