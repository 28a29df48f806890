"""The entropy coder: all small integers of a file as one stream, near or below the entropy of each tensor.

Frequencies are not stored. The model of a context (``pack/contexts.py``; a tensor without kernels has one) counts the
symbols it has seen, beginning with one of each, and is renewed after 8 symbols and later after every sixteenth more: a
hundred tables for 40,000 weights, so that coding is as fast as with a fixed one. All tensors share one coder, so that
none pays for a last word of its own.

Measured without contexts, on ResNet-20, ResNet-56 and MobileNetV2 with 4 to 32 clusters and 2 to 4 bits: 0.04 to 0.3 %
above the empirical entropy. Counting after every symbol would save 0.1 % of that; other first counts than one, nothing.

The coder is constriction's stack (asymmetric numeral systems, 32-bit words, 64-bit state) with 24 bits of precision.
The frequencies handed to it are integers that it does not round, so that a reader needs integer arithmetic alone:
``docs/format.md`` describes it, ``examples/read_packed.py`` does it.

Source: Duda 2013, arXiv:1311.2540; Bamler 2022, arXiv:2201.01741 (constriction).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from constriction import stream
from numpy.typing import NDArray
from scipy.special import gammaln

from tersenet.errors import ArtifactError
from tersenet.pack.contexts import NUM_CONTEXTS, Integers, Shape, from_planes, may_have_contexts, to_planes, walk

PRECISION = 24
"""Bits of a frequency: those of one context's symbols add up to 2^24."""

FIRST_BLOCK = 8
"""Fewest symbols that are coded with one table."""

BLOCK_SHARE = 16
"""Later tables serve this part of what was coded before them: one sixteenth."""

MAX_ALPHABET = 1 << 16
"""Most different symbols of a tensor."""

_CHUNK = 1 << 20
"""Symbols handed to the coder at once: it wants four bytes for each."""


@dataclass(frozen=True, kw_only=True)
class Coding:
    """What a reader must know to take a tensor's symbols out of the stream."""

    alphabet: int
    """Symbols are 0 to ``alphabet - 1``."""

    contexts: int = 0
    """Contexts of weights that have neighbours; 0 if all share one, in row-major order."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Symbols:
    """The small integers of one tensor."""

    values: Integers
    """uint8 or uint16, shape of the tensor."""

    coding: Coding


def choose_coding(values: Integers, alphabet: int) -> Symbols:
    """The symbols with or without contexts, whichever is shorter."""
    plain = Symbols(values=values, coding=Coding(alphabet=alphabet))
    if alphabet < 2 or not may_have_contexts(values.shape):
        return plain
    rich = Symbols(values=values, coding=Coding(alphabet=alphabet, contexts=NUM_CONTEXTS))
    return min(plain, rich, key=stream_bytes)


def stream_bytes(symbols: Symbols) -> float:
    """Bytes that the symbols of one tensor take in a packed file.

    The length of a code that counts after every symbol, which no order within a context changes. The file's own code
    was 0.1 to 0.4 % longer on the weights of trained networks.
    """
    if symbols.coding.alphabet < 2:
        return 0.0
    planes = to_planes(symbols.values, symbols.coding.contexts)
    counts = np.zeros((symbols.coding.contexts + 1, symbols.coding.alphabet), dtype=np.int64)
    for context, position, which in walk(planes, symbols.values.shape, symbols.coding.contexts):
        counts[context] += _count(planes[position, which], symbols.coding.alphabet)
    alphabet = symbols.coding.alphabet
    nats = gammaln(counts.sum(axis=1) + alphabet) - gammaln(alphabet) - gammaln(counts + 1.0).sum(axis=1)
    return float(nats.sum()) / math.log(2.0) / 8.0


def cumulative_frequencies(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """How much of the range 0 to 2^24 each symbol has, as n + 1 bounds; every symbol has at least 1.

    Args:
        counts: how often each of n symbols has been seen, shape (n,), less than 2^38 together.
    """
    bounds = np.zeros(len(counts) + 1, dtype=np.int64)
    np.cumsum(counts + 1, out=bounds[1:])
    places: NDArray[np.int64] = bounds * ((1 << PRECISION) - len(counts)) // bounds[-1] + np.arange(len(bounds))
    return places


def encode_streams(tensors: Sequence[Symbols]) -> bytes:
    """All tensors' symbols as little-endian 32-bit words; the last one is read first."""
    coder = stream.stack.AnsCoder()
    for symbols in reversed(tensors):  # a stack: what is written last is read first
        if symbols.coding.alphabet > 1:
            _push(coder, symbols)
    words: NDArray[np.uint32] = coder.get_compressed()
    return words.astype("<u4").tobytes()


