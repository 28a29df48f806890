"""How the values of one tensor become bytes: the table of codecs.

A codec splits a tensor into parameters, which go into the file's index, plain bytes, and small integers for the entropy
coder. A new way of storing weights is one more codec in this table. ``docs/format.md`` has each byte by byte.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tersenet.core.registry import Registry
from tersenet.errors import ArtifactError, UnknownNameError
from tersenet.pack.contexts import MAX_CONTEXTS, may_have_contexts
from tersenet.pack.entropy import MAX_ALPHABET, Coding, Symbols, choose_coding, stream_bytes
from tersenet.transforms.coded import CodedWeights, LinearWeights, SharedWeights

Array = NDArray[Any]
Shape = tuple[int, ...]
Params = dict[str, int | float | str]
"""What a reader must know to decode a tensor; JSON numbers and strings."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """One tensor as it goes into a file."""

    codec: str
    """Its name."""

    params: Params

    plain: bytes = b""
    """What is stored as it is."""

    symbols: Symbols | None = None
    """What is left to the entropy coder."""


class Codec(Protocol):
    """From a file back to a tensor; each codec has an ``encode`` of its own."""

    def num_plain(self, shape: Shape, params: Params) -> int:
        """Plain bytes of a tensor of this shape.

        Raises:
            ArtifactError: ``params`` make no sense.
        """
        ...

    def coding(self, shape: Shape, params: Params) -> Coding | None:
        """How its integers, one per element, are entropy-coded; None if it has none.

        Raises:
            ArtifactError: ``params`` make no sense.
        """
        ...

    def decode(self, plain: bytes | memoryview, symbols: Array, shape: Shape, params: Params) -> Array:
        """The tensor, exactly as it was encoded.

        Args:
            plain: as many bytes as ``num_plain`` tells.
            symbols: what was entropy-coded, of this shape; unused where nothing was.

        Raises:
            ArtifactError: the bytes make no sense.
        """
        ...


codecs: Registry[Codec] = Registry("codec")

RAW_DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool")
"""numpy's names of the number formats that tensors are stored in."""


class RawCodec:
    """Plain little-endian numbers in row-major order; a bool is one byte, 0 or 1."""

    def encode(self, values: Array, dtype: str) -> Encoded:
        """The numbers as they are, rounded to ``dtype``, one of ``RAW_DTYPES``."""
        plain = np.ascontiguousarray(values).astype(_dtype(dtype)).tobytes()
        return Encoded(codec="raw", params={"dtype": dtype}, plain=plain)

    def num_plain(self, shape: Shape, params: Params) -> int:
        """Elements x bytes of one."""
        return math.prod(shape) * int(_dtype(params.get("dtype")).itemsize)

    def coding(self, shape: Shape, params: Params) -> None:
        """Nothing is."""

    def decode(self, plain: bytes | memoryview, symbols: Array, shape: Shape, params: Params) -> Array:
        """The numbers, in the machine's own byte order."""
        dtype = _dtype(params.get("dtype"))
        if dtype == np.bool_:
            bits: Array = np.frombuffer(plain, np.uint8) != 0
            return bits.reshape(shape)
        return np.frombuffer(plain, dtype).astype(dtype.newbyteorder("=")).reshape(shape)


class ConstantCodec:
    """The same number everywhere; no bytes at all."""

    def encode(self, value: float, dtype: str) -> Encoded:
        """The number, rounded to ``dtype``."""
        return Encoded(codec="constant", params={"dtype": dtype, "value": value})

    def num_plain(self, shape: Shape, params: Params) -> int:
        """None."""
        self._value(params)
        return 0

    def coding(self, shape: Shape, params: Params) -> None:
        """Nothing is."""

    def decode(self, plain: bytes | memoryview, symbols: Array, shape: Shape, params: Params) -> Array:
        """The number, everywhere."""
        return np.full(shape, self._value(params))

    def _value(self, params: Params) -> Any:
        dtype, value = _dtype(params.get("dtype")).newbyteorder("="), params.get("value")
        if isinstance(value, int | float):
            try:
                with np.errstate(over="ignore"):
                    found = np.full((), value, dtype)[()]
                if np.isfinite(found) and (dtype.kind == "f" or found == value):
                    return found
            except (OverflowError, ValueError):
                pass
        raise ArtifactError(f"a constant of number format {dtype} cannot be {str(value)[:40]}.")


