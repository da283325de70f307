"""How close results must be: the one table that all tests share."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Tolerance:
    """The largest difference allowed: ``relative`` · max|expected| + ``absolute``."""

    relative: float
    absolute: float


TOLERANCES = {
    torch.float32: Tolerance(relative=2e-5, absolute=1e-6),
    torch.float64: Tolerance(relative=1e-10, absolute=1e-12),
}


def assert_close(actual: Tensor, expected: Tensor, what: str = "result") -> None:
    """Hold ``actual`` against ``expected``, of which only the values count, not the dtype."""
    assert actual.shape == expected.shape, (
        f"{what}: shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
    )
    tolerance = TOLERANCES[actual.dtype]
    actual, expected = actual.detach(), expected.detach().double()
    finite = expected[expected.isfinite()]
    scale = float(finite.abs().max()) if finite.numel() else 0.0
    bound = tolerance.relative * scale + tolerance.absolute
    torch.testing.assert_close(
        actual.double(),
        expected,
        rtol=0.0,
        atol=bound,
        equal_nan=True,
        msg=lambda text: f"{what}: {text}",
    )
