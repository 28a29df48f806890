"""Whole files or none: what is written under a name is complete, whatever happens on the way.

A file is written beside its final place, flushed to the disk and then renamed, which is atomic within one folder.
"""

from __future__ import annotations

import contextlib
import os
import re
import uuid
from pathlib import Path

from tersenet.errors import ArtifactError, NotFoundError

_TEMPORARY = re.compile(r"\..+\.[0-9a-f]{12}\.tmp")
"""Names of files that are not whole yet."""


def write_whole(path: str | Path, content: bytes) -> int:
    """Write ``content`` under ``path``; on any failure the name holds what it held before, or nothing.

    Returns:
        Bytes of the file on disk.

    Raises:
        NotFoundError: the folder does not exist.
        ArtifactError: the file cannot be written (disk full, no permission, ``path`` is a folder).
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise NotFoundError(f"The folder {str(path.parent)!r} for {path.name!r} does not exist. Create it first.")
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:12]}.tmp")
    try:
        _write_and_flush(temporary, content)
        temporary.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ArtifactError(
            f"{str(path)!r} could not be written: {reason}. Free space or choose another place; "
            "nothing was left behind."
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    _flush_folder(path.parent)
    return path.stat().st_size


def remove_leftovers(folder: str | Path) -> None:
    """Remove what ``write_whole`` had begun in ``folder`` when its process was killed; nobody else may be writing."""
    for leftover in Path(folder).glob(".*.tmp"):
        if _TEMPORARY.fullmatch(leftover.name):
            leftover.unlink(missing_ok=True)


def _write_and_flush(path: Path, content: bytes) -> None:
    with path.open("xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _flush_folder(folder: Path) -> None:
    # A rename is only safe from a power cut once the folder itself is on the disk; not every system can do that.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
