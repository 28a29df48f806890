from __future__ import annotations

import itertools
import math
import tracemalloc
from collections import Counter
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tersenet.errors import ArtifactError
from tersenet.pack import entropy
from tersenet.pack.entropy import (
    Coding,
    SymbolReader,
    Symbols,
    choose_coding,
    cumulative_frequencies,
    encode_streams,
    stream_bytes,
    symbol_dtype,
)

RANGE = 2**24


def symbols_of(values: Any, alphabet: int, contexts: int = 0) -> Symbols:
    return Symbols(
        values=np.asarray(values, symbol_dtype(alphabet)), coding=Coding(alphabet=alphabet, contexts=contexts)
    )


def skewed(seed: int, shape: int | tuple[int, ...], alphabet: int, skew: float) -> NDArray[np.int64]:
    weights = np.random.default_rng(seed).random(alphabet) ** skew
    return np.random.default_rng(seed + 1).choice(alphabet, shape, p=weights / weights.sum())


def smooth(seed: int, shape: tuple[int, ...], alphabet: int) -> NDArray[np.int64]:
    """Kernels that vary little within themselves."""
    rng = np.random.default_rng(seed)
    middle = rng.normal(alphabet / 2, alphabet / 5, (*shape[:2], *[1] * (len(shape) - 2)))
    return np.clip(np.rint(middle + rng.normal(0, 0.7, shape)), 0, alphabet - 1).astype(np.int64)


