"""What packed sequences hold."""

from torch import Tensor

__all__ = ["is_dense"]


def is_dense(batch_sizes: list[int], data: Tensor) -> bool:
    """Whether packed sequences are of equal lengths: a dense batch by another name."""
    steps = len(batch_sizes)
    return (
        steps > 0
        and batch_sizes.count(batch_sizes[0]) == steps
        and (steps * batch_sizes[0] == len(data))
    )
