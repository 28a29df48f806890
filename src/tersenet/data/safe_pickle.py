"""Reads the pickles of CIFAR-10 without running any code that a pickle names.

The format is a program; an ordinary reader imports and calls whatever it asks for. Here the four names that these
files use stand for harmless stand-ins of our own, and any other name is refused.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tersenet.errors import DataError


class _DType:
    """Stands for ``numpy.dtype``: remembers which type was asked for."""

    def __init__(self, kind: bytes | str, *_: object) -> None:
        self.kind = kind if isinstance(kind, str) else kind.decode("ascii", "replace")

    def __setstate__(self, state: object) -> None:
        """Byte order and alignment mean nothing for single bytes."""


class _Array:
    """Stands for ``numpy.ndarray``: remembers shape and bytes."""

    def __init__(self) -> None:
        self.values: NDArray[np.uint8] | None = None

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        _, shape, dtype, is_fortran, raw = state
        if not isinstance(dtype, _DType) or dtype.kind != "u1" or is_fortran or not isinstance(raw, bytes):
            raise pickle.UnpicklingError("an array is not of plain unsigned bytes")
        self.values = np.frombuffer(raw, dtype=np.uint8).reshape(shape)


def _new_array(*_: object) -> _Array:
    return _Array()


def _encode(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text is encoded as {encoding!r}")
    return text.encode("latin1")


_KNOWN: dict[tuple[str, str], Any] = {
    ("numpy.core.multiarray", "_reconstruct"): _new_array,
    ("numpy._core.multiarray", "_reconstruct"): _new_array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _encode,
}


class _Reader(pickle.Unpickler):
    """Resolves only the names above."""

    def find_class(self, module_name: str, global_name: str, /) -> Any:
        if (module_name, global_name) not in _KNOWN:
            raise pickle.UnpicklingError(f"it names {module_name}.{global_name}, which no CIFAR-10 file does")
        return _KNOWN[module_name, global_name]

    def persistent_load(self, pid: object) -> Any:
        raise pickle.UnpicklingError("it refers to something outside the file")


def read_pickled_dict(raw: bytes, *, where: str) -> dict[bytes, Any]:
    """Read a pickled dictionary of plain values and byte arrays.

    Args:
        raw: the whole file.
        where: what to name in the message.

    Returns:
        Keys as bytes; arrays of unsigned bytes as numpy arrays.

    Raises:
        DataError: the file is damaged, holds something else, or asks for code to be run.
    """
    try:
        found = _Reader(io.BytesIO(raw), encoding="bytes").load()
    except Exception as error:  # a damaged pickle can fail in any way
        raise DataError(f"{where}: this is not a CIFAR-10 file ({error}). Download it again.") from error
    if not isinstance(found, dict):
        raise DataError(f"{where}: this is not a CIFAR-10 file (it holds no dictionary). Download it again.")
    plain = {key.encode() if isinstance(key, str) else key: value for key, value in found.items()}
    return {key: value.values if isinstance(value, _Array) else value for key, value in plain.items()}
