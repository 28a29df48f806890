from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tersenet.errors import ArtifactError
from tersenet.pack.sets import decode_sets, encode_set


def test_bits_are_as_written_out_by_hand_in_the_format_page() -> None:
    assert encode_set((0, 2, 3)) == (1, "DQ==")  # 0b1101 = 13
    assert encode_set((0, 1, 2, 3, 8, 9, 10, 11)) == (4, "BQ==")  # blocks 0 and 2 of 4: 0b101 = 5
    assert decode_sets([(1, "DQ=="), (4, "BQ==")]) == [(0, 2, 3), (0, 1, 2, 3, 8, 9, 10, 11)]


@given(st.sets(st.integers(0, 300), max_size=40), st.integers(1, 9))
def test_any_list_comes_back_also_when_every_position_stands_for_a_block(blocks: set[int], unit: int) -> None:
    positions = tuple(sorted(block * unit + offset for block in blocks for offset in range(unit)))
    encoded = encode_set(positions)
    assert decode_sets([encoded]) == [positions]
    if blocks:
        assert encoded[0] % unit == 0


@pytest.mark.parametrize("positions", [(3, 2), (1, 1), (-1, 4)])
def test_positions_that_do_not_ascend_are_refused(positions: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must ascend"):
        encode_set(positions)


@pytest.mark.parametrize("encoded", [(10**12, "DQ=="), (0, "DQ=="), (-1, "DQ=="), (1 << 22, "DQ==")])
def test_a_unit_that_would_make_billions_of_positions_is_refused(encoded: tuple[int, str]) -> None:
    with pytest.raises(ArtifactError, match="longer than"):
        decode_sets([encoded])


def test_text_that_is_no_base64_is_refused() -> None:
    with pytest.raises(ArtifactError, match="damaged"):
        decode_sets([(1, "D!!=")])
