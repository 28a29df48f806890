"""Numbers of clusters and bits as decisions, and budgets on them, against choices found by trying all."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tersenet.core.policy import Clusters, Linear, Policy
from tersenet.core.protocols import FloatArray
from tersenet.core.target import CostKind
from tersenet.envs import (
    Budget,
    DecoderName,
    LayerwiseEnv,
    Limit,
    LookupCost,
    StorageDecisions,
    StorageSpace,
    level,
    rate_distortion,
    sweep,
)
from tersenet.errors import PolicyError, TargetError
from tersenet.testing.contracts import check_env

KIND: CostKind = "size_bytes"


def bits_budget(weights: list[int], maximum: float, *, rest: float = 0.0, most: int = 8) -> Budget:
    """Every layer costs its weights times its bits."""
    tables: list[FloatArray] = [np.arange(1, most + 1, dtype=np.float64) * number for number in weights]
    costs = LookupCost(tables, np.arange(1, most + 1), rest)
    limit = Limit(kind=KIND, table=costs, maximum=maximum, original=32.0 * sum(weights))
    return Budget(limits=(limit,))


def test_shares_of_clusters_are_linear_in_bits() -> None:
    space = StorageSpace(num_decisions=1, kind="clusters", fewest=2, most=256)
    np.testing.assert_allclose(space.shares(0, np.array([2, 4, 16, 256])), [0.0, 1 / 7, 3 / 7, 1.0])
    assert [space.nearest(0, share) for share in (0.0, 1 / 7, 0.5, 1.0)] == [2, 4, 23, 256]  # 2 ** 4.5 = 22.6
    assert space.above(0, 255) == 256
    assert space.above(0, 256) == 256


def test_shares_of_bits_are_linear_and_the_larger_of_two_is_nearest() -> None:
    space = StorageSpace(num_decisions=1, kind="weight_bits", fewest=2, most=8)
    assert [space.nearest(0, share) for share in (0.0, 0.5, 0.75, 1.0)] == [2, 5, 7, 8]  # 0.75: between 6 and 7


def test_the_sweep_lowers_from_the_last_layer_to_the_first() -> None:
    space = StorageSpace(num_decisions=3, kind="weight_bits", fewest=1, most=8)
    # 8 bits of 10 weights each are 240; 225 is kept after one step of the last layer and one of the middle one
    np.testing.assert_array_equal(sweep(space, bits_budget([10, 10, 10], 225.0), np.ones(3)), [8, 7, 7])
    # seven steps of each are 30, the least there is
    np.testing.assert_array_equal(sweep(space, bits_budget([10, 10, 10], 39.0), np.ones(3)), [1, 1, 1])


def test_the_sweep_takes_a_bit_and_not_a_cluster_from_every_layer() -> None:
    space = StorageSpace(num_decisions=2, kind="clusters", fewest=2, most=256)
    assert [space.below(0, count) for count in (256, 9, 3, 2)] == [128, 4, 2, 2]
    costs = LookupCost([10.0 * np.log2(space.counts(0))] * 2, space.counts(0), 0.0)
    budget = Budget(limits=(Limit(kind=KIND, table=costs, maximum=101.0, original=640.0),))
    counts = sweep(space, budget, np.array([1.0, 3 / 7]))  # 256 and 16 clusters are 120, a bit less of each is 100
    assert 128 <= counts[0] <= 256
    assert 8 <= counts[1] <= 16


def test_what_the_sweep_leaves_over_is_filled() -> None:
    space = StorageSpace(num_decisions=2, kind="weight_bits", fewest=1, most=8)
    # 5 bits of 1 weight and 8 of 100 are 805: the last layer gives up a bit, and the first gets what is left, up to 8
    counts = sweep(space, bits_budget([1, 100], 790.0), np.array([0.5, 1.0]))
    np.testing.assert_array_equal(counts, [8, 7])


@pytest.mark.parametrize("maximum", [60.0, 100.0, 133.0, 200.0, 239.0])
def test_no_single_bit_could_be_added_to_a_decoded_budget(maximum: float) -> None:
    space = StorageSpace(num_decisions=3, kind="weight_bits", fewest=1, most=8)
    budget = bits_budget([10, 7, 13], maximum)
    for shares in itertools.product((0.0, 0.4, 1.0), repeat=3):
        for decoder in (level, sweep):
            counts = decoder(space, budget, np.array(shares))
            assert budget.fits(counts)
            for decision in range(3):
                more = counts.copy()
                more[decision] += 1
                assert counts[decision] == 8 or not budget.fits(more)


@pytest.mark.parametrize("decoder", ["wall", "level", "sweep"])
@pytest.mark.parametrize("kind", ["clusters", "weight_bits"])
def test_a_walk_over_storage_keeps_the_contract_of_environments(decoder: DecoderName, kind: str) -> None:
    space = StorageSpace(num_decisions=4, kind="clusters", fewest=2, most=40)
    if kind == "weight_bits":
        space = StorageSpace(num_decisions=4, kind="weight_bits", fewest=1, most=8)
    counts = space.counts(0)
    tables: list[FloatArray] = [number * np.log2(counts + 1.0) for number in (30.0, 10.0, 50.0, 20.0)]
    limit = Limit(kind=KIND, table=LookupCost(tables, space.counts(0), 5.0), maximum=330.0, original=3520.0)
    env = LayerwiseEnv(
        space,
        Budget(limits=(limit,)),
        np.linspace(0.0, 1.0, 4)[:, None],
        decisions=StorageDecisions(list("abcd"), kind=space.kind),
        decoder=decoder,
    )
    check_env(env)
    policy = env.decode(np.full((4, 1), 0.5))
    assert set(policy.storage) == set("abcd")
    assert env.costs(policy)["size_bytes"] <= 330.0 / 3520.0
    np.testing.assert_array_equal(StorageDecisions(list("abcd"), kind=space.kind).policy(env.num_kept(policy)), policy)


def test_policies_of_other_layers_or_forms_are_refused() -> None:
    decisions = StorageDecisions(["a", "b"], kind="clusters")
    policy = decisions.policy(np.array([3, 17]))
    assert policy.storage == {"a": Clusters(n_clusters=3), "b": Clusters(n_clusters=17)}
    with pytest.raises(PolicyError, match="'b' as Linear"):
        decisions.counts(Policy(storage={"a": Clusters(n_clusters=3), "b": Linear(weight_bits=3)}))
    with pytest.raises(PolicyError, match="'c', which is not"):
        decisions.counts(Policy(storage={**policy.storage, "c": Clusters(n_clusters=3)}))


def test_only_powers_of_two_are_chosen_where_that_is_asked_for() -> None:
    space = StorageSpace(num_decisions=2, kind="clusters", fewest=4, most=64, powers_of_two=True)
    np.testing.assert_array_equal(space.counts(0), [4, 8, 16, 32, 64])
    assert [space.nearest(0, share) for share in (0.0, 0.4, 1.0)] == [4, 16, 64]  # 0.4 of four doublings: 1.6, so two
    assert [space.above(0, count) for count in (4, 32, 64)] == [8, 64, 64]
    tables: list[FloatArray] = [np.arange(2.0, 7.0) * number for number in (10, 30)]  # bits times weights
    limit = Limit(kind=KIND, table=LookupCost(tables, space.counts(0), 0.0), maximum=150.0, original=1280.0)
    budget = Budget(limits=(limit,))
    np.testing.assert_array_equal(sweep(space, budget, np.ones(2)), [64, 8])  # 10 * 6 + 30 * 3 = 150
    errors = [4.0 ** -np.arange(2.0, 7.0)] * 2
    np.testing.assert_array_equal(rate_distortion(space, budget, errors), [64, 8])
    with pytest.raises(TargetError, match="from 3 to 64 must begin and end with a power of two"):
        StorageSpace(num_decisions=1, kind="clusters", fewest=3, most=64, powers_of_two=True)


def test_a_range_that_is_none_is_refused() -> None:
    with pytest.raises(TargetError, match="weight_bits from 5 to 9"):
        StorageSpace(num_decisions=1, kind="weight_bits", fewest=5, most=9)
    with pytest.raises(TargetError, match="clusters from 1 to 16"):
        StorageSpace(num_decisions=1, kind="clusters", fewest=1, most=16)


def test_bytes_out_of_reach_are_refused_with_the_smallest_there_is() -> None:
    space = StorageSpace(num_decisions=2, kind="weight_bits", fewest=2, most=8)
    tables: list[FloatArray] = [np.arange(2, 9, dtype=np.float64) * 10.0] * 2
    limit = Limit(kind=KIND, table=LookupCost(tables, space.counts(0), 5.0), maximum=44.0, original=640.0)
    with pytest.raises(TargetError, match=r"fewer bits gets size_bytes down to 7.0 % \(45\).*at least 2 bits"):
        sweep(space, Budget(limits=(limit,)), np.ones(2))
