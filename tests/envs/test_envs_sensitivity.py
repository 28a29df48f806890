"""The first allotment of a budget, by hand and against trying everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tersenet.core.protocols import FloatArray
from tersenet.envs import Budget, allot
from tersenet.errors import TargetError
from tersenet.testing.toy_budget import BilinearCost, toy_budget, toy_space


def linear_cost(*per_channel: float) -> BilinearCost:
    return BilinearCost(0.0, np.array(per_channel), np.zeros((len(per_channel), len(per_channel))))


def allotted(
    losses: list[list[float]], *, costs: tuple[float, ...] = (1.0, 1.0), max_ratio: float = 0.5
) -> list[float]:
    """Two groups of four channels, measured with two and with one channel left."""
    space = toy_space([4] * len(costs), lower_bound=0.25)
    budget = toy_budget(space, linear_cost(*costs), max_ratio)
    ratios = np.tile([0.5, 0.25], (len(costs), 1))
    return [float(ratio) for ratio in allot(space, budget, ratios, np.array(losses))]


def test_the_group_that_is_missed_least_gives_up_most() -> None:
    # 4 of 8 channels must go: the second group loses 0.1 for two and 0.2 for three, the first 0.6 for two
    assert allotted([[0.6, 0.9], [0.1, 0.2]]) == [0.75, 0.25]


def test_a_loss_is_weighed_against_what_it_saves() -> None:
    # both lose the same, and a channel of the second saves three times as much: with all three gone, 16 are 7 too many
    assert allotted([[0.3, 0.6], [0.3, 0.6]], costs=(1.0, 3.0)) == [1.0, 0.25]


def test_a_gain_is_noise_and_counts_as_no_loss() -> None:
    assert allotted([[-0.5, 0.6], [0.0, 0.1]]) == allotted([[0.0, 0.6], [0.0, 0.1]])


def test_without_bounds_everything_stays() -> None:
    space = toy_space([4, 4])
    assert allot(space, Budget(limits=()), np.ones((2, 1)), np.ones((2, 1))).tolist() == [1.0, 1.0]


def test_an_unreachable_budget_is_refused() -> None:
    with pytest.raises(TargetError, match="cannot be reached"):
        allotted([[0.1, 0.2], [0.1, 0.2]], max_ratio=0.1)


@pytest.mark.parametrize("seed", range(8))
def test_with_curves_that_rise_ever_faster_nothing_is_better(seed: int) -> None:
    rng = np.random.default_rng(seed)
    losses = np.cumsum(np.sort(rng.random((3, 2)), axis=1) * [1.0, 2.0], axis=1)
    space = toy_space([4, 4, 4], lower_bound=0.5)
    budget = toy_budget(space, linear_cost(1.0, 1.0, 1.0), 0.75)
    ratios = np.tile([0.75, 0.5], (3, 1))

    def total(kept: FloatArray) -> float:
        return sum(float(losses[i][4 - int(k) - 1]) for i, k in enumerate(kept) if k < 4)

    found = allot(space, budget, ratios, losses) * 4
    fitting = [np.array(kept) for kept in itertools.product([2, 3, 4], repeat=3) if sum(kept) <= 9]
    assert total(found) == pytest.approx(min(total(kept) for kept in fitting))
