"""Surgery: the smaller network is consistent, the given one untouched, plans that do not fit are refused."""

from __future__ import annotations

import copy
import functools
import statistics
import time

import pytest
import torch
from torch import nn

from tersenet.core.plan import Cut, Plan
from tersenet.core.policy import ChannelDecision, Policy
from tersenet.errors import PolicyError
from tersenet.graph import ModelGraph, trace
from tersenet.testing.networks import NETWORKS, build, example_inputs
from tersenet.testing.toy_joins import OptionAResNet
from tersenet.transforms import make_plan, materialize


@functools.cache
def graph_of(name: str) -> ModelGraph:
    return trace(build(name), example_inputs(name))


def half_plan(model: nn.Module, name: str) -> Plan:
    graph = graph_of(name)
    channels = {g.group_id: ChannelDecision(pruning_ratio=0.5) for g in graph.channel_groups if g.prunable}
    return make_plan(model, graph, Policy(channels=channels), seed=0)


@pytest.mark.parametrize("name", NETWORKS)
def test_module_attributes_follow_the_tensors(name: str) -> None:
    model = build(name)
    smaller = materialize(model, half_plan(model, name))
    assert sum(p.numel() for p in smaller.parameters()) < sum(p.numel() for p in model.parameters())
    for module in smaller.modules():
        if isinstance(module, nn.ConvTranspose2d):
            assert tuple(module.weight.shape[:2]) == (module.in_channels, module.out_channels // module.groups)
        elif isinstance(module, nn.Conv2d):
            assert tuple(module.weight.shape[:2]) == (module.out_channels, module.in_channels // module.groups)
        elif isinstance(module, nn.Linear):
            assert tuple(module.weight.shape) == (module.out_features, module.in_features)
        elif isinstance(module, nn.BatchNorm2d | nn.BatchNorm1d | nn.InstanceNorm2d):
            assert module.weight.shape == (module.num_features,)
        elif isinstance(module, nn.PReLU):
            assert module.weight.shape == (module.num_parameters,)


def test_a_norm_without_tensors_follows_too() -> None:
    class Joined(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 8, 3), nn.Conv2d(3, 4, 3)
            self.norm, self.last = nn.InstanceNorm2d(12), nn.Conv2d(12, 5, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.last(self.norm(torch.cat([self.one(x), self.other(x)], dim=1)))
            return result

    model = Joined()
    policy = Policy(channels={"one": ChannelDecision(keep=(0, 1, 2)), "other": ChannelDecision(keep=(3,))})
    plan = make_plan(model, trace(model, torch.zeros(2, 3, 8, 8)), policy, seed=0)
    smaller = materialize(model, plan)
    assert smaller.get_submodule("norm").num_features == 4
    # instance norm warns if the number differs from what it sees, and warnings are errors here
    smaller(torch.zeros(2, 3, 8, 8))


def test_an_attribute_that_only_sounds_like_a_width_is_left_alone() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.num_features, self.scale = 100, nn.Parameter(torch.ones(8))
            self.first, self.last = nn.Linear(3, 8), nn.Linear(8, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            result: torch.Tensor = self.last(self.first(x) * self.scale)
            return result

    model = Scaled()
    policy = Policy(channels={"first": ChannelDecision(keep=(0, 1, 2))})
    smaller = materialize(model, make_plan(model, trace(model, torch.zeros(2, 3)), policy, seed=0))
    assert vars(smaller)["num_features"] == 100
    assert smaller.get_parameter("scale").shape == (3,)


def test_the_given_model_is_left_as_it_is() -> None:
    model = build("residual").train()
    plan = half_plan(model, "residual")
    before = copy.deepcopy(model)
    smaller = materialize(model, plan)
    with torch.no_grad():
        for parameter in smaller.parameters():
            parameter.zero_()
    for tensor, expected in zip(model.state_dict().values(), before.state_dict().values(), strict=True):
        assert torch.equal(tensor, expected)
    assert repr(model) == repr(before)


def test_flags_types_and_layout_are_kept() -> None:
    model = build("depthwise").bfloat16().train()
    model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.get_submodule("stem").eval()
    model.get_parameter("stem.0.weight").requires_grad_(False)
    smaller = materialize(model, half_plan(model, "depthwise"))
    assert [m.training for m in smaller.modules()] == [m.training for m in model.modules()]
    assert not smaller.get_parameter("stem.0.weight").requires_grad
    assert smaller.get_parameter("head.weight").requires_grad
    assert all(p.dtype == torch.bfloat16 and isinstance(p, nn.Parameter) for p in smaller.parameters())
    assert smaller.get_parameter("project.0.weight").is_contiguous(memory_format=torch.channels_last)
    smaller(example_inputs("depthwise")[0].bfloat16())


def test_tied_weights_stay_tied() -> None:
    model = build("tied_weights")
    smaller = materialize(model, half_plan(model, "tied_weights"))
    assert smaller.get_parameter("right.weight") is smaller.get_parameter("left.weight")
    assert smaller.get_submodule("right").out_channels == 4


def test_a_plan_read_from_json_gives_the_same_network() -> None:
    model = build("unet")
    plan = half_plan(model, "unet")
    one, other = materialize(model, plan), materialize(model, Plan.model_validate_json(plan.model_dump_json()))
    for tensor, expected in zip(other.state_dict().values(), one.state_dict().values(), strict=True):
        assert torch.equal(tensor, expected)


def test_a_compiled_model_is_cut_as_the_module_inside() -> None:
    model = build("plain")
    compiled = torch.compile(model, backend="eager")
    assert isinstance(compiled, nn.Module)
    smaller = materialize(compiled, half_plan(model, "plain"))
    assert type(smaller) is type(model)


def test_an_empty_plan_is_a_copy() -> None:
    model = build("plain")
    copied = materialize(model, Plan())
    assert copied is not model
    torch.testing.assert_close(copied(*example_inputs("plain")), model(*example_inputs("plain")))


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(keeps=((0,),), cuts=(Cut(tensor="conv9.weight", axis=0, keep=0),)), "does not have"),
        (Plan(keeps=((0, 8),), cuts=(Cut(tensor="conv1.weight", axis=0, keep=0),)), "keeps position 8 on axis 0"),
        (Plan(keeps=((0,),), cuts=(Cut(tensor="conv1.bias", axis=1, keep=0),)), "on axis 1"),
        (Plan(attributes={"conv9": {"groups": 1}}), "names a module 'conv9'"),
        (Plan(attributes={"conv1": {"out_channels": 4}}), r"conv1\.out_channels is 4, but its tensors need 8"),
        (Plan(attributes={"conv1": {"forward": 1}}), "only these may be set"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(plan: Plan, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        materialize(build("plain"), plan)


def test_resnet20_is_cut_within_milliseconds() -> None:
    model = OptionAResNet(blocks=3)
    graph = trace(model, torch.zeros(1, 3, 32, 32))
    channels = {g.group_id: ChannelDecision(pruning_ratio=0.5) for g in graph.channel_groups if g.prunable}
    plan = make_plan(model, graph, Policy(channels=channels), seed=0)
    times = []
    for _ in range(7):
        start = time.perf_counter()
        materialize(model, plan)
        times.append(time.perf_counter() - start)
    assert statistics.median(times) < 0.1


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_half_precision_network_on_a_gpu_is_cut_there() -> None:
    model = build("residual").cuda().half()
    smaller = materialize(model, half_plan(model, "residual"))
    assert all(p.is_cuda and p.dtype == torch.float16 for p in smaller.parameters())
    smaller(example_inputs("residual")[0].cuda().half())
