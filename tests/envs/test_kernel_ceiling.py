"""Units under a ceiling: one sort gives what taking one after the other gives; policies of 2-D kernels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from tersenet.core.mask import Mask
from tersenet.core.policy import ChannelDecision, KernelDecision, Policy
from tersenet.core.protocols import IntArray
from tersenet.envs import KernelSpace, Limit, SwitchedKernels, UnitCost
from tersenet.envs.kernel_ceiling import Preference, bring_under
from tersenet.errors import PolicyError, SearchError

SHAPES = {"a": (4, 3, 1, 1), "b": (5, 4, 1, 1), "c": (3, 10)}
SPACE = KernelSpace(switched=SwitchedKernels(SHAPES), lower_bound=0.1)
PRICES = np.array([9.0, 4.0, 1.0])


@dataclass(frozen=True)
class Slow:
    """The same cost, of which nothing is known."""

    table: UnitCost

    def cost(self, num_kept: IntArray) -> float:
        return self.table.cost(num_kept)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("share", [0.9, 0.6, 0.25])
def test_one_sort_takes_what_one_after_the_other_takes(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    sizes = SPACE.max_kept
    masks = [rng.random(size) < 0.9 for size in sizes]
    spared = [mask & (rng.random(len(mask)) < 0.2) for mask in masks]
    health = [rng.integers(0, 6, size).astype(float) for size in sizes]  # many are equal
    preference = Preference(health=health, wanted=rng.choice([0.5, 1.0, 2.0], 3), spared=spared)
    table = UnitCost(10.0, PRICES)
    original = table.cost(sizes)
    limit = Limit(kind="params", table=table, maximum=np.inf, original=original)
    slow = Limit(kind="params", table=Slow(table), maximum=np.inf, original=original)
    found, expected = [mask.copy() for mask in masks], [mask.copy() for mask in masks]
    bring_under(limit, share * original, found, SPACE, preference)
    bring_under(slow, share * original, expected, SPACE, preference)
    counts = np.array([int(mask.sum()) for mask in found])
    assert table.cost(counts) <= share * original
    assert (counts >= SPACE.min_kept).all()
    for group, (ours, theirs) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_array_equal(ours, theirs, err_msg=str(group))


def test_what_cannot_be_reached_is_refused() -> None:
    masks = [np.ones(size, dtype=np.bool_) for size in SPACE.max_kept]
    preference = Preference(health=[np.ones(len(m)) for m in masks], wanted=np.ones(3), spared=[~m for m in masks])
    limit = Limit(kind="params", table=UnitCost(10.0, PRICES), maximum=0.0, original=1.0)
    with pytest.raises(SearchError, match="cannot be brought below 39"):  # 10 + 2 x 9 + 2 x 4 + 3 x 1
        bring_under(limit, 38.0, masks, SPACE, preference)


def test_masks_of_kernels_become_a_policy_and_come_back() -> None:
    masks = {name: np.ones(int(np.prod(shape)), dtype=np.bool_) for name, shape in SHAPES.items()}
    masks["b"][[0, 7]] = False
    policy = SPACE.switched.policy(masks)
    assert list(policy.kernels) == ["b"]
    stays = policy.kernels["b"].mask
    assert stays is not None
    assert np.argwhere(~stays.array()).tolist() == [[0, 0, 0, 0], [1, 3, 0, 0]]  # by hand: 7 = 1 x 4 + 3
    for name, mask in SPACE.switched.masks(policy).items():
        np.testing.assert_array_equal(mask, masks[name])
    assert SPACE.counts_of(policy).tolist() == [12, 18, 30]


def test_policies_of_something_else_are_refused() -> None:
    for policy in (
        Policy(channels={"a": ChannelDecision(keep=(0,))}),
        Policy(kernels={"z": KernelDecision(unit="kernel", keep_ratio=0.5)}),
    ):
        with pytest.raises(PolicyError, match="which 2-D kernels of its own layers stay"):
            SPACE.switched.masks(policy)
    for decision in (
        KernelDecision(unit="kernel", keep_ratio=0.5),
        KernelDecision(unit="kernel", mask=Mask.of(np.ones((3, 4, 1, 1), dtype=np.bool_))),
    ):
        with pytest.raises(PolicyError, match=r"by masks of 2-D kernels.*\(4, 3, 1, 1\)"):
            SPACE.switched.masks(Policy(kernels={"a": decision}))


def test_the_space_counts_kernels() -> None:
    assert SPACE.max_kept.tolist() == [12, 20, 30]
    assert SPACE.min_kept.tolist() == [2, 2, 3]
    assert [SPACE.nearest(0, share) for share in (0.0, 0.5, 0.54, 0.55, 1.0)] == [2, 6, 6, 7, 12]
    assert (SPACE.above(0, 11), SPACE.above(0, 12)) == (12, 12)
    assert SPACE.counts(0).tolist() == list(range(2, 13))
    assert SPACE.shares(0, np.array([3, 12])).tolist() == [0.25, 1.0]
