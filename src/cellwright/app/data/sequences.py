"""The labels of sequences: one for each, known from training, as the user wrote them."""

import numpy as np

from cellwright.app.data.index import Index, Ints
from cellwright.app.data.table import Stack
from cellwright.app.errors import InputError

__all__ = ["class_codes", "classes_of", "sequence_labels", "unjudged"]

SHOWN = 5
"""How many classes a note names."""


def sequence_labels(stack: Stack, index: Index, column: str) -> list[str]:
    """(N,) each sequence's label.

    Raises:
        InputError: a label is missing, or differs within a sequence.
    """
    labels = index.labels
    if labels is None:
        raise AssertionError(column)  # read with the index of every task that has labels
    missing = labels.is_null().arg_true()
    if len(missing):
        row = int(missing[0])
        raise stack.fail("expected a label, but it is missing; complete it", row, column)
    firsts = index.order[index.starts[:-1]]
    of_sequence = labels[firsts]
    differs = np.flatnonzero((labels != of_sequence[index.codes]).to_numpy())
    if len(differs):
        row = int(differs[0])
        series = int(index.codes[row])
        raise stack.fail(
            f"expected one label for all of {index.name(series)}, but got {labels[row]!r} after "
            f"{of_sequence[series]!r}; sequences are labelled as a whole, so split the series or "
            "name another target",
            row,
            column,
        )
    return of_sequence.to_list()


def classes_of(stack: Stack, labels: list[str], parts: Ints, column: str) -> tuple[str, ...]:
    """The training sequences' labels: whole numbers by their value, text by its letters.

    Raises:
        InputError: there is only one.
    """
    found = {label for label, part in zip(labels, parts.tolist(), strict=True) if part == 0}
    if len(found) == 1:
        raise InputError(
            f"expected at least two classes to tell apart, but all training sequences have "
            f"{found.pop()!r}; give sequences of another class",
            file=stack.tables[0].file,
            column=column,
        )
    if all(label.lstrip("-").isdecimal() for label in found):
        return tuple(sorted(found, key=int))
    return tuple(sorted(found))


def class_codes(
    stack: Stack, index: Index, labels: list[str], classes: tuple[str, ...], column: str
) -> Ints:
    """(N,) each sequence's position in `classes`.

    Raises:
        InputError: a label that no training sequence has.
    """
    codes = {label: code for code, label in enumerate(classes)}
    for series, label in enumerate(labels):
        if label not in codes:
            raise stack.fail(
                f"expected a label that training has, {', '.join(classes)}, but "
                f"{index.name(series)} has {label!r}; leave it out, or train on some of these",
                int(index.order[index.starts[series]]),
                column,
            )
    return np.array([codes[label] for label in labels], np.int64)


def unjudged(classes: tuple[str, ...], codes: Ints, parts: Ints) -> tuple[str, ...]:
    """What to say of classes with too few sequences to be in every part."""
    notes = []
    for part, name in ((1, "validate"), (2, "test")):
        if not (parts == part).any():
            continue
        counts = np.bincount(codes[parts == part], minlength=len(classes))
        lacking = [
            f"{label} ({total} sequence{'' if total == 1 else 's'} in all)"
            for label, here, total in zip(classes, counts, np.bincount(codes), strict=True)
            if not here
        ]
        if lacking:
            more = f" and {len(lacking) - SHOWN} more" if len(lacking) > SHOWN else ""
            notes.append(f"none to {name} on of {', '.join(lacking[:SHOWN])}{more}")
    return tuple(notes)
