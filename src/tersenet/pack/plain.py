"""Numbers that are stored as they are, and how wide.

A tensor that the narrow width would spoil is stored in the next wider one: where a finite value would become infinite,
or where rounding would err by more than the format's own 2^-11 of the largest value of a parameter, or of any one value
of a buffer or a folded scale (a running variance is divided by, so that its smallest entries count).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from tersenet.errors import ModelError
from tersenet.pack.codecs import Array, Encoded, encode_constant, encode_raw
from tersenet.pack.index import Dtype

_STORABLE = {
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.int64,
    torch.uint8,
    torch.bool,
}
_ROUNDING = {"float16": 2.0**-11, "float32": 2.0**-24}

_REPEATED_BYTES = 16
"""What is longer and all the same number is a constant; naming one in the index costs about as much."""


def plain_array(tensor: Tensor, name: str) -> Array:
    """The tensor's values; bfloat16 as float32.

    Raises:
        ModelError: it has a number format that cannot be stored.
    """
    values = tensor.detach().cpu()
    if values.layout != torch.strided or values.is_quantized or values.dtype not in _STORABLE:
        raise ModelError(
            f"{name!r} has number format {tensor.dtype} ({tensor.layout}), which a packed file cannot store. "
            "Convert it to float32."
        )
    if values.dtype == torch.bfloat16:
        values = values.float()
    return np.asarray(values.numpy())


def encode_plain(values: Array, *, asked: Dtype, strict: bool) -> Encoded:
    """The values in the width that was asked for, or in the next wider one that does not spoil them.

    Args:
        strict: whether every single value counts, and not only beside the largest one.
    """
    return encode_raw(values, _raw_dtype(values, asked=asked, strict=strict))


def without_repetition(encoded: Encoded) -> Encoded:
    """A constant for a plain tensor that is the same number again and again; everything else as it is."""
    plain = encoded.plain
    if encoded.codec == "raw" and len(plain) > _REPEATED_BYTES:
        dtype = str(encoded.params["dtype"])
        width = np.dtype(dtype).itemsize
        if plain == plain[:width] * (len(plain) // width):
            value = np.frombuffer(plain[:width], np.dtype(dtype).newbyteorder("<")).tolist()[0]
            if dtype != "bool" and math.isfinite(value):
                return encode_constant(value, dtype)
    return encoded


def _raw_dtype(values: Array, *, asked: Dtype, strict: bool) -> str:
    if values.dtype.kind != "f":
        return str(values.dtype)
    if values.dtype == np.float16 or (asked == "fp16" and _fits(values, "float16", strict=strict)):
        return "float16"
    if values.dtype == np.float32 or _fits(values, "float32", strict=strict):
        return "float32"
    return "float64"


def _fits(values: Array, dtype: str, *, strict: bool) -> bool:
    """Whether every value survives rounding to ``dtype`` as well as that format rounds."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = values.astype(dtype).astype(values.dtype)
    finite = np.isfinite(values)
    if not np.array_equal(finite, np.isfinite(rounded)):
        return False
    if not finite.any():
        return True
    size = np.abs(values[finite])
    error = np.abs(rounded[finite] - values[finite])
    scale = size if strict else size.max()
    return bool(np.all(error <= _ROUNDING[dtype] * scale))