class ClustersCodec:
    """Codebooks, plain, and an entropy-coded index per weight."""

    def encode(self, weights: SharedWeights) -> Encoded:
        """The weights as they are."""
        num_codebooks, entries = weights.codebooks.shape
        symbols = choose_coding(np.ascontiguousarray(weights.indices), entries)
        params: Params = {
            "dtype": weights.codebooks.dtype.name,
            "entries": entries,
            "channels": weights.channels_per_codebook if num_codebooks > 1 else 0,
            "axis": weights.axis,
            "contexts": symbols.coding.contexts,
        }
        plain = weights.codebooks.astype(_dtype(params["dtype"])).tobytes()
        return Encoded(codec="clusters", params=params, plain=plain, symbols=symbols)

    def num_plain(self, shape: Shape, params: Params) -> int:
        """Codebooks x entries x bytes of one."""
        num_channels, channels = _num_channels(shape, params), _integer(params, "channels", 0, 1 << 40)
        num_codebooks = -(-num_channels // channels) if channels else 1
        return num_codebooks * _integer(params, "entries", 1, MAX_ALPHABET) * _float_bytes(params)

    def coding(self, shape: Shape, params: Params) -> Coding:
        """Entries of a codebook."""
        return _coding(shape, params, alphabet=_integer(params, "entries", 1, MAX_ALPHABET))

    def decode(self, plain: bytes | memoryview, symbols: Array, shape: Shape, params: Params) -> Array:
        """The weights, float32."""
        codebooks = _plain_floats(plain, params).reshape(-1, int(params["entries"]))
        if np.any(np.diff(codebooks.astype(np.float64), axis=1) < 0):
            raise ArtifactError("the entries of a codebook do not ascend.")
        weights = SharedWeights(
            codebooks=codebooks,
            indices=symbols,
            axis=int(params["axis"]),
            channels_per_codebook=int(params["channels"]) or _num_channels(shape, params),
        )
        return weights.values()


class LinearCodec:
    """A scale per output channel, plain, and an entropy-coded integer per weight."""

    def encode(self, weights: LinearWeights) -> Encoded:
        """The weights as they are."""
        bits = weights.weight_bits
        integers = np.ascontiguousarray(weights.integers).astype(np.int16)
        values = integers > 0 if bits == 1 else integers + _largest(bits)
        symbols = choose_coding(values.astype(np.uint8), _num_integers(bits))
        params: Params = {
            "dtype": weights.scales.dtype.name,
            "bits": bits,
            "axis": weights.axis,
            "contexts": symbols.coding.contexts,
        }
        plain = weights.scales.astype(_dtype(params["dtype"])).tobytes()
        return Encoded(codec="linear", params=params, plain=plain, symbols=symbols)

    def num_plain(self, shape: Shape, params: Params) -> int:
        """Output channels x bytes of one scale."""
        return _num_channels(shape, params) * _float_bytes(params)

    def coding(self, shape: Shape, params: Params) -> Coding:
        """Integers of this width, the lowest one left out."""
        return _coding(shape, params, alphabet=_num_integers(_integer(params, "bits", 1, 8)))

    def decode(self, plain: bytes | memoryview, symbols: Array, shape: Shape, params: Params) -> Array:
        """The weights, float32."""
        bits = _integer(params, "bits", 1, 8)
        scales = _plain_floats(plain, params)
        integers = symbols.astype(np.int16)
        integers = 2 * integers - 1 if bits == 1 else integers - _largest(bits)
        weights = LinearWeights(
            integers=integers.astype(np.int8), scales=scales, weight_bits=bits, axis=int(params["axis"])
        )
        return weights.values()


_RAW = RawCodec()
_CONSTANT = ConstantCodec()
_CLUSTERS = ClustersCodec()
_LINEAR = LinearCodec()
codecs.add("raw", _RAW)
codecs.add("constant", _CONSTANT)
codecs.add("clusters", _CLUSTERS)
codecs.add("linear", _LINEAR)
encode_raw = _RAW.encode
encode_constant = _CONSTANT.encode


def encode_coded(weights: CodedWeights) -> Encoded:
    """Weights in either coded form, which must be consistent in themselves."""
    return _CLUSTERS.encode(weights) if isinstance(weights, SharedWeights) else _LINEAR.encode(weights)


def decoded(encoded: Encoded, shape: Shape) -> Array:
    """What a reader of the file makes of a tensor of this shape."""
    symbols = np.empty(0, np.uint8) if encoded.symbols is None else encoded.symbols.values
    return codec(encoded.codec).decode(encoded.plain, symbols, shape, encoded.params)


def coded_bytes(weights: CodedWeights) -> float:
    """Bytes that the weights take in a packed file: codebooks or scales, and their share of the entropy-coded stream.

    Nothing is coded for it. What the tensor adds to the file's index is in ``estimate_overhead``.
    """
    return num_bytes(encode_coded(weights))


def num_bytes(encoded: Encoded) -> float:
    """Bytes of a tensor's values: exact if they are plain, close if they are entropy-coded."""
    return len(encoded.plain) + (0.0 if encoded.symbols is None else stream_bytes(encoded.symbols))


def codec(name: str) -> Codec:
    """The codec of this name.

    Raises:
        ArtifactError: there is none; the file needs a newer version, or is damaged.
    """
    try:
        return codecs.get(name)
    except UnknownNameError as error:
        raise ArtifactError(f"{error} A newer version of tersenet may know it.") from None


def _dtype(name: object) -> np.dtype[Any]:
    if name not in RAW_DTYPES:
        raise ArtifactError(f"The packed file knows no number format {name!r}, only {', '.join(RAW_DTYPES)}.")
    return np.dtype(str(name)).newbyteorder("<")


def _float_bytes(params: Params) -> int:
    dtype = params.get("dtype")
    if dtype not in ("float16", "float32"):
        raise ArtifactError(f"codebooks and scales cannot have number format {dtype!r}, only float16 and float32.")
    return int(_dtype(dtype).itemsize)


def _plain_floats(plain: bytes | memoryview, params: Params) -> Array:
    dtype = _dtype(params.get("dtype"))
    values = np.frombuffer(plain, dtype).astype(dtype.newbyteorder("="))
    if not np.isfinite(values).all():
        raise ArtifactError("a codebook or scale is not a finite number.")
    return values


def _num_channels(shape: Shape, params: Params) -> int:
    axis = _integer(params, "axis", 0, 1)
    if math.prod(shape) == 0 or axis >= len(shape):
        raise ArtifactError(f"weights of shape {shape} have no output channels on axis {axis}.")
    return shape[axis]


def _coding(shape: Shape, params: Params, *, alphabet: int) -> Coding:
    contexts = _integer(params, "contexts", 0, MAX_CONTEXTS)
    if contexts and not may_have_contexts(shape):
        raise ArtifactError(f"weights of shape {shape} cannot have contexts.")
    return Coding(alphabet=alphabet, contexts=contexts)


def _integer(params: Params, name: str, lowest: int, highest: int) -> int:
    value = params.get(name)
    if type(value) is not int or not lowest <= value <= highest:
        raise ArtifactError(f"a codec's {name} must be {lowest} to {highest}, got {str(value)[:40]}.")
    return value


def _largest(bits: int) -> int:
    return int((1 << (bits - 1)) - 1)


def _num_integers(bits: int) -> int:
    return max(2, 2 * _largest(bits) + 1)
