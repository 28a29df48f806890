"""How the values of one tensor become bytes: the table of codecs.

A codec turns an array into a stream and the parameters a reader needs; the parameters go into the file's index, the
stream into its payload. A new way of storing weights is one more codec in this table, and nothing else changes.
``docs/format.md`` has each codec byte by byte.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tersenet.core.registry import Registry
from tersenet.errors import ArtifactError, UnknownNameError

Array = NDArray[Any]
Params = dict[str, int | float | str]
"""What a reader must know to decode a stream; JSON numbers and strings."""


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """One tensor as bytes."""

    stream: bytes

    params: Params


class Codec(Protocol):
    """Array to bytes and back."""

    def encode(self, values: Array, options: Mapping[str, str]) -> Encoded:
        """The bytes of ``values``; ``options`` says how, in the codec's own words."""
        ...

    def num_bytes(self, shape: tuple[int, ...], params: Params) -> int:
        """Length of the stream of an array of this shape.

        Raises:
            ArtifactError: ``params`` make no sense.
        """
        ...

    def decode(self, stream: bytes | memoryview, shape: tuple[int, ...], params: Params) -> Array:
        """The array, exactly as it was encoded; ``stream`` has the length that ``num_bytes`` tells."""
        ...


codecs: Registry[Codec] = Registry("codec")

RAW_DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
"""numpy's names of the number formats that the raw codec knows."""


class RawCodec:
    """Plain little-endian numbers in row-major order; a bool is one byte, 0 or 1."""

    def encode(self, values: Array, options: Mapping[str, str]) -> Encoded:
        """The numbers as they are; option ``dtype`` is one of ``RAW_DTYPES``, values are rounded to it."""
        dtype = _raw_dtype(options["dtype"])
        stream = np.ascontiguousarray(values).astype(dtype).tobytes()
        return Encoded(stream=stream, params={"dtype": options["dtype"]})

    def num_bytes(self, shape: tuple[int, ...], params: Params) -> int:
        """Elements x bytes of one."""
        return math.prod(shape) * int(_raw_dtype(params.get("dtype")).itemsize)

    def decode(self, stream: bytes | memoryview, shape: tuple[int, ...], params: Params) -> Array:
        """The numbers, in the machine's own byte order."""
        dtype = _raw_dtype(params.get("dtype"))
        if dtype == np.bool_:
            bits: Array = np.frombuffer(stream, np.uint8) != 0
            return bits.reshape(shape)
        return np.frombuffer(stream, dtype).astype(dtype.newbyteorder("=")).reshape(shape)


def _raw_dtype(name: object) -> np.dtype[Any]:
    if name not in RAW_DTYPES:
        raise ArtifactError(f"The raw codec knows no number format {name!r}, only {', '.join(RAW_DTYPES)}.")
    return np.dtype(str(name)).newbyteorder("<")


codecs.add("raw", RawCodec())


def codec(name: str) -> Codec:
    """The codec of this name.

    Raises:
        ArtifactError: there is none; the file needs a newer version, or is damaged.
    """
    try:
        return codecs.get(name)
    except UnknownNameError as error:
        raise ArtifactError(f"{error} A newer version of tersenet may know it.") from None