def slow_order(values: NDArray[np.integer[Any]], contexts: int) -> list[tuple[int, int]]:
    """(context, symbol) in order, by the definition in docs/format.md, weight by weight."""
    if not contexts:
        return [(0, int(symbol)) for symbol in values.ravel()]
    height, width = values.shape[2:]
    kernels = list(itertools.product(range(values.shape[0]), range(values.shape[1])))
    order = []
    for row, column in itertools.product(range(height), range(width)):
        predictions = []
        for kernel in kernels:
            if row and column:
                left, upper = int(values[*kernel, row, column - 1]), int(values[*kernel, row - 1, column])
                predictions.append(2 * left + 2 * upper - int(values[*kernel, row - 1, column - 1]))
            elif row or column:
                predictions.append(int(values[*kernel, row - bool(row), column - bool(column)]))
        if not predictions:
            order += [(0, int(values[*kernel, row, column])) for kernel in kernels]
            continue
        bounds = [sorted(predictions)[len(kernels) * rank // contexts] for rank in range(1, contexts)]
        places = [sum(bound <= prediction for bound in bounds) for prediction in predictions]
        for context in range(contexts):
            of_it = [kernel for kernel, place in zip(kernels, places, strict=True) if place == context]
            order += [(context + 1, int(values[*kernel, row, column])) for kernel in of_it]
    return order


def slow_words(tensors: list[tuple[list[tuple[int, int]], int]]) -> list[int]:
    """The words by the definition in docs/format.md, one symbol at a time, in exact integers."""
    steps = []
    for order, alphabet in tensors:
        place = 0
        seen = [[1] * alphabet for _ in range(20)]
        table: list[int] = []
        position_ends = run_lengths(order)
        for end in position_ends:
            context = order[place][0]
            left = 0
            while place < end:
                if not left:
                    weights = seen[context]
                    shares = [
                        Fraction(sum(weights[:s]), sum(weights)) * (RANGE - alphabet) for s in range(alphabet + 1)
                    ]
                    table = [math.floor(share) + s for s, share in enumerate(shares)]
                    left = max(8, (sum(weights) - alphabet) // 16)
                symbol = order[place][1]
                steps.append((table[symbol], table[symbol + 1] - table[symbol]))
                seen[context][symbol] += 1
                place, left = place + 1, left - 1
    state, words = 0, []
    for low, width in reversed(steps):
        if state >= width << 40:
            words.append(state % 2**32)
            state //= 2**32
        state = (state // width) * RANGE + low + state % width
    while state:
        words.append(state % 2**32)
        state //= 2**32
    return words


def run_lengths(order: list[tuple[int, int]]) -> list[int]:
    """Where runs of one context end."""
    return [end for end in range(1, len(order) + 1) if end == len(order) or order[end][0] != order[end - 1][0]]


def test_frequencies_are_those_worked_out_by_hand() -> None:
    assert cumulative_frequencies(np.array([0, 0])).tolist() == [0, RANGE // 2, RANGE]
    # seen 3 + 1 and 0 + 1: four fifths of 2^24 - 2 = 16,777,214 is 13,421,771.2, and one more for each symbol
    assert cumulative_frequencies(np.array([3, 0])).tolist() == [0, 13_421_772, RANGE]


def test_a_symbol_that_has_never_been_seen_keeps_a_place() -> None:
    bounds = cumulative_frequencies(np.array([0, 10**11, 0]))
    assert bounds[-1] == RANGE
    assert (np.diff(bounds) >= 1).all()


@pytest.mark.parametrize("seed", range(4))
def test_the_words_are_those_of_the_definition(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tensors = []
    for _ in range(3):
        alphabet = int(rng.integers(2, 20))
        tensors.append(symbols_of(skewed(seed, int(rng.integers(0, 400)), alphabet, 4.0), alphabet))
    slow = [(slow_order(one.values, 0), one.coding.alphabet) for one in tensors]
    assert np.frombuffer(encode_streams(tensors), "<u4").tolist() == slow_words(slow)


@pytest.mark.parametrize(("shape", "contexts"), [((9, 8, 3, 3), 9), ((70, 1, 2, 3), 4), ((8, 8, 1, 3), 16)])
def test_the_words_of_kernels_are_those_of_the_definition(shape: tuple[int, ...], contexts: int) -> None:
    kernels = symbols_of(smooth(0, shape, 7), 7, contexts)
    before = symbols_of(skewed(0, 100, 5, 1.0), 5)
    slow = [(slow_order(before.values, 0), 5), (slow_order(kernels.values, contexts), 7)]
    assert np.frombuffer(encode_streams([before, kernels]), "<u4").tolist() == slow_words(slow)


def comes_back(tensors: list[Symbols]) -> None:
    reader = SymbolReader(encode_streams(tensors))
    for tensor in tensors:
        found = reader.read(tensor.values.shape, tensor.coding)
        np.testing.assert_array_equal(found, tensor.values)
        assert found.dtype == tensor.values.dtype
    reader.finish()


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([1, 2, 3, 16, 255, 256, 257]), st.integers(0, 300)), max_size=4),
    st.integers(0, 1000),
)
def test_every_symbol_comes_back(shapes: list[tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    comes_back([symbols_of(rng.integers(0, alphabet, number), alphabet) for alphabet, number in shapes])


@pytest.mark.parametrize("shape", [(8, 8, 3, 3), (64, 1, 5), (4, 16, 3, 2, 2), (70, 2, 1, 7), (128, 1, 2, 1)])
@pytest.mark.parametrize("alphabet", [2, 9, 300])
def test_kernels_of_every_form_come_back(shape: tuple[int, ...], alphabet: int) -> None:
    comes_back([symbols_of(smooth(seed, shape, alphabet), alphabet, contexts=9) for seed in range(2)])


def test_the_size_of_the_pieces_that_are_worked_on_does_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    tensor = symbols_of(skewed(0, 40_000, 3, 2.0), 3)
    whole = encode_streams([tensor])
    monkeypatch.setattr(entropy, "_CHUNK", 300)  # less than the last blocks have
    assert encode_streams([tensor]) == whole
    comes_back([tensor])


def test_the_largest_alphabet_comes_back() -> None:
    comes_back([symbols_of(np.random.default_rng(0).integers(0, 65536, 300), 65536)])


@pytest.mark.parametrize("alphabet", [2, 3, 16, 17, 255])
@pytest.mark.parametrize("skew", [0.0, 1.0, 5.0])
def test_a_stream_is_as_long_as_the_entropy_and_the_estimate_say(alphabet: int, skew: float) -> None:
    tensor = symbols_of(skewed(0, 30_000, alphabet, skew), alphabet)
    shares = np.bincount(tensor.values)[np.bincount(tensor.values) > 0] / 30_000
    shortest = -30_000 * float((shares * np.log2(shares)).sum()) / 8
    length = len(encode_streams([tensor]))
    # what cannot be avoided without knowing the frequencies: half a logarithm of the length per symbol but one
    assert shortest <= length + 8 <= 1.002 * shortest + 16 + (alphabet - 1) * math.log2(30_000) / 16
    assert abs(length - stream_bytes(tensor)) < 0.002 * shortest + 12


def test_kernels_that_are_smooth_take_less_than_their_entropy_and_the_estimate_knows() -> None:
    values = smooth(0, (64, 64, 3, 3), 9)
    chosen = choose_coding(values.astype(np.uint8), 9)
    assert chosen.coding.contexts == 9
    shares = np.bincount(values.ravel()) / values.size
    shortest = -values.size * float((shares[shares > 0] * np.log2(shares[shares > 0])).sum()) / 8
    length = len(encode_streams([chosen]))
    assert length < 0.8 * shortest
    assert length == pytest.approx(stream_bytes(chosen), rel=0.004)


@pytest.mark.parametrize(
    "values",
    [skewed(0, (16, 16, 3, 3), 200, 1.0), skewed(0, (64, 64), 5, 1.0), smooth(0, (7, 9, 3, 3), 5)],
    ids=["rough kernels", "no kernels", "few kernels"],
)
def test_contexts_are_left_out_where_they_do_not_pay(values: NDArray[np.int64]) -> None:
    assert choose_coding(values.astype(np.uint8), 200).coding.contexts == 0


def test_the_estimate_is_the_length_of_a_code_that_counts_worked_out_by_hand() -> None:
    # 0, 1, 0 with two symbols: 1/2, then 1 of 3, then 2 of 4; 12 possibilities in all
    assert stream_bytes(symbols_of([0, 1, 0], 2)) == pytest.approx(math.log2(12) / 8)
    assert stream_bytes(symbols_of([0] * 5, 1)) == 0.0
    assert stream_bytes(symbols_of([], 3)) == pytest.approx(0.0)


def test_the_estimate_of_kernels_counts_every_context_by_itself() -> None:
    values = smooth(1, (8, 8, 2, 2), 3)
    expected = 0.0
    per_context = Counter(slow_order(values, 9))
    for context in range(10):
        counts = [per_context[context, symbol] for symbol in range(3)]
        ways = math.factorial(sum(counts) + 2) / 2 / math.prod(map(math.factorial, counts))
        expected += math.log2(ways) / 8
    assert stream_bytes(symbols_of(values, 3, contexts=9)) == pytest.approx(expected)


def test_many_equal_symbols_take_a_few_words_and_little_memory() -> None:
    stream = encode_streams([symbols_of(np.zeros(3_000_000), 16)])
    assert len(stream) < 64
    tracemalloc.start()
    SymbolReader(stream).read((3_000_000,), Coding(alphabet=16))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 3_000_000 + 8_000_000  # a byte for each, and what is worked on at once


def test_no_tensors_make_no_stream() -> None:
    assert encode_streams([]) == b""
    SymbolReader(b"").finish()


@pytest.mark.parametrize(
    ("stream", "message"),
    [(b"\1\2\3", "no whole number of words"), (b"\1\0\0\0\0\0\0\0", "word of zeros")],
)
def test_what_no_coder_wrote_is_refused(stream: bytes, message: str) -> None:
    with pytest.raises(ArtifactError, match=message):
        SymbolReader(stream)


def test_a_damaged_or_shortened_stream_ends_at_another_place() -> None:
    stream = encode_streams([symbols_of(skewed(0, 2000, 7, 1.0), 7)])
    for damaged in (stream[4:], stream + b"\1\0\0\0", stream[:40] + b"\xff" + stream[41:]):
        reader = SymbolReader(damaged)
        assert reader.read((2000,), Coding(alphabet=7)).max() < 7
        with pytest.raises(ArtifactError, match="does not end with its last symbol"):
            reader.finish()
