"""Small integers in few bytes, read again with divisions that a runtime folds when it loads the file.

Numbers below ``base`` are the digits of larger numbers: as many digits as fit into one to seven bytes. Eight digits
below 8 take three bytes, five below 3 take one, twelve below 10 take five: within 5 % of the entropy of equally
frequent numbers for every base up to 256, without an entropy coder, in operators that every opset from 13 on has.

Digits and bytes lie in planes, the first digits of all words, then the second ones: runtimes divide long rows about
ten times as fast as short ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MAX_BYTES = 7
"""56 bits: words stay positive as int64, whose division runtimes have."""

MAX_BASE = 65537
"""65,536 shared values and a zero."""

_WORTH_A_WIDE_WORD = 0.95
"""Words of more than three bytes need int64, twice the memory at load: only for files at least this much smaller."""

_MOST_WIDE_DIGITS = 2**20
"""More are never in wide words: at load onnxruntime would take 50 bytes for each; 30 in narrow ones, 15 as fp32."""


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How digits below ``base`` become bytes: ``digits_per_word`` of them in ``bytes_per_word``."""

    base: int
    bytes_per_word: int
    digits_per_word: int

    @property
    def largest_base(self) -> int:
        """Digits below this one take the same bytes."""
        base = max(self.base, int(256 ** (self.bytes_per_word / self.digits_per_word)) - 1)  # floats round either way
        while (base + 1) ** self.digits_per_word <= 256**self.bytes_per_word:
            base += 1
        return min(base, MAX_BASE)

    @property
    def is_wide(self) -> bool:
        """Whether words need int64."""
        return self.bytes_per_word > 3

    def num_words(self, count: int) -> int:
        """Words that hold ``count`` digits."""
        return -(-count // self.digits_per_word)

    def num_bytes(self, count: int) -> int:
        """Bytes that ``count`` digits take."""
        return self.num_words(count) * self.bytes_per_word


def packing_for(base: int, count: int = 1) -> Packing:
    """The packing of so many digits below ``base`` with the fewest bytes per digit, leaning towards short words.

    Raises:
        ValueError: ``base`` is below 1 or above 65,537.
    """
    if not 1 <= base <= MAX_BASE:
        raise ValueError(f"base must be between 1 and {MAX_BASE}, got {base}.")
    return _best(max(base, 2), _MAX_BYTES if count <= _MOST_WIDE_DIGITS else 3)


@lru_cache(maxsize=1024)
def _best(base: int, max_bytes: int) -> Packing:
    options = [
        Packing(base=base, bytes_per_word=width, digits_per_word=_digits_in(width, base))
        for width in range(1, max_bytes + 1)
        if base <= 256**width
    ]

    def cost(option: Packing) -> float:
        share = option.bytes_per_word / option.digits_per_word
        return share if option.is_wide else share * _WORTH_A_WIDE_WORD

    return min(options, key=cost)  # the first of equals has the shortest words


def packed_size(count: int, base: int) -> int:
    """Bytes that so many digits below ``base`` take."""
    return packing_for(base, count).num_bytes(count)


def _digits_in(width: int, base: int) -> int:
    digits = 1
    while base ** (digits + 1) <= 256**width:
        digits += 1
    return digits


def pack_digits(digits: NDArray[Any], packing: Packing) -> NDArray[np.uint8]:
    """Write digits as bytes.

    Args:
        digits: integers below ``packing.base``, any shape, read in order.
        packing: how.

    Returns:
        uint8, shape (bytes_per_word, words); row 0 holds the lowest bytes. What is missing of the last words is 0.
    """
    assert digits.min() >= 0
    assert digits.max() < packing.base
    planes = np.zeros((packing.digits_per_word, packing.num_words(digits.size)), np.int64)
    planes.reshape(-1)[: digits.size] = digits.reshape(-1)
    words = np.zeros(planes.shape[1], np.int64)
    for plane in planes[::-1]:
        words = words * packing.base + plane
    shifts = 8 * np.arange(packing.bytes_per_word)[:, None]
    return ((words >> shifts) & 255).astype(np.uint8)
