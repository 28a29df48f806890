"""Targets: bounds, ranges and the errors they cause."""

from __future__ import annotations

import pytest

from tersenet.core.target import CostKind, Target, make_target
from tersenet.errors import TargetError

ORIGINAL: dict[CostKind, float] = {"macs": 1000.0, "params": 200.0, "size_bytes": 800.0}


def test_the_tighter_of_a_relative_and_an_absolute_bound_counts() -> None:
    target = Target(max_macs_ratio=0.5, max_macs=400, max_params=150, max_size_ratio=0.25)
    assert target.limits(ORIGINAL) == {"macs": 400.0, "params": 150.0, "size_bytes": 200.0}
    assert Target(max_macs_ratio=0.3, max_macs=400).limits(ORIGINAL) == {"macs": 300.0}


@pytest.mark.parametrize(
    ("bounds", "message"),
    [
        ({"max_macs_ratio": 1.5}, "max_macs_ratio=1.5"),
        ({"max_macs_ratio": 0.0}, "max_macs_ratio=0.0"),
        ({"max_size_bytes": -3}, "max_size_bytes=-3"),
        ({"max_top1_drop": -1.0}, "max_top1_drop=-1.0"),
        ({"max_latency_ratio": 0.5}, "max_latency_ratio cannot be used yet"),
        ({"max_latency_ms": 3.0}, "max_latency_ms cannot be used yet"),
        ({"max_flops": 3}, "max_flops"),
        ({}, "at least one bound"),
        ({"minimize": "macs"}, "at least one bound"),
        ({"max_macs_ratio": float("nan")}, "max_macs_ratio"),
    ],
)
def test_a_bad_target_is_one_clear_line(bounds: dict[str, float], message: str) -> None:
    with pytest.raises(TargetError, match=message) as caught:
        make_target(**bounds)
    assert "\n" not in str(caught.value)


def test_bounds_that_are_not_given_do_not_count() -> None:
    assert make_target(max_macs_ratio=0.5, max_params_ratio=None).bounds() == {"max_macs_ratio": 0.5}
    assert make_target(max_top1_drop=1.0).bounds() == {}
