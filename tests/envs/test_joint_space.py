"""Channels and kernels on one walk: counts, shares, order, and costs that agree with really pruned networks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tersenet.core.policy import ChannelDecision, KernelDecision, KernelUnit, Policy
from tersenet.core.protocols import IntArray
from tersenet.envs import Budget, JointDecisions, JointSpace, LayerwiseEnv, Limit, channel_space, nothing_to_cut
from tersenet.envs.joint_space import threshold_levels
from tersenet.errors import PolicyError, TargetError
from tersenet.graph import ModelGraph, masked_cost_table, trace
from tersenet.measurement.size import count_nonzero
from tersenet.testing.networks import build, example_inputs
from tersenet.transforms import make_plan, materialize


def a_space(graph: ModelGraph, layers: tuple[str, ...], *, steps: int = 20, cuts: bool = True) -> JointSpace:
    channels = channel_space(graph, prune_residual=False) if cuts else nothing_to_cut(graph)
    num = channels.num_decisions + len(layers)
    return JointSpace(
        channels=channels,
        steps=np.full(len(layers), steps, dtype=np.int64),
        fewest=np.full(len(layers), 2, dtype=np.int64),
        order=np.arange(num, dtype=np.int64)[::-1].copy(),  # layers first, backwards
        unit="kernel",
        unit_criterion="l1",
    )


def plain() -> tuple[ModelGraph, tuple[str, ...]]:
    graph = trace(build("plain"), example_inputs("plain"))
    return graph, tuple(layer.name for layer in graph.layers[:-1])


def test_counts_shares_and_neighbours_follow_the_order_of_decisions() -> None:
    graph, layers = plain()
    space = a_space(graph, layers)
    assert space.num_decisions == space.channels.num_decisions + len(layers)
    np.testing.assert_array_equal(space.counts(0), np.arange(2, 21))
    assert space.shares(0, np.array([5]))[0] == 0.25
    assert [space.nearest(0, share) for share in (0.0, 0.26, 0.275, 1.0)] == [2, 5, 6, 20]
    assert [space.above(0, count) for count in (5, 20)] == [6, 20]
    last = space.num_decisions - 1  # the first group
    np.testing.assert_array_equal(space.counts(last), space.channels.counts(0))
    assert space.above(last, 4) == space.channels.above(0, 4)
    whole = space.whole(space.max_kept)
    sizes = [group.num_channels for group in graph.channel_groups]
    np.testing.assert_array_equal(whole, [*sizes, *[20] * len(layers)])


def test_counts_become_policies_and_back() -> None:
    graph, layers = plain()
    space = a_space(graph, layers)
    group_ids = [graph.channel_groups[int(index)].group_id for index in space.channels.indices]
    decisions = JointDecisions(space, group_ids, layers, criterion="l2")
    assert [point.kind for point in decisions.points][:2] == ["kernels", "kernels"]
    counts = space.max_kept.copy()
    counts[0], counts[-1] = 7, space.channels.min_kept[0]
    policy = decisions.policy(counts)
    assert policy.kernels == {layers[-1]: KernelDecision(unit="kernel", keep_ratio=0.35, criterion="l1")}
    assert list(policy.channels) == [group_ids[0]]
    np.testing.assert_array_equal(decisions.counts(policy), counts)
    with pytest.raises(PolicyError, match="prunes inside layer"):
        decisions.counts(Policy(kernels={layers[0]: KernelDecision(unit="element", keep_ratio=0.5)}))


@pytest.mark.parametrize("unit", ["kernel", "position", "filter_position", "element"])
@pytest.mark.parametrize(
    "name", ["plain", *(pytest.param(n, marks=pytest.mark.slow) for n in ("grouped_conv", "depthwise"))]
)
def test_masked_costs_are_those_of_really_pruned_networks(name: str, unit: KernelUnit) -> None:
    model, inputs = build(name), example_inputs(name)
    graph = trace(model, inputs)
    layers = tuple(layer.name for layer in graph.layers[:-1])
    steps = np.full(len(layers), 20, dtype=np.int64)
    tables = [masked_cost_table(graph, kind, layers, unit=unit, steps=steps) for kind in ("macs", "params")]
    rng = np.random.default_rng(0)
    for _ in range(4):
        shares = rng.integers(12, 21, len(layers))  # few enough zeros that no channel becomes idle
        kept = [g.num_channels if not g.prunable else max(1, g.num_channels - 2) for g in graph.channel_groups]
        channels = {
            group.group_id: ChannelDecision(keep=tuple(range(count)))
            for group, count in zip(graph.channel_groups, kept, strict=True)
            if group.prunable
        }
        kernels = {
            layer: KernelDecision(unit=unit, keep_ratio=int(share) / 20, criterion="random")
            for layer, share in zip(layers, shares, strict=True)
        }
        plan = make_plan(model, graph, Policy(channels=channels, kernels=kernels), seed=3)
        small = materialize(model, plan)
        num_nonzero, macs = count_nonzero(small, trace(small, inputs))
        counts: IntArray = np.concatenate([kept, shares]).astype(np.int64)
        removed = sum(group.num_channels for group in graph.channel_groups) - sum(kept)
        is_whole = sum(graph.group(g).num_channels - len(c) for g, c in plan.kept_channels.items()) == removed
        expected = (macs, num_nonzero) if is_whole else (None, None)
        for table, cost in zip(tables, expected, strict=True):
            assert cost is None or table.cost(counts) == pytest.approx(cost, abs=len(layers))


def test_a_walk_keeps_the_bound_on_what_is_not_zero() -> None:
    graph, layers = plain()
    space = a_space(graph, layers)
    table = masked_cost_table(graph, "macs", layers, unit="kernel", steps=space.steps)
    limit = Limit(kind="nonzero_macs", table=table, maximum=0.3 * graph.macs, original=float(graph.macs), asked="x=0.3")
    group_ids = [graph.channel_groups[int(index)].group_id for index in space.channels.indices]
    decisions = JointDecisions(space, group_ids, layers, criterion="l2")
    features = np.zeros((space.num_decisions, 1))
    env = LayerwiseEnv(space, Budget(limits=(limit,)), features, decisions=decisions, decoder="level")
    rng = np.random.default_rng(0)
    for _ in range(5):
        counts = decisions.counts(env.decode(rng.random((space.num_decisions, 1))))
        assert table.cost(space.whole(counts)) <= limit.maximum
        for decision, count in enumerate(counts):  # by brute force: nothing more fits anywhere
            larger = counts.copy()
            larger[decision] = space.above(decision, int(count))
            assert larger[decision] == count or table.cost(space.whole(larger)) > limit.maximum


def test_kernels_alone_cannot_go_below_their_own_bound() -> None:
    graph, layers = plain()
    space = a_space(graph, layers, cuts=False)
    table = masked_cost_table(graph, "macs", layers, unit="kernel", steps=space.steps)
    limit = Limit(kind="nonzero_macs", table=table, maximum=1000.0, original=float(graph.macs), asked="ratio=0.001")
    decisions = JointDecisions(space, [], layers, criterion="l2")
    with pytest.raises(TargetError, match="pruning inside kernels"):
        LayerwiseEnv(
            space,
            Budget(limits=(limit,)),
            np.zeros((space.num_decisions, 1)),
            decisions=decisions,
            decoder="level",
        )


def test_equal_numbers_leave_what_one_threshold_on_the_scores_leaves() -> None:
    graph, layers = plain()
    rng = np.random.default_rng(0)
    scores = [rng.normal(3.0 - 2.0 * place, 2.0, 300 * (1 + place)) for place in range(len(layers))]
    space = a_space(graph, layers, cuts=False)
    space = replace(space, levels=threshold_levels(scores, space.steps, least=0.02))
    every = np.concatenate(scores)
    for share in (0.05, 0.2, 0.5, 0.9):
        threshold = np.quantile(every, 1.0 - share)
        number = 1.0 - np.log(share) / np.log(0.02)
        for decision, layer in enumerate(space.order):
            left = float((scores[layer] >= threshold).mean())
            kept = space.nearest(decision, number) / space.steps[layer]
            assert abs(kept - np.clip(left, 2 / 20, 1.0)) <= 1 / 20, (share, layer)


def test_levels_rise_with_the_count_and_name_it_again() -> None:
    rng = np.random.default_rng(1)
    scores = [rng.normal(2.0, 1.0, 90), np.concatenate([np.full(60, -8.0), rng.uniform(-7.0, 1.0, 140)])]
    graph, layers = plain()
    levels = threshold_levels(scores, np.array([20, 20]), least=0.01)
    space = replace(
        a_space(graph, layers[:2], cuts=False),
        levels=levels,
        order=np.arange(2, dtype=np.int64),
    )
    for decision, asked in enumerate(levels):
        assert asked.shape == (21,)
        assert (np.diff(asked) >= 0.0).all()
        assert asked.min() >= 0.0
        assert asked.max() <= 1.0
        counts = space.counts(decision)
        np.testing.assert_array_equal(space.shares(decision, counts), asked[counts])
        again = np.array([space.nearest(decision, float(number)) for number in asked[counts]])
        np.testing.assert_array_equal(asked[again], asked[counts])
        assert (again >= counts).all()  # of counts that one threshold leaves, the largest
    assert space.lower_bound == min(levels[0][2], levels[1][2])
    assert levels[1][14] < levels[1][15] == levels[1][20] == 1.0  # the last six twentieths score alike
