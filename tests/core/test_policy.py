"""Policies and plans: one form per decision, exact counts, JSON there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tersenet.core.plan import Cut, Plan
from tersenet.core.policy import ChannelDecision, Policy, Raw, ratio_for
from tersenet.errors import PolicyError


@given(st.integers(1, 4096).flatmap(lambda n: st.tuples(st.integers(1, n), st.just(n))))
def test_a_ratio_made_from_a_count_gives_that_count_again(counts: tuple[int, int]) -> None:
    kept, total = counts
    assert ChannelDecision(pruning_ratio=ratio_for(kept, total)).num_kept(total) == kept


@pytest.mark.parametrize(
    ("ratio", "total", "kept"),
    [
        (0.5, 7, 4),
        (0.5, 8, 4),
        (0.0, 5, 5),
        (0.99, 5, 1),
        (0.3, 10, 7),
        (1 / 3, 3, 2),
    ],  # by hand: never more than asked
)
def test_at_most_the_asked_share_is_removed(ratio: float, total: int, kept: int) -> None:
    assert ChannelDecision(pruning_ratio=ratio).num_kept(total) == kept


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"pruning_ratio": 0.5, "keep": (0, 1)},
        {"pruning_ratio": 1.0},
        {"pruning_ratio": -0.1},
        {"keep": ()},
        {"keep": (2, 1)},
        {"keep": (1, 1)},
        {"keep": (-1, 2)},
        {"pruning_ratio": 0.5, "ratio": 0.5},
    ],
)
def test_a_decision_that_contradicts_itself_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        ChannelDecision.model_validate(fields)


def test_keeping_a_channel_that_is_not_there_names_it() -> None:
    with pytest.raises(PolicyError, match="channel 8, but the group has 8 channels"):
        ChannelDecision(keep=(0, 8)).num_kept(8)


def test_the_digest_ignores_the_order_of_entries_and_nothing_else() -> None:
    a, b = ChannelDecision(pruning_ratio=0.25), ChannelDecision(pruning_ratio=0.5)
    assert Policy(channels={"x": a, "y": b}).digest() == Policy(channels={"y": b, "x": a}).digest()
    assert Policy(channels={"x": a, "y": b}).digest() != Policy(channels={"x": b, "y": a}).digest()
    assert Policy(storage={"x": Raw(dtype="fp16")}).digest() != Policy(storage={"x": Raw()}).digest()


def test_a_policy_survives_json() -> None:
    policy = Policy(
        channels={"x": ChannelDecision(pruning_ratio=1 / 3, criterion="l2"), "y": ChannelDecision(keep=(0, 5))},
        storage={"x": Raw(dtype="fp16")},
    )
    assert Policy.model_validate_json(policy.model_dump_json()) == policy


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ({"cuts": [{"tensor": "w", "axis": 0, "keep": 0}]}, "refers to list 0"),
        ({"keeps": [[1, 0]]}, "ascending"),
        ({"keeps": [[]]}, "not empty"),
        ({"keeps": [[0]], "cuts": [{"tensor": "w", "axis": 0, "keep": 0}] * 2}, "cut twice"),
    ],
)
def test_a_plan_that_makes_no_sense_is_refused(plan: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Plan.model_validate(plan)


def test_a_plan_survives_json() -> None:
    plan = Plan(keeps=((0, 2),), cuts=(Cut(tensor="w", axis=0, keep=0),), attributes={"conv": {"out_channels": 2}})
    assert Plan.model_validate_json(plan.model_dump_json()) == plan
