"""Which groups are decided and which counts they may have."""

from __future__ import annotations

import numpy as np
import pytest

from tersenet.core.protocols import IntArray
from tersenet.envs import channel_space
from tersenet.errors import ModelError, TargetError
from tersenet.graph.model_graph import ChannelGroup, ModelGraph
from tersenet.testing.toy_budget import toy_space


def _group(
    name: str, num_channels: int, *, producers: int = 1, joined_by: tuple[str, ...] = (), reason: str = ""
) -> ChannelGroup:
    return ChannelGroup(
        group_id=name,
        num_channels=num_channels,
        members=(),
        prunable=not reason,
        reason=reason,
        joined_by=joined_by,
        producers=tuple(f"{name}.{i}" for i in range(producers)),
    )


def _graph(*groups: ChannelGroup) -> ModelGraph:
    return ModelGraph(layers=(), edges=(), channel_groups=groups, tensors=(), input_shape=(), not_counted=())


RESIDUAL = _graph(
    _group("stem", 16, producers=3, joined_by=("add",)),
    _group("inner", 10),
    _group("wide", 100),
    _group("head", 12, reason="network output"),
    _group("gated", 20, producers=2, joined_by=("mul",)),
)


def test_residual_groups_stay_whole_unless_asked_for() -> None:
    assert channel_space(RESIDUAL, prune_residual=False).indices.tolist() == [1, 2, 4]
    assert channel_space(RESIDUAL, prune_residual=True).indices.tolist() == [0, 1, 2, 4]


def test_the_minimum_is_a_fifth_rounded_up() -> None:
    space = channel_space(RESIDUAL, prune_residual=True)
    # by hand: 16/5 = 3.2, 10/5, 100/5, 20/5
    assert space.min_kept.tolist() == [4, 2, 20, 4]
    assert space.max_kept.tolist() == [16, 10, 100, 20]


def test_only_large_groups_are_rounded_to_blocks() -> None:
    space = channel_space(RESIDUAL, prune_residual=True, round_to=8, round_from=64)
    assert space.block.tolist() == [1, 1, 8, 1]
    # a fifth of 100 is 20, and 24 is the next multiple of 8
    assert space.min_kept.tolist() == [4, 2, 24, 4]
    assert space.counts(2).tolist() == [24, 32, 40, 48, 56, 64, 72, 80, 88, 96, 100]


def test_a_tiny_lower_bound_keeps_one_channel() -> None:
    assert channel_space(RESIDUAL, prune_residual=False, lower_bound=0.001).min_kept.tolist() == [1, 1, 1]


def test_a_block_larger_than_the_group_keeps_it_whole() -> None:
    space = channel_space(RESIDUAL, prune_residual=False, round_to=256)
    assert space.counts(1).tolist() == [100]
    assert space.above(1, 100) == 100


def test_a_group_of_one_channel_is_not_decided() -> None:
    with pytest.raises(ModelError, match="No channel group"):
        channel_space(_graph(_group("gate", 1)), prune_residual=True)


def test_when_only_residual_groups_are_left_the_error_says_how_to_cut_them() -> None:
    with pytest.raises(ModelError, match="prune_residual=True"):
        channel_space(_graph(_group("stem", 16, producers=3, joined_by=("add",))), prune_residual=False)


def test_when_nothing_can_be_cut_the_error_gives_the_reason() -> None:
    with pytest.raises(ModelError, match="network output"):
        channel_space(_graph(_group("head", 16, reason="network output")), prune_residual=True)


@pytest.mark.parametrize(("name", "value"), [("lower_bound", 0.0), ("lower_bound", 1.5), ("round_to", 0)])
def test_a_setting_out_of_range_is_named(name: str, value: float) -> None:
    with pytest.raises(TargetError, match=name):
        channel_space(RESIDUAL, prune_residual=False, **{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        (0.0, 8),
        (0.2, 8),
        (0.3, 16),
        (0.29, 16),
        (0.55, 24),
        (0.56, 24),
        (0.66, 32),
        (0.95, 45),
        (0.93, 40),
        (1.0, 45),
        (2.0, 45),
    ],
)
def test_a_ratio_is_rounded_to_the_nearest_count(ratio: float, expected: int) -> None:
    # counts: 8 (of at least 4.5), 16, 24, 32, 40, 45
    space = toy_space([45], lower_bound=0.1, block=8)
    distances = {count: abs(count - 45 * ratio) for count in (8, 16, 24, 32, 40, 45)}
    assert distances[expected] == min(distances.values())
    assert space.nearest(0, ratio) == expected


def test_every_executed_ratio_is_rounded_to_itself() -> None:
    space = toy_space([49], lower_bound=0.1)
    counts: IntArray = space.counts(0)
    assert [space.nearest(0, count / 49) for count in counts] == counts.tolist()


def test_undecided_groups_are_whole_in_the_full_vector() -> None:
    space = toy_space([4, 5, 6], undecided=[1])
    assert space.whole(np.array([1, 2], dtype=np.int64)).tolist() == [1, 5, 2]
