"""The `cellwright` command: one module a verb, each thin over `cellwright.app`'s functions."""

from cellwright.app.cli import bench, compare, describe, generate, predict, stream, train
from cellwright.app.cli.command import program

__all__ = ["main", "program"]

for verb in (compare, train, predict, stream, generate, describe, bench):
    verb.add_to(program)


def main() -> None:
    """Entry point of the `cellwright` command."""
    program()
