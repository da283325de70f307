"""The command itself: its verbs, and what becomes of errors and interruptions."""

import errno
import os
import shlex
import sys
from typing import Any

import typer
from typer.core import TyperGroup

from cellwright.app.errors import InputError
from cellwright.errors import CellError

__all__ = ["BAD_INPUT", "INTERRUPTED", "command_line", "is_first_process", "program"]

BAD_INPUT = 2
INTERRUPTED = 130
_NO_MEMORY = "can't allocate memory"  # as torch says it


class Verbs(TyperGroup):
    """Turns what a verb raises into a message on standard error and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the verb."""
        try:
            return super().invoke(ctx)
        except (InputError, CellError) as error:
            raise _told(str(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # who reads has enough, as `head` has
                raise
            raise _told(f"{error}; mend that and run the command again") from error
        except (MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and _NO_MEMORY not in str(error):
                raise
            raise _told("there is not enough memory; give a smaller size or batch") from error
        except KeyboardInterrupt as error:
            said = "; ".join(["interrupted", *getattr(error, "__notes__", [])])
            typer.echo(said, err=True)
            raise typer.Exit(INTERRUPTED) from error


def _told(message: str) -> typer.Exit:
    """Say what went wrong; return what ends the command."""
    typer.echo(f"error: {message}", err=True)
    return typer.Exit(BAD_INPUT)


def is_first_process() -> bool:
    """Whether this is the one of several processes of a training that speaks."""
    return os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"


def command_line() -> str:
    """What was typed."""
    return shlex.join(["cellwright", *sys.argv[1:]])


program = typer.Typer(
    cls=Verbs,
    help="Recurrent cells, compiled from their equations: compare them on your own data, train, "
    "predict, stream.",
    epilog="Example: cellwright compare weather",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
