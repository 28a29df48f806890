"""From policy to plan: what is kept, and what is refused."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor, nn

from tersenet.core.plan import Plan
from tersenet.core.policy import ChannelDecision, Policy
from tersenet.errors import ModelError, PolicyError, UnknownNameError
from tersenet.graph import ModelGraph, trace
from tersenet.testing.networks import NETWORKS, build, example_inputs
from tersenet.transforms import make_plan, materialize, member_views


@functools.cache
def traced(name: str) -> ModelGraph:
    return trace(build(name), example_inputs(name))


def graph_of(name: str) -> tuple[nn.Module, ModelGraph]:
    return build(name), traced(name)


def ratio(value: float, criterion: str = "l1") -> ChannelDecision:
    return ChannelDecision(pruning_ratio=value, criterion=criterion)


def with_filter_sums(model: nn.Module, sums: list[float]) -> None:
    weight = model.get_parameter("conv1.weight")
    with torch.no_grad():
        weight.copy_(torch.tensor(sums).view(-1, 1, 1, 1).expand_as(weight))


def test_the_channels_with_the_highest_scores_stay() -> None:
    model, graph = graph_of("plain")
    with_filter_sums(model, [1.0, 8.0, 2.0, 7.0, 3.0, 6.0, 4.0, 5.0])
    plan = make_plan(model, graph, Policy(channels={"conv1": ratio(0.5)}), seed=0)
    assert plan.kept_channels == {"conv1": (1, 3, 5, 7)}


def test_of_equal_scores_the_lower_index_stays() -> None:
    model, graph = graph_of("plain")
    with_filter_sums(model, [1.0, 1.0, 1.0, 1.0, 1.0, 2.0, 1.0, 1.0])
    plan = make_plan(model, graph, Policy(channels={"conv1": ratio(0.625)}), seed=0)
    assert plan.kept_channels == {"conv1": (0, 1, 5)}


def test_a_plan_lists_every_tensor_that_is_cut_and_what_stays() -> None:
    model, graph = graph_of("plain")
    plan = make_plan(model, graph, Policy(channels={"conv1": ChannelDecision(keep=(2, 5))}), seed=0)
    assert {(cut.tensor, cut.axis): plan.keeps[cut.keep] for cut in plan.cuts} == {
        ("conv1.weight", 0): (2, 5),
        ("conv1.bias", 0): (2, 5),
        ("bn1.weight", 0): (2, 5),
        ("bn1.bias", 0): (2, 5),
        ("bn1.running_mean", 0): (2, 5),
        ("bn1.running_var", 0): (2, 5),
        ("conv2.weight", 1): (2, 5),
    }
    assert plan.attributes == {
        "conv1": {"out_channels": 2},
        "bn1": {"num_features": 2},
        "conv2": {"in_channels": 2},
    }
    assert Plan.model_validate_json(plan.model_dump_json()) == plan


@pytest.mark.parametrize("name", NETWORKS)
def test_no_layer_is_ever_emptied(name: str) -> None:
    model, graph = graph_of(name)
    policy = Policy(channels={g.group_id: ratio(0.999) for g in graph.channel_groups if g.prunable})
    plan = make_plan(model, graph, policy, seed=0)
    assert all(len(kept) == 1 for kept in plan.kept_channels.values())
    smaller = materialize(model, plan)
    assert all(0 not in parameter.shape for parameter in smaller.parameters())
    smaller(*example_inputs(name))


def test_the_same_seed_gives_the_same_plan_and_groups_of_one_size_draw_apart() -> None:
    model, graph = graph_of("residual")
    policy = Policy(channels={g.group_id: ratio(0.5, "random") for g in graph.channel_groups if g.prunable})
    plans = [make_plan(model, graph, policy, seed=seed) for seed in (0, 0, 1)]
    assert plans[0] == plans[1]
    assert plans[0] != plans[2]
    assert plans[0].kept_channels["stem.0"] != plans[0].kept_channels["blocks.0.one.0"]


def test_a_criterion_sees_each_producer_with_the_norm_directly_behind_it() -> None:
    model, graph = graph_of("option_a")
    views = member_views(graph.group("conv1"), dict(model.named_parameters()))
    assert [view.weight.shape[0] for view in views] == [16, 16, 32, 64]
    scale = model.get_parameter("layer2.0.bn2.weight")
    assert views[2].norm_scale is not None
    torch.testing.assert_close(views[2].norm_scale, scale.detach().abs()[8:24])
    model, graph = graph_of("pre_activation")
    views = member_views(graph.group("stem"), dict(model.named_parameters()))
    assert [view.norm_scale is None for view in views] == [False, True, True]


def test_policies_that_do_not_fit_are_refused_with_the_way_out() -> None:
    model, graph = graph_of("plain")

    def plan(**channels: ChannelDecision) -> Plan:
        return make_plan(model, graph, Policy(channels=channels), seed=0)

    with pytest.raises(PolicyError, match="Did you mean 'conv1'"):
        plan(conv11=ratio(0.5))
    with pytest.raises(PolicyError, match="'head' cannot be cut: these are the model's outputs"):
        plan(head=ratio(0.5))
    with pytest.raises(PolicyError, match="'conv1': keep names channel 8"):
        plan(conv1=ChannelDecision(keep=(0, 8)))
    with pytest.raises(UnknownNameError, match="l1"):
        plan(conv1=ratio(0.5, "l11"))
    assert plan(head=ratio(0.0)) == Plan()


def test_a_graph_of_another_model_is_refused() -> None:
    _, graph = graph_of("plain")
    with pytest.raises(PolicyError, match="graph belongs to another model"):
        make_plan(build("residual"), graph, Policy(), seed=0)


def test_weights_that_are_not_numbers_are_refused() -> None:
    model, graph = graph_of("plain")
    with torch.no_grad():
        model.get_parameter("conv1.weight")[0] = torch.nan
    with pytest.raises(ModelError, match="NaN"):
        make_plan(model, graph, Policy(channels={"conv1": ratio(0.5)}), seed=0)


def test_several_groups_on_one_axis_are_cut_together() -> None:
    model, graph = graph_of("inception_concat")
    policy = Policy(
        channels={"branches.0.0": ChannelDecision(keep=(1, 2)), "branches.1.0": ChannelDecision(keep=(0, 4))}
    )
    plan = make_plan(model, graph, policy, seed=0)
    kept: dict[tuple[str, int], Tensor | tuple[int, ...]] = {
        (cut.tensor, cut.axis): plan.keeps[cut.keep] for cut in plan.cuts
    }
    # branches of 4, 5, 3 channels, then 6 pooled ones
    assert kept["last.weight", 1] == (1, 2, 4, 8, *range(9, 18))
