"""Checks of options that say what came; Typer's own `min` does not."""

from collections.abc import Callable

import typer

__all__ = ["at_least", "is_seed", "share"]


def at_least(least: float) -> Callable[[float | None], float | None]:
    """A check that a number, if there is one, is no smaller."""

    def check(value: float | None) -> float | None:
        if value is not None and not value >= least:
            raise typer.BadParameter(f"expected at least {least:g}, but got {value:g}")
        return value

    return check


def share(value: float | None) -> float | None:
    """Check that a number, if there is one, is a share."""
    if value is not None and not 0 <= value < 1:
        raise typer.BadParameter(f"expected a number from 0 to below 1, but got {value:g}")
    return value


def is_seed(value: int | None) -> int | None:
    """Check that a number, if there is one, is a seed."""
    if value is not None and not 0 <= value < 2**63:
        raise typer.BadParameter(f"expected a seed from 0 to below 2⁶³, but got {value}")
    return value
