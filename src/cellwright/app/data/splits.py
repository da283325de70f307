"""Training, validation and test: by time within each series, or by whole sequence."""

import numpy as np

from cellwright.app.data.index import Index, Ints
from cellwright.app.data.options import Options
from cellwright.app.data.table import Stack
from cellwright.app.errors import InputError

__all__ = ["TEST_SHARE", "VALIDATION_SHARE", "share", "split_by_sequence", "split_by_time"]

VALIDATION_SHARE = 0.15
TEST_SHARE = 0.2


def share(given: float | None, usual: float, name: str) -> float:
    """The share to hold out.

    Raises:
        InputError: it is not from 0 up to, not including, 1.
    """
    if given is None:
        return usual
    if not 0 <= given < 1:
        raise InputError(f"expected a {name} share from 0 to below 1, but got {given}")
    return given


def split_by_time(stack: Stack, index: Index, horizon: int, options: Options) -> Ints:
    """(N, 3): how many of each series' steps are for training, validation and test, in this order.

    Raises:
        InputError: a series is too short, or the given split goes backward in time.
    """
    tested = _test_share(index, options)
    held_out = share(options.validation_share, VALIDATION_SHARE, "validation")
    counts = np.stack([np.diff(index.starts)] + [np.zeros(len(index.starts) - 1, np.int64)] * 2, 1)
    if index.splits is not None:
        counts = _given_counts(stack, index, index.splits)
    if not _test_given(index):
        counts[:, 2] = _held_out(counts[:, 0], tested, horizon)
        counts[:, 0] -= counts[:, 2]
    if not counts[:, 1].any() and held_out:
        counts[:, 1] = np.where(counts[:, 0] > 0, _held_out(counts[:, 0], held_out, horizon), 0)
        counts[:, 0] -= counts[:, 1]
    _check_lengths(stack, index, counts, horizon)
    return counts


def split_by_sequence(stack: Stack, index: Index, labels: list[str], options: Options) -> Ints:
    """(N,): 0, 1 or 2 for a sequence to train, validate or test on.

    What is not given is drawn at random, of each label its share.

    Args:
        stack: the rows, for errors.
        index: their order.
        labels: (N,) each sequence's label.
        options: the shares and the seed.

    Raises:
        InputError: a given split parts a sequence, or leaves no training or test data.
    """
    tested = _test_share(index, options)
    held_out = share(options.validation_share, VALIDATION_SHARE, "validation")
    parts = np.zeros(len(labels), np.int64)
    if index.splits is not None:
        parts = _given_parts(stack, index, index.splits)
    draw = np.random.default_rng(options.seed)
    if not _test_given(index):
        _draw(parts, labels, tested, 2, draw)
    if not (parts == 1).any() and held_out:
        _draw(parts, labels, held_out, 1, draw)
    for part, name in ((0, "train"), (2, "test")):
        if not (parts == part).any():
            raise InputError(
                f"expected sequences to {name} on, but the split leaves none of {len(labels)}; "
                "change the split or give more sequences",
                file=stack.tables[0].file,
            )
    return parts


def _test_share(index: Index, options: Options) -> float:
    tested = share(options.test_share, TEST_SHARE, "test")
    if tested == 0 and not _test_given(index):
        raise InputError("expected a test share above 0 or a given test, but got neither")
    return tested


def _test_given(index: Index) -> bool:
    return index.splits is not None and bool((index.splits == 2).any())


def _held_out(lengths: Ints, part: float, horizon: int) -> Ints:
    return np.maximum((lengths * part).astype(np.int64), horizon)


def _given_counts(stack: Stack, index: Index, splits: Ints) -> Ints:
    sorted_splits = splits[index.order]
    same = np.diff(index.codes[index.order]) == 0
    back = np.flatnonzero(same & (np.diff(sorted_splits) < 0))
    if len(back):
        row = int(index.order[back[0] + 1])
        raise stack.fail(
            "expected training before validation before test in the time of a series, but the "
            f"split of {index.name(int(index.codes[row]))} goes back here; a forecast must not "
            "learn from what comes after its test",
            row,
        )
    flat = np.bincount(index.codes * 3 + splits, minlength=3 * (len(index.starts) - 1))
    return flat.reshape(-1, 3).astype(np.int64)


def _given_parts(stack: Stack, index: Index, splits: Ints) -> Ints:
    first = splits[index.order][index.starts[:-1]]
    torn = np.flatnonzero(splits != first[index.codes])
    if len(torn):
        row = int(torn[0])
        raise stack.fail(
            f"expected one split for all rows of {index.name(int(index.codes[row]))}, but got "
            "several; give each sequence to one part",
            row,
        )
    return first.copy()


def _draw(
    parts: Ints, labels: list[str], part: float, code: int, draw: np.random.Generator
) -> None:
    """Move a share of each label's training sequences to part `code`; each label keeps one."""
    for label in sorted({labels[n] for n in np.flatnonzero(parts == 0)}):
        members = np.array([n for n in np.flatnonzero(parts == 0) if labels[n] == label])
        count = min(max(1, round(len(members) * part)), len(members) - 1)
        parts[draw.permutation(members)[:count]] = code


def _check_lengths(stack: Stack, index: Index, counts: Ints, horizon: int) -> None:
    trained = counts[:, 0] > 0
    given = index.splits is not None
    if not trained.any():
        trained = np.ones(len(counts), bool)
    for series, (train, validation, test) in enumerate(counts.tolist()):
        needs = horizon + 1 if trained[series] or not given else 0
        if train < needs or 0 < validation < horizon or 0 < test < horizon:
            total = train + validation + test
            raise stack.fail(
                f"expected enough steps to train, validate and test on forecasts of {horizon} "
                f"ahead, but {index.name(series)} has {total} ({train} to train, {validation} to "
                f"validate, {test} to test); lower the horizon, or leave the series out",
                int(index.order[index.starts[series]]),
            )
