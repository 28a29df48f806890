"""How long work tells what it is doing; the command line draws bars, the library is silent by default."""

from __future__ import annotations

from typing import Protocol


class Progress(Protocol):
    """Receives the course of a run."""

    def start(self, stage: str, total: int, *, done: int = 0) -> None:
        """A stage of ``total`` steps begins; ``done`` of them were made in an earlier, interrupted run."""
        ...

    def update(self, stage: str, done: int, facts: dict[str, str]) -> None:
        """``done`` steps of a running stage are made; ``facts`` is what is worth showing beside the bar."""
        ...

    def finish(self, stage: str) -> None:
        """The stage is over."""
        ...

    def note(self, text: str) -> None:
        """Something a user should read once, such as a group that was locked."""
        ...


class Silent:
    """Shows nothing."""

    def start(self, stage: str, total: int, *, done: int = 0) -> None:
        """Nothing is shown."""

    def update(self, stage: str, done: int, facts: dict[str, str]) -> None:
        """Nothing is shown."""

    def finish(self, stage: str) -> None:
        """Nothing is shown."""

    def note(self, text: str) -> None:
        """Nothing is shown."""
