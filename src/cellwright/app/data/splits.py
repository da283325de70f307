"""Training, validation and test: by time within each series, or by whole sequence."""

from bisect import bisect_left

import numpy as np

from cellwright.app.data.index import Index, Ints
from cellwright.app.data.options import Options
from cellwright.app.data.table import Stack
from cellwright.app.errors import InputError

__all__ = ["TEST_SHARE", "VALIDATION_SHARE", "split_by_sequence", "split_by_time"]

VALIDATION_SHARE = 0.15
TEST_SHARE = 0.2


def split_by_time(stack: Stack, index: Index, horizon: int, options: Options) -> Ints:
    """(N, 3): how many of each series' steps are for training, validation and test, in this order.

    Raises:
        InputError: a series is too short, or the given split goes backward in time.
    """
    tested = None if _test_given(index) else _test_share(index, options)
    held_out = _validation_share(options)
    given = np.stack([np.diff(index.starts)] + [np.zeros(len(index.starts) - 1, np.int64)] * 2, 1)
    if index.splits is not None:
        given = _given_counts(stack, index, index.splits)

    def counts(horizon: int) -> Ints:
        return _counts(given, horizon, tested, 0 if given[:, 1].any() else held_out)

    def too_short(horizon: int) -> Ints:
        return _too_short(counts(horizon), horizon, split_given=index.splits is not None)

    short = too_short(horizon)
    if len(short):
        most = bisect_left(range(1, horizon), True, key=lambda one: len(too_short(one)) > 0)
        raise _not_enough(stack, index, int(short[0]), counts(horizon), horizon, most)
    return counts(horizon)


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
    held_out = _validation_share(options)
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


def _validation_share(options: Options) -> float:
    return VALIDATION_SHARE if options.validation_share is None else options.validation_share


def _test_share(index: Index, options: Options) -> float:
    tested = TEST_SHARE if options.test_share is None else options.test_share
    if tested == 0 and not _test_given(index):
        raise InputError(
            "expected a test share above 0 or a given test, but got neither; mend --test-share, or "
            "name a file or a column (--test, --split)"
        )
    return tested


def _test_given(index: Index) -> bool:
    return index.splits is not None and bool((index.splits == 2).any())


def _counts(given: Ints, horizon: int, tested: float | None, held_out: float) -> Ints:
    """(N, 3) with the shares that are not given taken from the end of the training steps."""
    counts = given.copy()
    if tested is not None:
        counts[:, 2] = _held_out(counts[:, 0], tested, horizon)
        counts[:, 0] -= counts[:, 2]
    if held_out:
        counts[:, 1] = np.where(counts[:, 0] > 0, _held_out(counts[:, 0], held_out, horizon), 0)
        counts[:, 0] -= counts[:, 1]
    return counts


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


def _too_short(counts: Ints, horizon: int, *, split_given: bool) -> Ints:
    """The series that a part of has no forecast of so many steps."""
    train, validation, test = counts.T
    trained = train > 0
    if not trained.any() or not split_given:
        trained = np.ones(len(counts), bool)
    short = trained & (train <= horizon)
    for part in (validation, test):
        short |= (part > 0) & (part < horizon)
    return np.flatnonzero(short)


def _not_enough(
    stack: Stack, index: Index, series: int, counts: Ints, horizon: int, most: int
) -> InputError:
    """The error about a series; `most` is the largest horizon that fits all of them, or 0."""
    name, (train, validation, test) = index.name(series), counts[series].tolist()
    remedy = f"lower the horizon (--horizon) to at most {most}, or " if most else ""
    other = "leave the series out" if len(counts) > 1 else "give more data"
    sizes = f"{train} to train, {validation} to validate, {test} to test"
    if train < 0:
        sizes = f"to validate and to test take {validation + test}"
    return stack.fail(
        f"expected enough steps to train, validate and test on forecasts of {horizon} ahead, but "
        f"{name} has {train + validation + test} ({sizes}); {remedy}{other}",
        int(index.order[index.starts[series]]),
    )
