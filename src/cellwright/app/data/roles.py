"""Which column is what: the task, the targets, the series, the time, the split, the features."""

from collections.abc import Mapping
from dataclasses import dataclass

import polars as pl

from cellwright.app.data.columns import Kind, kind_of, texts, times
from cellwright.app.data.options import Options
from cellwright.app.data.table import Table, fail, require_columns
from cellwright.app.errors import InputError
from cellwright.app.schema import Task

__all__ = ["SPLIT_WORDS", "Roles", "roles_of"]

MOST_CATEGORIES = 20
"""A column of text with more values than these is no feature unless it is named as one."""

TIME_NAMES = {"time", "timestamp", "date", "datetime", "ds", "step", "t", "frame", "tick"}
SERIES_NAMES = {
    *("series", "sequence", "id", "unique_id", "utterance", "case", "item", "recording", "trial"),
    *("key", "sensor", "station", "store", "instance", "sample", "subject", "patient", "device"),
}
ROW_NAMES = {"index", "row", "unnamed: 0"}
LABEL_NAMES = ("label", "class", "target", "y", "category")
SPLIT_NAMES = ("split", "partition", "subset")
SPLIT_WORDS = {
    **dict.fromkeys(("train", "training"), 0),
    **dict.fromkeys(("validation", "valid", "val", "dev"), 1),
    **dict.fromkeys(("test", "testing"), 2),
}


@dataclass(frozen=True)
class Roles:
    """The columns by what they are for; features with whether they are categories.

    `left_out` are columns that are not read because they cannot be, with the reason.
    """

    task: Task
    targets: tuple[str, ...]
    features: tuple[tuple[str, bool], ...]
    series: str | None
    time: str | None
    split: str | None
    left_out: tuple[str, ...] = ()


def roles_of(table: Table, options: Options) -> Roles:
    """What the columns are for, as far as `options` and the format do not say.

    Raises:
        InputError: a named column is not there, or the target cannot be told.
    """
    named = [options.series, options.time, options.split]
    require_columns(table, [name for name in named if name], "as named")
    require_columns(table, options.targets or (), "as target")
    require_columns(table, options.features or (), "as feature")
    require_columns(table, options.exclude, "to leave out")
    names = [name for name in table.schema.names() if name not in options.exclude]
    kinds = {name: kind_of(table, name) for name in names}
    targets = options.targets or table.hints.targets or ()
    free = {name: kind for name, kind in kinds.items() if name not in targets}
    split = options.split or _split(table, free)
    time = options.time or table.hints.time or _time(table, free)
    free = {name: kind for name, kind in free.items() if name not in {split, time}}
    series = options.series or table.hints.series or _series(table, free, time, targets)
    free.pop(series or "", None)
    task = options.task
    if not targets:
        task, targets = _target(table, free, series, task)
    elif task is None:
        task = _task(table, kinds, targets, series)
    if task is Task.CLASSIFY and len(targets) != 1:
        raise InputError(
            f"expected one column of labels, but got {', '.join(targets)}; name one target",
            file=table.file,
        )
    features, left_out = _features(table, kinds, targets, {series, time, split}, task, options)
    return Roles(task, tuple(targets), features, series, time, split, left_out)


def _time(table: Table, kinds: Mapping[str, Kind]) -> str | None:
    """The first column of times, else a column of numbers that is called like one."""
    for name, kind in kinds.items():
        if kind is Kind.TIME:
            return name
    for name, kind in kinds.items():
        if kind is Kind.NUMBER and name.lower() in TIME_NAMES:
            return name
    for name, kind in kinds.items():
        if kind is Kind.CATEGORY and name.lower() in TIME_NAMES:
            raise fail(
                table,
                f"expected times as 2012-01-31 or 2012-01-31 18:30, but got "
                f"{table.column(name)[0]!r}; write them so, or leave the column out "
                "(--exclude)",
                0,
                name,
            )
    return None


def _split(table: Table, kinds: Mapping[str, Kind]) -> str | None:
    for name, kind in kinds.items():
        if kind is not Kind.CATEGORY or _distinct(table, name) > len(SPLIT_WORDS):
            continue
        words = set(texts(table.column(name)).unique().drop_nulls().str.to_lowercase())
        if words <= set(SPLIT_WORDS):
            parts = {SPLIT_WORDS[word] for word in words}
            if name.lower() in SPLIT_NAMES or len(parts) > 1:
                return name
    return None


def _series(
    table: Table, kinds: Mapping[str, Kind], time: str | None, targets: tuple[str, ...]
) -> str | None:
    """A column that is called like one, or cuts the rows into blocks of one label each.

    Else the first within whose values time only grows, where it does not over all rows.
    """
    columns = [name for name, kind in kinds.items() if kind in {Kind.CATEGORY, Kind.NUMBER}]
    for name in columns:
        if _named_series(name) and _distinct(table, name) < table.height:
            return name
    if (blocks := _labelled_blocks(table, kinds, columns, targets)) is not None:
        return blocks
    if time is None:
        return None
    moments = times(table, time).to_physical()
    if _grows(moments, None):
        return None
    for name in columns:
        whole = kinds[name] is Kind.CATEGORY or _whole(table, name)
        if (
            whole
            and _distinct(table, name) <= table.height / 2
            and _grows(moments, table.column(name))
        ):
            return name
    return None


