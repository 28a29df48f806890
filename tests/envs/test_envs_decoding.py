"""Budgets are exact: checked by brute force on random bilinear costs, and by hand on small ones."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tersenet.core.protocols import FloatArray, IntArray
from tersenet.envs import Budget, ChannelSpace, Limit, fill, level, reachable, refuse_unreachable, wall, wall_step
from tersenet.envs.decoding import DECODERS, DecoderName
from tersenet.errors import TargetError
from tersenet.testing.toy_budget import BilinearCost, chain_cost, toy_budget, toy_space


@st.composite
def problems(draw: st.DrawFn) -> tuple[ChannelSpace, Budget, FloatArray]:
    """A space with one to two bounds that can just be reached or more, and proposals."""
    size = draw(st.integers(1, 6))
    channels = draw(st.lists(st.integers(2, 40), min_size=size, max_size=size))
    block = draw(st.sampled_from([1, 1, 4, 8]))
    undecided = [0] if size > 1 and draw(st.booleans()) else []
    space = toy_space(channels, block=block, undecided=undecided)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    limits = []
    for _ in range(draw(st.integers(1, 2))):
        pairs = np.triu(rng.integers(0, 20, (size, size)) * (rng.random((size, size)) < 0.5))
        table = BilinearCost(float(rng.integers(0, 50)), rng.integers(0, 30, size).astype(float), pairs.astype(float))
        original, least = table.cost(space.all_channels), reachable(space, table)
        maximum = least + draw(st.floats(0.0, 1.0)) * (original - least)
        limits.append(Limit(kind="macs", table=table, maximum=maximum, original=max(original, 1.0)))
    return space, Budget(limits=tuple(limits)), rng.uniform(0.2, 1.0, space.num_decisions)


def _choices(space: ChannelSpace, decision: int) -> list[int]:
    block, whole = int(space.block[decision]), int(space.num_channels[decision])
    allowed = {count for count in range(1, whole + 1) if count % block == 0 or count == whole}
    return sorted(count for count in allowed if count >= space.min_kept[decision])


def _costs_fit(space: ChannelSpace, budget: Budget, counts: IntArray) -> bool:
    everything = space.all_channels.copy()
    for position, count in zip(space.indices, counts, strict=True):
        everything[position] = count
    return all(limit.table.cost(everything) <= limit.maximum for limit in budget.limits)


def _assert_exact(space: ChannelSpace, budget: Budget, counts: IntArray) -> None:
    for decision, count in enumerate(counts):
        assert count in _choices(space, decision)
    assert _costs_fit(space, budget, counts)
    for decision, count in enumerate(counts):
        larger = [choice for choice in _choices(space, decision) if choice > count]
        if larger:
            raised = counts.copy()
            raised[decision] = larger[0]
            assert not _costs_fit(space, budget, raised)


@pytest.mark.parametrize("decoder", ["wall", "level"])
@settings(max_examples=200, deadline=None)
@given(problem=problems())
def test_no_bound_is_exceeded_and_no_block_could_be_added(
    decoder: DecoderName, problem: tuple[ChannelSpace, Budget, FloatArray]
) -> None:
    space, budget, ratios = problem
    _assert_exact(space, budget, DECODERS[decoder](space, budget, ratios))


@settings(max_examples=100, deadline=None)
@given(problem=problems())
def test_what_was_decoded_is_decoded_to_itself(problem: tuple[ChannelSpace, Budget, FloatArray]) -> None:
    space, budget, ratios = problem
    for decode in DECODERS.values():
        counts = decode(space, budget, ratios)
        assert wall(space, budget, counts / space.num_channels).tolist() == counts.tolist()


@settings(max_examples=100, deadline=None)
@given(problem=problems(), shift=st.floats(-0.5, 0.5))
def test_level_depends_on_differences_between_the_ratios_only(
    problem: tuple[ChannelSpace, Budget, FloatArray], shift: float
) -> None:
    space, budget, _ = problem
    ratios = np.linspace(0.3, 0.7, space.num_decisions) * 0.99
    assert level(space, budget, ratios).tolist() == level(space, budget, ratios + round(shift, 3)).tolist()


@settings(max_examples=200, deadline=None)
@given(problem=problems())
def test_the_wall_takes_the_largest_count_that_leaves_room_for_the_rest(
    problem: tuple[ChannelSpace, Budget, FloatArray],
) -> None:
    space, budget, ratios = problem
    counts = space.min_kept.copy()
    for decision, ratio in enumerate(ratios):
        possible = []
        for choice in _choices(space, decision):
            tried = counts.copy()
            tried[decision] = choice
            if _costs_fit(space, budget, tried):
                possible.append(choice)
        wanted = float(ratio) * int(space.num_channels[decision])
        asked_for = min(_choices(space, decision), key=lambda choice: (abs(choice - wanted), -choice))
        counts[decision] = wall_step(space, budget, counts, decision, float(ratio))
        assert counts[decision] == min(asked_for, max(possible))


def test_level_is_the_greedy_order_taken_block_by_block() -> None:
    space = toy_space([10, 12, 20, 8])
    budget = toy_budget(space, chain_cost([10, 12, 20, 8]), 0.45)
    ratios = np.array([0.9, 0.4, 0.5, 0.7])
    counts = space.min_kept.copy()
    open_groups = set(range(4))
    while open_groups:
        need = {g: ratios[g] - (counts[g] + 0.5) / space.num_channels[g] for g in open_groups}
        neediest = min(open_groups, key=lambda g: (-need[g], g))
        raised = counts.copy()
        raised[neediest] += 1
        if raised[neediest] <= space.num_channels[neediest] and budget.fits(raised):
            counts = raised
        else:
            open_groups.remove(neediest)
    assert level(space, budget, ratios).tolist() == counts.tolist()


def test_equal_ratios_use_half_of_a_linear_budget_equally() -> None:
    space = toy_space([10, 10, 10])
    budget = toy_budget(space, BilinearCost(0.0, np.ones(3), np.zeros((3, 3))), 0.5)
    assert level(space, budget, np.full(3, 0.9)).tolist() == [5, 5, 5]
    # the wall gives the first what it asks for, and the rest what is left: 9, then 15 - 9 - 2, then 2
    assert wall(space, budget, np.full(3, 0.9)).tolist() == [9, 4, 2]


def test_level_goes_up_as_well_as_down() -> None:
    space = toy_space([10, 10])
    budget = toy_budget(space, BilinearCost(0.0, np.ones(2), np.zeros((2, 2))), 0.7)
    assert level(space, budget, np.array([0.2, 0.4])).tolist() == [6, 8]
    assert level(space, budget, np.array([0.8, 1.0])).tolist() == [6, 8]
    # by hand: the second group is full at 10, the first takes the remaining 4
    assert level(space, budget, np.array([0.2, 1.0])).tolist() == [4, 10]


def test_the_wall_fills_what_modest_proposals_leave() -> None:
    space = toy_space([10, 10])
    budget = toy_budget(space, BilinearCost(0.0, np.ones(2), np.zeros((2, 2))), 0.7)
    assert wall(space, budget, np.array([0.2, 0.4])).tolist() == [6, 8]


def test_fill_gives_cheap_blocks_what_a_dear_block_cannot_use() -> None:
    space = toy_space([10, 10])
    table = BilinearCost(0.0, np.array([7.0, 1.0]), np.zeros((2, 2)))
    budget = Budget(limits=(Limit(kind="macs", table=table, maximum=40.0, original=80.0),))
    start = np.array([4, 5], dtype=np.int64)
    # 28 + 5 = 33; one more of the first costs 7 and fits exactly, then nothing does
    assert fill(space, budget, start, np.array([1.0, 0.2])).tolist() == [5, 5]
    # the second is furthest below; 12 would fit, it has 10; the 2 left are too few for the first
    assert fill(space, budget, start, np.array([0.2, 1.0])).tolist() == [4, 10]


def test_several_bounds_hold_together() -> None:
    space = toy_space([10, 10])
    zeros = np.zeros((2, 2))
    first = Limit(kind="macs", table=BilinearCost(0.0, np.array([1.0, 0.0]), zeros), maximum=3.0, original=10.0)
    second = Limit(kind="params", table=BilinearCost(0.0, np.array([0.0, 1.0]), zeros), maximum=7.0, original=10.0)
    budget = Budget(limits=(first, second))
    for decode in DECODERS.values():
        counts = decode(space, budget, np.ones(2))
        assert counts.tolist() == [3, 7]
    assert budget.ratios(space.whole(np.array([3, 7]))) == {"macs": 0.3, "params": 0.7}


def test_without_bounds_the_nearest_counts_are_taken() -> None:
    space = toy_space([10, 10])
    for decode in DECODERS.values():
        assert decode(space, Budget(limits=()), np.array([0.31, 0.78])).tolist() == [3, 8]


def test_a_staircase_cost_is_never_exceeded_although_it_falls_in_places() -> None:
    class Staircase:
        def cost(self, num_kept: IntArray) -> float:
            # an odd number of channels takes twice as long as the next even one
            return float(sum(2 * k if k % 2 else k for k in num_kept))

    channels = [9, 8, 7]
    space = toy_space(channels)
    for maximum in range(8, 40):
        budget = Budget(limits=(Limit(kind="macs", table=Staircase(), maximum=float(maximum), original=40.0),))
        for decode in DECODERS.values():
            _assert_exact(space, budget, decode(space, budget, np.array([0.9, 0.5, 0.3])))


def test_what_cannot_be_reached_is_refused_with_what_can() -> None:
    space = toy_space([10, 10])
    budget = toy_budget(space, BilinearCost(0.0, np.ones(2), np.zeros((2, 2))), 0.1)
    with pytest.raises(TargetError, match=r"max_macs_ratio=0\.1 .*cannot be reached.*down to 20\.0 % \(4\)"):
        refuse_unreachable(space, budget)
    with pytest.raises(TargetError, match="cannot be reached"):
        level(space, budget, np.ones(2))


def test_the_smallest_cost_is_the_least_of_all_counts() -> None:
    channels = [4, 6, 5]
    space = toy_space(channels, lower_bound=0.4)
    table = chain_cost(channels)
    ranges = [range(lowest, whole + 1) for lowest, whole in zip(space.min_kept, channels, strict=True)]
    every = [table.cost(np.array(counts)) for counts in itertools.product(*ranges)]
    assert reachable(space, table) == min(every)


@dataclass
class _Counted:
    table: BilinearCost
    calls: list[int] = field(default_factory=list)

    def cost(self, num_kept: IntArray) -> float:
        self.calls.append(1)
        return self.table.cost(num_kept)


@pytest.mark.parametrize("decoder", ["wall", "level"])
def test_decoding_a_network_like_resnet56_asks_for_few_costs(decoder: DecoderName) -> None:
    channels = [16] * 9 + [32] * 9 + [64] * 9
    space = toy_space(channels)
    counted = _Counted(chain_cost(channels))
    original = counted.table.cost(space.all_channels)
    budget = Budget(limits=(Limit(kind="macs", table=counted, maximum=0.5 * original, original=original),))
    rng = np.random.default_rng(0)
    begin = time.perf_counter()
    for _ in range(10):
        DECODERS[decoder](space, budget, rng.uniform(0.2, 1.0, 27))
    assert len(counted.calls) / 10 < 400
    assert (time.perf_counter() - begin) / 10 < 0.2  # generous: about 1 ms on an idle core
