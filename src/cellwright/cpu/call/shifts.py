"""Which rows of a sequence's matrix belong to neighbouring steps, as runs of successive rows."""

from cellwright.cpu.call.plan import Rows

__all__ = ["Run", "edges", "shifts"]

Run = tuple[int, int, int]
"""Two first rows, and how many rows belong together from them on."""


def shifts(rows: Rows, reverse: bool) -> list[Run]:
    """Return runs of (row of a step, row of the step before it in the walk).

    Args:
        rows: how the rows lie.
        reverse: whether the walk goes backwards in time.
    """
    layout = rows.layout
    N, T = layout.batch, layout.steps
    if layout.counts is not None and layout.starts is not None:
        pairs = zip(layout.starts[1:], layout.starts, layout.counts[1:], strict=False)
        runs = list(pairs)
    elif rows.batch_first:
        runs = [(n * T + 1, n * T, T - 1) for n in range(N)]
    else:
        runs = [(N, 0, N * (T - 1))]
    return [(before, after, count) for after, before, count in runs] if reverse else runs


def edges(rows: Rows, reverse: bool) -> list[Run]:
    """Return runs of (row of the walk's first step of a sequence, the sequence's number)."""
    layout = rows.layout
    N, T = layout.batch, layout.steps
    last = T - 1 if reverse else 0
    if layout.counts is not None and layout.starts is not None:
        if not reverse:
            return [(0, 0, N)]
        ends = zip(layout.starts, layout.counts, (*layout.counts[1:], 0), strict=True)
        return [(start + rest, rest, count - rest) for start, count, rest in ends if count > rest]
    if rows.batch_first:
        return [(n * T + last, n, 1) for n in range(N)]
    return [(last * N, 0, N)]
