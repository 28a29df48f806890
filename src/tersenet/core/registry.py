"""A table of named things, filled by ``@register``; a wrong name is answered with the nearest one."""

from __future__ import annotations

import difflib
from typing import Generic, TypeVar

from tersenet.errors import UnknownNameError

T = TypeVar("T")


def unknown_name(kind: str, name: str, known: list[str]) -> UnknownNameError:
    """The error for ``name``: says what kind of thing was asked for, the nearest name and all known names."""
    folded = {entry.casefold(): entry for entry in reversed(known)}
    nearest = difflib.get_close_matches(name.casefold(), list(folded), n=1)
    hint = f" Did you mean {folded[nearest[0]]!r}?" if nearest else ""
    return UnknownNameError(f"No {kind} is called {name!r}.{hint} Known: {', '.join(known)}.")


class Registry(Generic[T]):
    """Names to things of one kind."""

    def __init__(self, kind: str) -> None:
        self._kind = kind
        self._things: dict[str, T] = {}

    def add(self, name: str, thing: T) -> None:
        """Enter ``thing`` under ``name``; a name can be taken once."""
        if name in self._things:
            raise ValueError(f"A {self._kind} called {name!r} is registered already.")
        self._things[name] = thing

    def get(self, name: str) -> T:
        """Look ``name`` up.

        Raises:
            UnknownNameError: nothing has this name; the message gives the nearest one.
        """
        if name not in self._things:
            raise unknown_name(self._kind, name, self.names())
        return self._things[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._things)
