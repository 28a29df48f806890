"""The course of a run on stderr: bars with the time left in a terminal, single lines everywhere else."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from tersenet.core.progress import Progress as ProgressProtocol
from tersenet.report import formats

_MOST_COUNTED = 9999


@contextmanager
def open_progress() -> Iterator[ProgressProtocol]:
    """Progress for the length of one command; bars are taken down however it ends."""
    if not sys.stderr.isatty():
        yield LineProgress()
        return
    bars = BarProgress(Console(stderr=True, markup=False, highlight=False, emoji=False))
    try:
        yield bars
    finally:
        bars.close()


class _Done(ProgressColumn):
    """``12/200`` for trials, ``42 %`` where steps are too many to be counted by a reader."""

    def render(self, task: Task) -> Text:
        total = int(task.total or 0)
        if total > _MOST_COUNTED:
            return Text(f"{task.percentage:>3.0f} %")
        return Text(f"{int(task.completed)}/{total}")


class BarProgress:
    """One bar per running stage; finished bars stay on the screen."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}

    def start(self, stage: str, total: int, *, done: int = 0) -> None:
        """Show a bar."""
        if self._bars is None:
            self._bars = Progress(
                TextColumn("{task.description:<16}", markup=False),
                BarColumn(bar_width=24),
                _Done(),
                TimeRemainingColumn(compact=True, elapsed_when_finished=True),
                TextColumn("{task.fields[facts]}", markup=False),
                console=self._console,
                speed_estimate_period=3600.0,
            )
            self._bars.start()
        if stage in self._tasks:
            self._bars.remove_task(self._tasks.pop(stage))
        self._tasks[stage] = self._bars.add_task(stage, total=total, completed=done, facts="")

    def update(self, stage: str, done: int, facts: dict[str, str]) -> None:
        """Move the bar of ``stage``."""
        if self._bars is not None and stage in self._tasks:
            self._bars.update(self._tasks[stage], completed=done, facts=_join(facts))

    def finish(self, stage: str) -> None:
        """Leave the bar of ``stage`` as it is."""
        if self._bars is None or self._tasks.pop(stage, None) is None:
            return
        if not self._tasks:
            self.close()

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(f"note: {text}")

    def close(self) -> None:
        """Give the terminal back."""
        if self._bars is not None:
            self._bars.stop()
        self._bars = None
        self._tasks = {}


class LineProgress:
    """One line when a stage starts and one when it ends, for logs."""

    def __init__(self) -> None:
        self._started: dict[str, float] = {}
        self._facts: dict[str, str] = {}

    def start(self, stage: str, total: int, *, done: int = 0) -> None:
        """Say that the stage runs, and what an earlier run left of it."""
        self._started[stage] = time.monotonic()
        already = f", {done} of {total} were done before" if done else ""
        typer.echo(f"{stage}: started{already}", err=True)

    def update(self, stage: str, done: int, facts: dict[str, str]) -> None:
        """Remember the latest facts; nothing is printed."""
        self._facts[stage] = _join(facts)

    def finish(self, stage: str) -> None:
        """Say how long it took and what came of it."""
        began = self._started.pop(stage, time.monotonic())
        facts = self._facts.pop(stage, "")
        took = formats.seconds(time.monotonic() - began)
        typer.echo(f"{stage}: done in {took}{', ' + facts if facts else ''}", err=True)

    def note(self, text: str) -> None:
        """Print the note."""
        typer.echo(f"note: {text}", err=True)


def _join(facts: dict[str, str]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())
