"""Which line of the user's own forward an operator or an error comes from."""

from __future__ import annotations

import os
import re
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType

import torch

_FRAME = re.compile(r'File "([^"]+)", line (\d+), in \S+')
_PACKAGE = Path(__file__).parent.parent
_NOT_THE_USERS = (f"{Path(torch.__file__).parent}{os.sep}", f"{_PACKAGE}{os.sep}", "<")
_NETWORKS = tuple(f"{_PACKAGE / name}{os.sep}" for name in ("models", "testing"))


def _is_users(filename: str) -> bool:
    return filename.startswith(_NETWORKS) or not filename.startswith(_NOT_THE_USERS)


def _last(frames: Iterable[tuple[str, int]]) -> tuple[str, int] | None:
    own = [(filename, number) for filename, number in frames if _is_users(filename)]
    return own[-1] if own else None


def line_of_operator(stack_trace: str | None) -> str:
    """``net.py:12`` for the innermost line that is not PyTorch's or ours; empty if there is none.

    Args:
        stack_trace: as the exporter notes it for each operator.
    """
    found = _last((filename, int(number)) for filename, number in _FRAME.findall(stack_trace or ""))
    return f"{Path(found[0]).name}:{found[1]}" if found else ""


def line_of_error(trace: TracebackType | None) -> str:
    """``line 12 of /path/net.py: x = x.view(2, 8)``, the innermost line that is not PyTorch's or ours; else empty."""
    frames = traceback.extract_tb(trace)
    found = _last((frame.filename, frame.lineno or 0) for frame in frames)
    code = next((f.line for f in reversed(frames) if found and (f.filename, f.lineno or 0) == found), None)
    return f"line {found[1]} of {found[0]}: {code}" if found else ""