class SymbolReader:
    """Takes the tensors' symbols out of a stream again, in order."""

    def __init__(self, words: bytes | memoryview) -> None:
        """Begin at the end of the words that ``encode_streams`` made.

        Raises:
            ArtifactError: it cannot have made them.
        """
        if len(words) % 4:
            raise ArtifactError(f"its entropy-coded stream has {len(words)} bytes, no whole number of words.")
        try:
            self._coder = stream.stack.AnsCoder(np.frombuffer(words, "<u4").astype(np.uint32))
        except ValueError:
            raise ArtifactError("its entropy-coded stream ends in a word of zeros.") from None

    def num_bits(self) -> int:
        """Bits that are left."""
        return int(self._coder.num_valid_bits())

    def read(self, shape: Shape, coding: Coding | None) -> Integers:
        """The next tensor's symbols, uint8 or uint16; none, shape (0,), if nothing of it is coded."""
        if coding is None:
            return np.empty(0, np.uint8)
        values = np.zeros(shape, dtype=symbol_dtype(coding.alphabet))
        if coding.alphabet < 2:
            return values
        planes = to_planes(values, coding.contexts)
        counts = np.zeros((coding.contexts + 1, coding.alphabet), dtype=np.int64)
        for context, position, which in walk(planes, shape, coding.contexts):
            run = planes[position, which]
            self._fill(run, counts[context])
            planes[position, which] = run
        return from_planes(planes, shape, coding.contexts)

    def finish(self) -> None:
        """Check that nothing is left.

        Raises:
            ArtifactError: something is; the stream is damaged.
        """
        if not self._coder.is_empty():
            raise ArtifactError("its entropy-coded stream does not end with its last symbol, so it is damaged.")

    def _fill(self, run: Integers, counts: NDArray[np.int64]) -> None:
        """Read a run of one context into ``run``, and count it."""
        for start, stop in _blocks(int(counts.sum()), len(run)):
            model = _model(counts)
            for first in range(start, stop, _CHUNK):
                part = self._coder.decode(model, min(_CHUNK, stop - first))
                run[first : first + len(part)] = part
                counts += np.bincount(part, minlength=len(counts))


def symbol_dtype(alphabet: int) -> type[np.uint8] | type[np.uint16]:
    """The narrowest integers that hold symbols below ``alphabet``."""
    return np.uint8 if alphabet <= 256 else np.uint16


def _push(coder: Any, symbols: Symbols) -> None:
    contexts, alphabet = symbols.coding.contexts, symbols.coding.alphabet
    planes = to_planes(symbols.values, contexts)
    runs = [(one, planes[position, which]) for one, position, which in walk(planes, symbols.values.shape, contexts)]
    counts = np.zeros((contexts + 1, alphabet), dtype=np.int64)
    for context, run in runs:
        counts[context] += _count(run, alphabet)
    for context, run in reversed(runs):
        seen = int(counts[context].sum()) - len(run)
        for start, stop in reversed(list(_blocks(seen, len(run)))):
            counts[context] -= _count(run[start:stop], alphabet)
            model = _model(counts[context])
            for end in range(stop, start, -_CHUNK):
                coder.encode_reverse(run[max(start, end - _CHUNK) : end].astype(np.int32), model)


def _blocks(num_seen: int, num_symbols: int) -> Iterator[tuple[int, int]]:
    """First symbol and end of each part of a run that is coded with one table."""
    start = 0
    while start < num_symbols:
        stop = min(num_symbols, start + max(FIRST_BLOCK, (num_seen + start) // BLOCK_SHARE))
        yield start, stop
        start = stop


def _count(values: Integers, alphabet: int) -> NDArray[np.int64]:
    counts = np.zeros(alphabet, dtype=np.int64)
    for start in range(0, len(values), _CHUNK):  # bincount takes eight bytes per symbol
        counts += np.bincount(values[start : start + _CHUNK], minlength=alphabet)
    return counts


def _model(counts: NDArray[np.int64]) -> Any:
    # constriction gives every symbol 1 of 2^24 and shares out the rest in proportion, rounding down running sums. What
    # it is given adds up to that rest, so nothing is left to round.
    shares = np.diff(cumulative_frequencies(counts)) - 1
    return stream.model.Categorical(shares.astype(np.float64), perfect=False)
