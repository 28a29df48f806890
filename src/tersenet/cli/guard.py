"""Between a command and the terminal: every failure becomes one line and an exit code.

0 done, 1 target not reached, 2 bad request or failure, 130 interrupted. Tracebacks are shown with ``--debug`` only.
"""

from __future__ import annotations

import functools
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import ParamSpec

import typer

from tersenet.errors import TersenetError

DONE, NOT_REACHED, FAILED, INTERRUPTED = 0, 1, 2, 130
_PIPE_CLOSED = 141  # what a shell reports for a program ended by SIGPIPE

P = ParamSpec("P")


@dataclass
class Settings:
    """What holds for the whole invocation."""

    debug: bool = False


settings = Settings()


def guarded(command: Callable[P, None], *, on_interrupt: str = "stopped.") -> Callable[P, None]:
    """Wrap a command so that what goes wrong ends it with one line on stderr.

    Args:
        command: the function typer calls; its signature is kept.
        on_interrupt: the line for Ctrl-C, without the program's name.
    """

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            command(*args, **kwargs)
        except (typer.Exit, typer.Abort, typer.BadParameter):
            raise
        except KeyboardInterrupt:
            complain(on_interrupt)
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            _silence_stdout()
            raise typer.Exit(_PIPE_CLOSED) from None
        except Exception as error:
            if settings.debug:
                traceback.print_exc()
            complain(_message(error))
            raise typer.Exit(FAILED) from None

    return run


def complain(text: str) -> None:
    """Write one line about a problem to stderr."""
    typer.echo(f"tersenet: {' '.join(text.split())}", err=True)


def _message(error: Exception) -> str:
    from pydantic import ValidationError

    if isinstance(error, TersenetError):
        return str(error)
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        return f"{error.title}: {where + ': ' if where else ''}{first['msg']}. Correct this entry."
    if isinstance(error, OSError) and error.strerror:
        file = f": {error.filename}" if error.filename else ""
        return f"{error.strerror}{file}. Free space or check the permissions, then run the same command again."
    return f"unexpected {type(error).__name__}: {error}; run again with --debug to see where"


def _silence_stdout() -> None:
    # the interpreter flushes stdout once more when it ends, and would complain about the closed pipe
    try:
        descriptor = sys.stdout.fileno()
    except (OSError, ValueError):
        return
    os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
