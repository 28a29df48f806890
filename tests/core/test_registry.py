"""Names: found, refused twice, and answered with the nearest one."""

from __future__ import annotations

import pytest

from tersenet.core.registry import Registry
from tersenet.errors import TersenetError, UnknownNameError


def a_registry() -> Registry[int]:
    registry: Registry[int] = Registry("criterion")
    registry.add("geometric_median", 1)
    registry.add("l1", 2)
    return registry


def test_a_wrong_name_is_answered_with_the_nearest_and_all_known_ones() -> None:
    with pytest.raises(UnknownNameError) as caught:
        a_registry().get("geometric_mean")
    expected = "No criterion is called 'geometric_mean'. Did you mean 'geometric_median'? Known: geometric_median, l1."
    assert str(caught.value) == expected
    assert isinstance(caught.value, TersenetError)


def test_a_name_like_no_other_gets_no_guess() -> None:
    with pytest.raises(UnknownNameError, match=r"No criterion is called 'zzz'\. Known: geometric_median, l1\."):
        a_registry().get("zzz")


def test_a_name_is_taken_once() -> None:
    with pytest.raises(ValueError, match="registered already"):
        a_registry().add("l1", 3)