def _labelled_blocks(
    table: Table, kinds: Mapping[str, Kind], columns: list[str], targets: tuple[str, ...]
) -> str | None:
    """The column with the most values each of whose values is one block of rows with one label."""
    if len(targets) != 1 or _distinct(table, targets[0]) < 2:
        return None
    best, most = None, _distinct(table, targets[0])
    for name in columns:
        distinct = _distinct(table, name)
        if not most < distinct <= table.height / 2:
            continue
        if kinds[name] is not Kind.CATEGORY and not _whole(table, name):
            continue
        blocks = len(table.column(name).rle())
        if blocks == distinct and _constant_within(table, targets[0], name):
            best, most = name, distinct
    return best


def _named_series(name: str) -> bool:
    return name.lower() in SERIES_NAMES or name.lower().endswith(("_id", "id_"))


def _whole(table: Table, name: str) -> bool:
    column = texts(table.column(name)).drop_nulls()
    return bool(column.str.contains(r"^[+-]?\d+$").all())


def _grows(moments: pl.Series, series: pl.Series | None) -> bool:
    """Whether time only grows, within each series if there are some."""
    if series is None:
        return bool((moments.diff().drop_nulls() > 0).all())
    frame = pl.DataFrame({"time": moments, "series": series})
    steps = frame.select(pl.col("time").diff().over("series")).to_series().drop_nulls()
    return bool((steps > 0).all())


def _distinct(table: Table, name: str) -> int:
    return int(table.lazy.select(pl.col(name).n_unique()).collect().item())


def _constant_within(table: Table, name: str, series: str) -> bool:
    distinct = table.lazy.group_by(series).agg(pl.col(name).n_unique()).select(pl.col(name).max())
    return int(distinct.collect().item()) == 1


def _task(
    table: Table, kinds: Mapping[str, Kind], targets: tuple[str, ...], series: str | None
) -> Task:
    """Classify labels that are text, or the same within each of several series."""
    if len(targets) > 1:
        return Task.FORECAST
    if kinds.get(targets[0]) is Kind.CATEGORY:
        return Task.CLASSIFY
    several = series is not None and _distinct(table, series) > 1
    if several and series is not None and _constant_within(table, targets[0], series):
        return Task.CLASSIFY
    return Task.FORECAST


def _target(
    table: Table,
    kinds: Mapping[str, Kind],
    series: str | None,
    task: Task | None,
) -> tuple[Task, tuple[str, ...]]:
    """The task and its target, if only one can be meant."""
    if task is not Task.FORECAST and series is not None and _distinct(table, series) > 1:
        usable = [name for name, kind in kinds.items() if kind in {Kind.CATEGORY, Kind.NUMBER}]
        labels = [
            name
            for name in usable
            if _distinct(table, name) > 1 and _constant_within(table, name, series)
        ]
        labels = [name for name in labels if name.lower() in LABEL_NAMES] or labels
        if len(labels) == 1:
            return Task.CLASSIFY, (labels[0],)
    figures = [
        name
        for name, kind in kinds.items()
        if kind is Kind.NUMBER and _reason_against(table, name, kind) is None
    ]
    if task is not Task.CLASSIFY and len(figures) == 1:
        return Task.FORECAST, (figures[0],)
    kind = "labels" if task is Task.CLASSIFY else "targets"
    raise InputError(
        f"expected to be told the {kind}, for several columns could be meant; name one of "
        f"{', '.join(kinds)} as target (--target)",
        file=table.file,
    )


def _features(
    table: Table,
    kinds: Mapping[str, Kind],
    targets: tuple[str, ...],
    taken: set[str | None],
    task: Task,
    options: Options,
) -> tuple[tuple[tuple[str, bool], ...], tuple[str, ...]]:
    """The features with whether they are categories, and what was left out and why."""
    reads = set(kinds) - taken - (set(targets) if task is Task.CLASSIFY else set())
    if options.features is not None:
        own = set(targets) if task is Task.FORECAST else set()
        reads &= set(options.features) | own
        _check_features(table, kinds, options.features, reads)
    features: list[tuple[str, bool]] = []
    left_out: list[str] = []
    for name in (name for name in kinds if name in reads):
        reason = None if options.features else _reason_against(table, name, kinds[name])
        if reason is not None and name not in targets:
            left_out.append(f"{name} ({reason})")
        else:
            features.append((name, kinds[name] is Kind.CATEGORY))
    for name in targets if task is Task.FORECAST else ():
        if (name, False) not in features:
            raise fail(
                table,
                "expected numbers to forecast, but the column holds none; name another target",
                column=name,
            )
    if not features:
        raise InputError(
            "expected a column of numbers or categories to learn from, but there is none beside "
            f"{', '.join(sorted(name for name in {*taken, *targets} if name))}",
            file=table.file,
        )
    return tuple(features), tuple(left_out)


def _check_features(
    table: Table, kinds: Mapping[str, Kind], named: tuple[str, ...], reads: set[str]
) -> None:
    for name in named:
        if name not in reads or kinds[name] not in {Kind.NUMBER, Kind.CATEGORY}:
            what = "its role is another" if name not in reads else "it holds none"
            raise fail(
                table,
                f"expected a feature of numbers or categories, but {what}; leave it out of the "
                "features",
                column=name,
            )


def _reason_against(table: Table, name: str, kind: Kind) -> str | None:
    """Why a column that nobody named is no feature."""
    if kind is Kind.EMPTY:
        return "no values"
    if kind is Kind.TIME:
        return "a second time"
    if kind is Kind.OTHER:
        return "neither numbers nor text"
    if _distinct(table, name) == 1:
        return f"always {table.column(name)[0]}"
    if kind is Kind.CATEGORY and _distinct(table, name) > MOST_CATEGORIES:
        return f"over {MOST_CATEGORIES} different texts"
    named = name.lower() in ROW_NAMES or _named_series(name)
    if kind is Kind.NUMBER and named and _distinct(table, name) == table.height:
        return "a number of the row"
    return None
