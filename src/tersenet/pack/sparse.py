"""Plain numbers of a weight many of whose 2-D kernels are zero: a bit per kernel, and the numbers of the others.

A kernel is what lies at one place of the first two axes; of a linear layer's weight it is a single number. ``docs/
format.md`` has the bytes.
"""

from __future__ import annotations

import math

import numpy as np

from tersenet.errors import ArtifactError
from tersenet.pack.codecs import Array, Encoded, Params, Shape, codec, codecs

SPARSE = "sparse"
_FLOATS = ("float16", "float32", "float64")


class SparseCodec:
    """Which kernels are there, then their numbers, both plain."""

    def encode(self, values: Array, dtype: str) -> Encoded:
        """The kernels with a bit that is not zero, rounded to ``dtype``."""
        kernels_KF = _kernels(values.astype(np.dtype(dtype).newbyteorder("<")))
        there = _is_there(kernels_KF)
        plain = np.packbits(there, bitorder="little").tobytes() + kernels_KF[there].tobytes()
        return Encoded(codec=SPARSE, params={"dtype": dtype, "kernels": int(there.sum())}, plain=plain)

    def num_plain(self, shape: Shape, params: Params) -> int:
        """A bit per kernel, in whole bytes, and the numbers of those that are there."""
        num_kernels, size = _sizes(shape)
        return -(-num_kernels // 8) + _num_there(params, num_kernels) * size * _width(params).itemsize

    def coding(self, shape: Shape, params: Params) -> None:
        """Nothing is entropy-coded."""

    def decode(self, plain: bytes | memoryview, symbols: Array, shape: Shape, params: Params) -> Array:
        """The numbers, zero where no kernel is."""
        num_kernels, size = _sizes(shape)
        num_bytes, dtype = -(-num_kernels // 8), _width(params)
        bits = np.unpackbits(np.frombuffer(plain[:num_bytes], np.uint8), bitorder="little")
        there = bits[:num_kernels].astype(np.bool_)
        if bits.sum() != there.sum() or there.sum() != _num_there(params, num_kernels):
            raise ArtifactError("the bits of a sparse weight do not tell as many kernels as the index does.")
        kernels_KF = np.zeros((num_kernels, size), dtype.newbyteorder("="))
        kernels_KF[there] = np.frombuffer(plain[num_bytes:], dtype).reshape(-1, size)
        return kernels_KF.reshape(shape)


_SPARSE = SparseCodec()
codecs.add(SPARSE, _SPARSE)


def without_zeros(encoded: Encoded, shape: Shape) -> Encoded:
    """The sparse form of a plain weight where that is shorter; everything else as it is."""
    dtype = str(encoded.params.get("dtype"))
    if encoded.codec != "raw" or dtype not in _FLOATS or len(shape) < 2 or not math.prod(shape):
        return encoded
    values = codec("raw").decode(encoded.plain, np.empty(0, np.uint8), shape, encoded.params)
    num_kernels, size = _sizes(shape)
    kept = int(_is_there(_kernels(values)).sum()) * size * values.dtype.itemsize
    return _SPARSE.encode(values, dtype) if -(-num_kernels // 8) + kept < len(encoded.plain) else encoded


def _is_there(kernels_KF: Array) -> Array:
    """Kernels with any bit set, so that a negative zero is kept as it is."""
    return np.asarray(np.ascontiguousarray(kernels_KF).view(np.uint8).any(axis=1))


def _kernels(values: Array) -> Array:
    return np.ascontiguousarray(values).reshape(_sizes(values.shape))


def _sizes(shape: Shape) -> tuple[int, int]:
    """Number of kernels, and numbers in one."""
    if len(shape) < 2 or math.prod(shape) == 0:
        raise ArtifactError(f"weights of shape {shape} have no kernels.")
    return math.prod(shape[:2]), math.prod(shape[2:])


def _num_there(params: Params, num_kernels: int) -> int:
    number = params.get("kernels")
    if type(number) is not int or not 0 <= number <= num_kernels:
        raise ArtifactError(f"a sparse weight's kernels must be 0 to {num_kernels}, got {str(number)[:40]}.")
    return number


def _width(params: Params) -> np.dtype[np.generic]:
    if params.get("dtype") not in _FLOATS:
        raise ArtifactError(f"a sparse weight cannot have number format {str(params.get('dtype'))[:40]!r}.")
    return np.dtype(str(params["dtype"])).newbyteorder("<")
