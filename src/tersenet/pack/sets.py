"""Lists of kept positions as short text: a set bit per block of positions.

A plan keeps many lists such as "channels 0, 2, 3 and 7", and the columns of a linear layer behind a flatten repeat
each channel's bit once per pixel. So a list is a unit (positions per bit) and a row of bits, lowest first.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence

import numpy as np

from tersenet.errors import ArtifactError

MAX_POSITIONS = 1 << 22
"""Most positions that all lists of one file may name together; VGG-16's plan names about 60,000."""

BlockSet = tuple[int, str]
"""Positions per bit, and the bits as base64 (lowest bit of the first byte is block 0)."""


def encode_set(positions: Sequence[int]) -> BlockSet:
    """Ascending positions to bits.

    Raises:
        ValueError: the positions do not ascend, or one is negative.
    """
    values = np.asarray(positions, dtype=np.int64)
    if len(values) == 0:
        return 1, ""
    if values[0] < 0 or np.any(np.diff(values) <= 0):
        raise ValueError(f"positions must ascend from 0 or above, got {list(positions)[:8]}")
    breaks = np.flatnonzero(np.diff(values) > 1)
    starts = values[np.concatenate(([0], breaks + 1))]
    ends = values[np.concatenate((breaks, [len(values) - 1]))] + 1
    unit = int(np.gcd.reduce(np.concatenate((starts, ends))))
    bits = np.zeros(int(ends[-1]) // unit, dtype=np.uint8)
    bits[values[::unit] // unit] = 1
    return unit, base64.b64encode(np.packbits(bits, bitorder="little").tobytes()).decode()


def decode_sets(encoded: Sequence[BlockSet]) -> list[tuple[int, ...]]:
    """Bits back to positions, for all lists of one file.

    Raises:
        ArtifactError: text that is no base64, or more positions than any real file names.
    """
    left = MAX_POSITIONS
    found = []
    for unit, text in encoded:
        try:
            packed = np.frombuffer(base64.b64decode(text, validate=True), dtype=np.uint8)
        except (binascii.Error, ValueError):
            raise ArtifactError("a list of kept positions is damaged.") from None
        blocks = np.flatnonzero(np.unpackbits(packed, bitorder="little"))
        # Before the positions are made: a unit of a billion needs only ten characters.
        left -= unit * len(blocks)
        if unit < 1 or unit * len(packed) > MAX_POSITIONS or left < 0:
            raise ArtifactError(f"its lists of kept positions are longer than the {MAX_POSITIONS} a file may name.")
        found.append(tuple((blocks[:, None] * unit + np.arange(unit)).ravel().tolist()))
    return found
