"""Which weights of a tensor stay, as packed bits: what a plan and a policy hold of pruning inside kernels."""

from __future__ import annotations

import base64
import binascii
import math
import zlib
from typing import Annotated

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, model_validator


class Mask(BaseModel, frozen=True, extra="forbid"):
    """One bit per unit of a weight; axes that a unit covers whole have length 1, so that it broadcasts."""

    shape: tuple[Annotated[int, Field(ge=1, le=1 << 31)], ...]
    """Of the units: (O, I, 1, 1) for kernels, (1, 1, h, w) for positions, that of the weight for elements."""

    bits: str
    """One bit per unit in row-major order, 1 for what stays, deflated, in base 64."""

    @model_validator(mode="after")
    def _checked(self) -> Mask:
        self._raw()
        return self

    @classmethod
    def of(cls, stays: NDArray[np.bool_]) -> Mask:
        """The mask of an array of what stays."""
        raw = zlib.compress(np.packbits(stays).tobytes(), 1)
        return cls(shape=stays.shape, bits=base64.b64encode(raw).decode())

    def array(self) -> NDArray[np.bool_]:
        """What stays, shape ``shape``."""
        count = math.prod(self.shape)
        found: NDArray[np.bool_] = np.unpackbits(np.frombuffer(self._raw(), np.uint8), count=count).astype(np.bool_)
        return found.reshape(self.shape)

    def _raw(self) -> bytes:
        expected = -(-math.prod(self.shape) // 8)
        try:
            inflater = zlib.decompressobj()
            raw = inflater.decompress(base64.b64decode(self.bits, validate=True), expected + 1)
        except (binascii.Error, zlib.error) as error:
            raise ValueError(f"bits of a mask cannot be read: {error}") from None
        if len(raw) != expected:
            raise ValueError(f"a mask of shape {self.shape} needs {expected} bytes of bits, got {len(raw)}")
        return raw
