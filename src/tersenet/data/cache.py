"""Decoded arrays kept between processes, so that a slow archive is unpacked once.

The folder is ``TERSENET_CACHE`` or ``~/.cache/tersenet``. A file holds the sha256 of its contents; one that does not
match is treated as absent and written again. Without a writable folder everything works, only slower.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_DIGEST_BYTES = 32


def cache_folder() -> Path:
    """Where decoded arrays are kept."""
    chosen = os.environ.get("TERSENET_CACHE")
    return Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "tersenet"


def read_cached(key: str) -> NDArray[np.uint8] | None:
    """The bytes kept under ``key``, shape (N,), or None where there are none or they are damaged."""
    try:
        # Copy on write: pages are shared between processes, and nobody can damage the file.
        kept = np.memmap(_path(key), dtype=np.uint8, mode="c")
    except (OSError, ValueError):
        return None
    digest, values = bytes(kept[:_DIGEST_BYTES]), kept[_DIGEST_BYTES:]
    return np.asarray(values) if hashlib.sha256(values.data).digest() == digest else None


def write_cached(key: str, values: NDArray[np.uint8]) -> None:
    """Keep ``values``, shape (N,), under ``key``; a folder that cannot be written is no reason to stop."""
    path = _path(key)
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.stem, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(hashlib.sha256(values.data).digest())
                file.write(values.data)
            Path(temporary).replace(path)
        except OSError:
            Path(temporary).unlink(missing_ok=True)


def _path(key: str) -> Path:
    return cache_folder() / f"{hashlib.sha256(key.encode()).hexdigest()[:32]}.bytes"
