"""A training's whole state to a checkpoint and back."""

from dataclasses import asdict
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import Tensor

from cellwright.app.errors import InputError
from cellwright.app.model.network import flat_states, map_states
from cellwright.app.training.checkpoint import check_same, load_checkpoint, save_checkpoint
from cellwright.app.training.loop import Loop, Position
from cellwright.app.training.results import Epoch

__all__ = ["Keeper"]


class Keeper:
    """Keeps a loop on disk: all that a resumed training needs to end with the same bits.

    Several processes are kept after epochs alone, where they agree on everything; the first one
    writes.

    Args:
        loop: the training.
        path: the checkpoint; None keeps nothing.
        same: what must agree between the checkpoint and the training that resumes from it.
    """

    def __init__(self, loop: Loop, path: Path | None, same: dict[str, Any]) -> None:
        self.loop, self.path, self.same = loop, path, same
        self._written = monotonic()

    def keep(self) -> None:
        """Write a checkpoint if the last one is old enough."""
        if monotonic() - self._written >= self.loop.recipe.checkpoint_seconds:
            self.write()

    def write(self) -> None:
        """Write a checkpoint where one can be resumed from."""
        loop = self.loop
        if loop.fabric.world_size > 1 and loop.position.cut:
            return
        if self.path is not None and loop.fabric.is_global_zero:
            save_checkpoint(self.path, self._tensors(), self._about())
        self._written = monotonic()

    def restore(self) -> None:
        """Put the loop where the checkpoint was written.

        Raises:
            InputError: there is no such checkpoint, it is damaged, or another training's.
        """
        if self.path is None:
            return
        tensors, about = load_checkpoint(self.path)
        try:
            check_same(self.path, self.same, about["same"])
            self._put(tensors, about)
        except (KeyError, TypeError, IndexError, RuntimeError) as error:
            raise InputError(
                f"expected a whole checkpoint, but a part is missing or altered ({error}); train "
                "without resuming",
                file=self.path,
            ) from error

    def _put(self, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
        loop = self.loop
        loop.position = Position(**about["position"])
        loop.history = [Epoch(**epoch) for epoch in about["history"]]
        loop.network.load_state_dict(_under(tensors, "network."))
        loop.best = _under(tensors, "best.")
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in _under(tensors, "optimiser.").items():
            index, _, kind = name.partition(".")
            moments.setdefault(int(index), {})[kind] = value
        groups = loop.optimiser.state_dict()["param_groups"]
        loop.optimiser.load_state_dict({"state": moments, "param_groups": groups})
        loop.at_epoch = tensors["random.epoch"]
        loop.generator.set_state(tensors["random.batches"])
        torch.set_rng_state(tensors["random.torch"])
        carried = _under(tensors, "states.")
        loop.states = None
        if carried:
            parts = iter([carried[str(index)] for index in range(len(carried))])
            loop.states = map_states(loop.network.initial(), lambda _: next(parts))

    def _tensors(self) -> dict[str, Tensor]:
        loop = self.loop
        tensors = {f"network.{name}": value for name, value in loop.network.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in loop.best.items()}
        for index, moments in loop.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in moments.items()}
        tensors["random.epoch"] = loop.at_epoch
        tensors["random.batches"] = loop.generator.get_state()
        tensors["random.torch"] = torch.get_rng_state()
        if loop.states is not None:
            carried = flat_states(loop.states)
            tensors |= {f"states.{index}": state for index, state in enumerate(carried)}
        # clones: a safetensors file holds no two views of the same memory
        return {name: value.detach().clone().contiguous() for name, value in tensors.items()}

    def _about(self) -> dict[str, Any]:
        return {
            "same": self.same,
            "position": asdict(self.loop.position),
            "history": [asdict(epoch) for epoch in self.loop.history],
        }


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
