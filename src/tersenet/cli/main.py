"""The command ``tersenet``: options for every command, and the table of commands."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tersenet.cli.apply import apply
from tersenet.cli.compress import compress
from tersenet.cli.evaluate import evaluate
from tersenet.cli.guard import guarded, settings
from tersenet.cli.inspect import inspect
from tersenet.cli.recipes import recipes
from tersenet.cli.report import report
from tersenet.cli.train import train

app = typer.Typer(
    name="tersenet", no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich"
)

_CONTINUES = "stopped; nothing is lost, the same command continues."


def _show_version(wanted: bool) -> None:
    if wanted:
        from tersenet.core.version import __version__

        typer.echo(f"tersenet {__version__}")
        raise typer.Exit


Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks.")]
Version = Annotated[bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")]


@app.callback()
def root(debug: Debug = False, version: Version = False) -> None:
    """Learns how far each layer of a trained CNN can be compressed, and writes the smaller network.

    Exit codes: 0 done, 1 target not reached, 2 bad request.
    """
    settings.debug = debug


app.command()(guarded(compress, on_interrupt=_CONTINUES))
app.command()(guarded(apply, on_interrupt=_CONTINUES))
app.command()(guarded(train, on_interrupt=_CONTINUES))
app.command()(guarded(inspect))
app.command()(guarded(recipes))
app.command()(guarded(evaluate))
app.command()(guarded(report))


def main() -> None:
    """Run the command line; ``--debug`` may stand anywhere."""
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    if len(arguments) < len(sys.argv) - 1:
        arguments = ["--debug", *arguments]
    app(args=arguments, prog_name="tersenet")
