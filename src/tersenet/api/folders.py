"""The folder of a run: refused while it is still free to do so where nothing could be written into it."""

from __future__ import annotations

import os
from pathlib import Path

from tersenet.errors import StudyError


def check_folder(folder: str | Path) -> None:
    """Refuse a folder that cannot be made or written into, without making it.

    Raises:
        StudyError: a file stands in its place, or its first existing parent cannot be written.
    """
    folder = Path(folder)
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not existing.is_dir():
        raise StudyError(f"out: {folder} cannot be a folder, because {existing} is a file. Choose another --out.")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise StudyError(f"out: {folder} cannot be written, no permission for {existing}. Choose another --out.")


def make_folder(folder: str | Path) -> Path:
    """Make a folder and those above it, where they do not exist.

    Raises:
        StudyError: it cannot be made or written.
    """
    check_folder(folder)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StudyError(f"out: {folder} cannot be made: {error.strerror or error}. Choose another --out.") from error
    return folder
