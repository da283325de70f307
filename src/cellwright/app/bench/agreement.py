"""Whether two rivals compute the same thing: no speed is reported where they do not."""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from cellwright.app.bench.workload import Workload

__all__ = ["DisagreementError", "check", "compare"]

# Largest difference allowed, relative to the largest magnitude of the reference tensor. In half
# precision torch rounds the states of every step.
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-10, torch.float16: 2e-2, torch.bfloat16: 1e-1}
# Below this magnitude the difference counts as it is: a gradient may be exactly zero.
_SMALLEST_SCALE = 1e-3


class DisagreementError(Exception):
    """Our result differs from torch.nn's, so its time means nothing."""


def relative_error(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference over the largest magnitude; NaN where either holds one."""
    if theirs.numel() == 0:
        return 0.0
    difference = (ours.double() - theirs.double()).abs().max().item()
    scale = theirs.double().abs().max().item()
    return math.nan if math.isnan(scale) else difference / max(scale, _SMALLEST_SCALE)


def compare(
    what: str, ours: Tensor | None, theirs: Tensor | None, precision: torch.dtype | None = None
) -> float:
    """Return the relative error of a result, or refuse it.

    Args:
        what: the result's name.
        ours: the result, or None where there is none.
        theirs: torch.nn's.
        precision: what it was computed in, if not in its own dtype.

    Raises:
        DisagreementError: the error is above the precision's tolerance, or the forms differ.
    """
    if ours is None and theirs is None:
        return 0.0
    if ours is None or theirs is None:
        raise DisagreementError(f"{what}: ours is {type(ours).__name__}, "
                                f"torch.nn's {type(theirs).__name__}")  # fmt: skip
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        raise DisagreementError(f"{what}: ours is {ours.dtype} of {tuple(ours.shape)}, "
                                f"torch.nn's {theirs.dtype} of {tuple(theirs.shape)}")  # fmt: skip
    error, most = relative_error(ours, theirs), TOLERANCE[precision or theirs.dtype]
    if not error <= most:  # written so that NaN fails
        raise DisagreementError(f"{what}: relative error {error:.1e} > {most:.0e}")
    return error


def _tensors(workload: Workload, with_states: bool) -> Iterator[tuple[str, Tensor | None]]:
    """Everything a row yields, by name: results, and for a training step all the gradients."""
    workload.clear_gradients()
    results = workload.results(with_states)
    names = ("output", "final h", "final c")
    yield from zip(names, (result.detach() for result in results), strict=False)
    if workload.row.work != "train":
        return
    cotangents = [g.to(t.dtype) for g, t in zip(workload.cotangents, results, strict=True)]
    torch.autograd.backward(list(results), cotangents)
    yield "gradient of input", workload.x_data.grad
    for name, state in zip(("h", "c"), workload.states, strict=False):
        yield f"gradient of initial {name}", state.grad
    for name, parameter in workload.module.named_parameters():
        yield f"gradient of {name}", parameter.grad
    workload.clear_gradients()


def check(ours: Workload, theirs: Workload) -> float:
    """Copy torch.nn's weights into ours and compare all results; the largest relative error.

    Both calls are compared, with initial states given and without.
    """
    ours.module.load_state_dict(theirs.module.state_dict())
    worst = 0.0
    precision = torch.bfloat16 if ours.row.variant.autocast else None
    with torch.set_grad_enabled(ours.row.work == "train"):
        for with_states in (False, True):
            # In step with each other: a wrong output is named before its backward pass can break.
            pairs = zip(_tensors(ours, with_states), _tensors(theirs, with_states), strict=True)
            for (name, mine), (expected_name, expected) in pairs:
                if name != expected_name:
                    raise DisagreementError(f"ours yields {name}, torch.nn {expected_name}")
                worst = max(worst, compare(name, mine, expected, precision))
    return worst
