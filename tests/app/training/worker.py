"""A training in a process of its own: what it ends with is written to a file.

usage: worker.py TASK,… FOLDER RESULT [resume] [two] [even] [slow]

two: devices=2. even: no dropout, which each process draws for itself. slow: steps take their time.
"""

import sys
import time
from pathlib import Path

import safetensors.torch
import torch
from tests.app.training.problems import PROBLEMS

from cellwright.app.model.design import Design
from cellwright.app.training.recipe import Recipe
from cellwright.app.training.session import Interrupted, train
from cellwright.cells import CELLS

RECIPE = Recipe(epochs=6, batch_size=5, window=6, context=3, noise=0.3, checkpoint_seconds=0.0)


def main(tasks, folder, result, *options):
    """Train each of the tasks, "classify,text"; results are RESULT.TASK, of rank 1 RESULT.TASK.1"""
    torch.set_num_threads(1)
    for task in tasks.split(","):
        try:
            trained = run(task, Path(folder) / task, options)
        except Interrupted as interrupted:
            print(interrupted, flush=True)
            raise SystemExit(130) from None
        history = trained.run.history
        losses = torch.tensor([epoch.train_loss for epoch in history], dtype=torch.float64)
        weights = {name: value.contiguous() for name, value in trained.network.state_dict().items()}
        rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
        path = Path(f"{result}.{task}" + (f".{rank}" if rank else ""))
        path.write_bytes(safetensors.torch.save({"losses": losses, **weights}))


def run(task, folder, options):
    slow = 0.02 if "slow" in options else 0.0
    return train(
        PROBLEMS[task](),
        Design(CELLS["lstm"], 6, num_layers=2, dropout=0.0 if "even" in options else 0.3),
        RECIPE,
        seed=3,
        folder=folder,
        resume="resume" in options,
        devices=2 if "two" in options else 1,
        progress=lambda update: time.sleep(slow),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
