"""Numbers as text, each written out by hand."""

from __future__ import annotations

import pytest

from tersenet.report import formats


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (999, "999"),
        (40_813_184, "40.8 M"),
        (999_999, "1.00 M"),
        (0.0345, "0.0345"),
        (1_500, "1.50 k"),
        (4.1e9, "4.10 G"),
    ],
)
def test_large_numbers_get_three_digits_and_a_prefix(value: float, text: str) -> None:
    assert formats.short(value) == text


def test_bytes_are_counted_in_thousands() -> None:
    assert formats.size(1_084_392) == "1.08 MB"
    assert formats.size(271_000) == "271 kB"
    assert formats.size(17) == "17 B"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.44, "0.4 s"), (38.2, "38 s"), (720, "12 min"), (11_100, "3 h 05 min")],
)
def test_durations_have_the_unit_that_suits_them(value: float, text: str) -> None:
    assert formats.seconds(value) == text


def test_a_change_that_rounds_to_nothing_has_no_minus() -> None:
    assert formats.signed(-0.001) == "+0.00"
    assert formats.signed(-0.32) == "-0.32"


def test_long_names_keep_their_ends() -> None:
    assert formats.shorten("features.17.conv.0.0", 26) == "features.17.conv.0.0"
    short = formats.shorten("backbone.stage4.block17.depthwise.convolution", 20)
    assert len(short) == 20
    assert short.startswith("backbone")
    assert short.endswith("volution")


def test_a_share_of_nothing_is_a_dash() -> None:
    assert formats.share(1, 0) == "-"
    assert formats.share(1, 8) == "12.5 %"
