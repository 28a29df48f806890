from __future__ import annotations

import math

import numpy as np
import pytest

from tersenet.export.enc_digits import pack_digits, packing_for


def test_five_digits_below_three_are_one_byte() -> None:
    # by hand: 1 + 2*3 + 0*9 + 1*27 + 2*81 = 196
    packed = pack_digits(np.array([1, 2, 0, 1, 2]), packing_for(3))
    assert packed.tolist() == [[196]]


def test_digits_and_bytes_lie_in_planes() -> None:
    # Two words of two digits: the first digits 1, 2, the second ones 3, 0 (missing). 1 + 3*16 = 49, 2 + 0*16 = 2.
    assert pack_digits(np.array([1, 2, 3]), packing_for(16)).tolist() == [[49, 2]]
    # Eight digits below 8 in three bytes, by hand: 7 * 8**7 = 0xE00000, and 5 in the lowest digit.
    assert pack_digits(np.array([5, 0, 0, 0, 0, 0, 0, 7]), packing_for(8)).tolist() == [[5], [0], [0xE0]]


@pytest.mark.parametrize("base", [2, 3, 4, 5, 6, 7, 8, 9, 11, 16, 17, 32, 33, 64, 100, 128, 200, 256])
def test_up_to_256_values_take_hardly_more_than_their_entropy(base: int) -> None:
    packing = packing_for(base)
    bits = 8 * packing.num_bytes(840_000) / 840_000
    assert math.log2(base) <= bits < 1.07 * math.log2(base)
    if base in (2, 4, 8, 16, 32, 64, 128, 256):
        assert bits == math.log2(base)


@pytest.mark.parametrize("base", [2, 3, 5, 8, 9, 17, 128, 200, 256, 257, 300, 5000, 65536, 65537])
def test_packed_digits_are_read_back_by_plain_arithmetic(base: int) -> None:
    packing = packing_for(base)
    digits = np.random.default_rng(0).integers(0, base, 101)
    digits[:2] = base - 1, 0
    packed = pack_digits(digits, packing)
    assert packed.shape == (packing.bytes_per_word, packing.num_words(101))
    words = [int.from_bytes(bytes(column.tolist()), "little") for column in packed.T]
    read = [word // base**place % base for place in range(packing.digits_per_word) for word in words]
    assert read[:101] == digits.tolist()
    assert not any(read[101:])


@pytest.mark.parametrize("base", [2, 5, 9, 14, 17, 100, 300])
@pytest.mark.parametrize("count", [1, 10**8])
def test_the_largest_base_of_the_same_bytes_is_the_last_that_fits(base: int, count: int) -> None:
    packing = packing_for(base, count)
    limit, digits = 256**packing.bytes_per_word, packing.digits_per_word
    expected = max(one for one in range(base, 65538) if one**digits <= limit)
    assert packing.largest_base == expected


def test_many_digits_are_never_in_wide_words() -> None:
    assert packing_for(17).is_wide
    assert packing_for(17, 2**20).is_wide
    packing = packing_for(17, 2**20 + 1)
    assert (packing.bytes_per_word, packing.digits_per_word) == (3, 5)  # by hand: 17**5 = 1,419,857 < 2**24


@pytest.mark.parametrize("base", [0, -1, 65538])
def test_a_base_out_of_range_is_refused(base: int) -> None:
    with pytest.raises(ValueError, match=f"between 1 and 65537, got {base}"):
        packing_for(base)
