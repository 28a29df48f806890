"""The one command that measures the delivered files again, derived from the command that made them."""

from __future__ import annotations

import shlex
from itertools import pairwise

from tersenet.core.summary import RunSummary

_KEPT = ("--data", "--metric", "--device")


def evaluate_command(run: RunSummary, folder: str | None = None) -> str:
    """The command line that measures the delivered network again on the test split.

    Args:
        run: the finished run; ``provenance["command"]`` says how it was made, if it was made on the command line.
        folder: folder of the run; None takes it from that command.

    Returns:
        A line for a shell. What is not known stands in it as ``RUN_DIR``, or as the names in ``run``.
    """
    words = _words(run.provenance.get("command", ""))
    options = _options(words)
    model = _model(words) or run.model
    line = ["tersenet", "evaluate", folder or options.get("--out", "RUN_DIR"), model]
    kept = {name: options[name] for name in _KEPT if name in options}
    kept.setdefault("--data", run.data)
    for name, value in kept.items():
        line += [name, value]
    return shlex.join(line)


def _words(command: str) -> list[str]:
    try:
        words = shlex.split(command)
    except ValueError:
        return []
    return words[1:] if words[:1] == ["tersenet"] else []


def _options(words: list[str]) -> dict[str, str]:
    pairs = pairwise(words)
    return {word: value for word, value in pairs if word.startswith("--") and not value.startswith("--")}


def _model(words: list[str]) -> str:
    """``compress MODEL ...`` or ``apply POLICY MODEL ...``; the arguments come first in the commands we record."""
    position = {"compress": 1, "apply": 2}.get(words[0], 0) if words else 0
    return words[position] if 0 < position < len(words) and not words[position].startswith("--") else ""
