"""What importing a package adds to a process that has torch already; imports nothing else."""

import importlib
import json
import sys
import time

import torch  # noqa: F401  # not what is timed

if __name__ == "__main__":
    before = time.perf_counter()
    importlib.import_module(sys.argv[1].partition(".")[0])
    print(json.dumps({"seconds": time.perf_counter() - before}))
