"""Rules at three levels, on networks written out by hand."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from tersenet.core.rules import ChannelRule, ChannelRules
from tersenet.envs import apply_rules, channel_space
from tersenet.errors import PolicyError, UnknownNameError
from tersenet.graph import ChannelGroup, Layer, ModelGraph


def _layer(name: str, op: str) -> Layer:
    return Layer(
        name=name,
        op=op,
        weight=f"{name}.weight",
        in_channels=1,
        out_channels=1,
        kernel_size=(),
        stride=(),
        conv_groups=1,
        output_shape=(1,),
        num_params=1,
        macs=1,
    )


def _group(*producers: str, num_channels: int = 100, reason: str = "", joined_by: tuple[str, ...] = ()) -> ChannelGroup:
    return ChannelGroup(
        group_id=producers[0],
        num_channels=num_channels,
        members=(),
        prunable=not reason,
        reason=reason,
        joined_by=joined_by,
        producers=producers,
    )


OPS = {
    "stem": "conv",
    "body.0.a": "conv",
    "body.0.b": "conv",
    "body.1.a": "conv",
    "head.fc1": "linear",
    "out": "linear",
}
GRAPH = ModelGraph(
    layers=tuple(_layer(name, op) for name, op in OPS.items()),
    edges=(),
    channel_groups=(
        _group("stem", "body.0.b", joined_by=("add",)),
        _group("body.0.a"),
        _group("body.1.a", num_channels=10),
        _group("head.fc1"),
        _group("out", reason="they are outputs of the network"),
    ),
    tensors=(),
    input_shape=(),
    not_counted=(),
)


def prunable(rules: ChannelRules) -> set[str]:
    ruled = apply_rules(GRAPH, rules, prune_residual=True)
    return {group.group_id for group in ruled.graph.channel_groups if group.prunable}


@pytest.mark.parametrize(
    ("rules", "left"),
    [
        (ChannelRules(), {"stem", "body.0.a", "body.1.a", "head.fc1"}),
        (ChannelRules(by_name={"head": None}), {"stem", "body.0.a", "body.1.a"}),
        (ChannelRules(by_name={"*.a": None}), {"stem", "head.fc1"}),
        (ChannelRules(by_name={"body.0.b": None}), {"body.0.a", "body.1.a", "head.fc1"}),  # the stem's sum
        (ChannelRules(by_type={"linear": None}), {"stem", "body.0.a", "body.1.a"}),
        (ChannelRules(everything=None, by_name={"body.1": ChannelRule()}), {"body.1.a"}),
        (ChannelRules(by_name={"body": None, "body.1.a": ChannelRule()}), {"body.1.a", "head.fc1"}),
        (ChannelRules(by_name={"body.1.a": ChannelRule(), "body": None}), {"head.fc1"}),  # the later has the last word
    ],
)
def test_none_leaves_alone_and_a_narrower_rule_takes_back_in(rules: ChannelRules, left: set[str]) -> None:
    assert prunable(rules) == left


def test_the_reason_names_the_entry_that_left_a_group_alone() -> None:
    graph = apply_rules(GRAPH, ChannelRules(by_name={"head.*": None}), prune_residual=True).graph
    assert graph.group("head.fc1").reason == "left alone by the rule by_name 'head.*'"
    assert graph.group("out").reason == "they are outputs of the network"


def resolved(rules: ChannelRules) -> Mapping[str, ChannelRule]:
    return apply_rules(GRAPH, rules, prune_residual=True).rules


def test_a_narrower_rule_changes_what_it_says_and_nothing_else() -> None:
    rules = ChannelRules(
        everything=ChannelRule(lower_bound=0.3, round_to=4),
        by_type={"linear": ChannelRule(criterion="l2")},
        by_name={"body.*": ChannelRule(lower_bound=0.5), "body.1.a": ChannelRule(round_to=2)},
    )
    found = resolved(rules)
    assert found["head.fc1"] == ChannelRule(lower_bound=0.3, round_to=4, criterion="l2")
    assert found["body.0.a"] == ChannelRule(lower_bound=0.5, round_to=4)
    assert found["body.1.a"] == ChannelRule(lower_bound=0.5, round_to=2)


def test_layers_of_one_sum_get_the_stricter_bound_and_blocks_that_suit_both() -> None:
    rules = ChannelRules(
        by_name={
            "stem": ChannelRule(lower_bound=0.3, round_to=4),
            "body.0.b": ChannelRule(lower_bound=0.6, round_to=6, criterion="l2"),
        }
    )
    assert resolved(rules)["stem"] == ChannelRule(lower_bound=0.6, round_to=12, criterion="l2")


def test_layers_of_one_sum_cannot_have_two_ratios() -> None:
    rules = ChannelRules(by_name={"stem": ChannelRule(pruning_ratio=0.5), "body.0.b": ChannelRule(pruning_ratio=0.25)})
    with pytest.raises(
        PolicyError, match=r"'stem' and 'body.0.b'.*pruning_ratio is 0.5 for one and 0.25 for the other"
    ):
        apply_rules(GRAPH, rules, prune_residual=True)


def test_a_pattern_that_matches_nothing_is_answered_with_the_nearest_names() -> None:
    with pytest.raises(UnknownNameError, match=r"'body.0.aa' matches no layer. .*'body.0.a'.*all 6 of them"):
        apply_rules(GRAPH, ChannelRules(by_name={"body.0.aa": None}), prune_residual=True)
    with pytest.raises(UnknownNameError, match=r"'bod' matches no layer. .*'body'"):
        apply_rules(GRAPH, ChannelRules(by_name={"bod": ChannelRule()}), prune_residual=True)


@pytest.mark.parametrize(
    ("name", "because"),
    [
        ("out", "they are outputs of the network"),
        ("stem", "residual sums tie its channels"),
    ],
)
def test_an_entry_that_changes_nothing_is_noted_with_the_reason(name: str, because: str) -> None:
    rules = ChannelRules(by_name={name: ChannelRule(pruning_ratio=0.5), "head": ChannelRule(lower_bound=0.5)})
    (note,) = apply_rules(GRAPH, rules, prune_residual=False).notes
    assert note.startswith(f"The rule by_name {name!r} changes nothing: {because}")


def test_counts_follow_the_rules_of_their_group() -> None:
    rules = ChannelRules(
        by_name={
            "body.0.a": ChannelRule(pruning_ratio=0.33, round_to=8),
            "body.1.a": ChannelRule(lower_bound=0.55, round_to=3),
            "head.fc1": ChannelRule(lower_bound=0.1),
        }
    )
    ruled = apply_rules(GRAPH, rules, prune_residual=True)
    space = channel_space(ruled.graph, prune_residual=True, round_to=16, round_from=64, rules=ruled.rules)
    # by hand: a fifth of 100 is 20, 32 in blocks; 67 of 100 stay; 5.5 of 10 are 6; a tenth of 100 is 10, 16 in blocks
    assert space.counts(0).tolist() == [32, 48, 64, 80, 96, 100]
    assert space.counts(1).tolist() == [67]
    assert space.counts(2).tolist() == [6, 9, 10]
    assert space.counts(3).tolist() == [16, 32, 48, 64, 80, 96, 100]
    assert [space.nearest(1, share) for share in (0.0, 0.7, 1.0)] == [67, 67, 67]
    assert space.above(1, 67) == 67
    assert space.lower_bound == 0.1


def test_without_rules_nothing_changes() -> None:
    ruled = apply_rules(GRAPH, None, prune_residual=True)
    assert ruled.graph is GRAPH
    assert ruled.rules == {}


def test_false_stands_for_none_where_a_file_has_no_null() -> None:
    rules = ChannelRules.model_validate({"by_name": {"head": False}, "by_type": {"conv": {"round_to": 4}}})
    assert rules == ChannelRules(by_name={"head": None}, by_type={"conv": ChannelRule(round_to=4)})
    assert ChannelRules.model_validate_json(rules.model_dump_json()) == rules
