"""Refitted layers, against functions whose answer is known and against torch's own least squares."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tersenet.core.policy import ChannelDecision, Policy
from tersenet.graph import trace
from tersenet.testing.networks import NETWORKS, build, example_inputs
from tersenet.transforms import collect_moments, make_plan, materialize


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def set_weights(model: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 2)
    return model.eval()


def refitted(model: nn.Module, inputs: Tensor, keep: dict[str, tuple[int, ...]], **options: int) -> nn.Module:
    graph = trace(model, inputs[:2])
    policy = Policy(channels={group: ChannelDecision(keep=kept) for group, kept in keep.items()})
    plan = make_plan(model, graph, policy, seed=0)
    small = materialize(model, plan)
    collect_moments(model, graph, torch.split(inputs, 100), seed=options.get("seed", 0)).refit(small, plan)
    return small


@pytest.mark.parametrize("second", [{"padding": 1}, {"stride": 2}, {"dilation": 2, "padding": 1}, {"padding": "same"}])
def test_channels_that_others_can_stand_in_for_cost_nothing(second: dict[str, int]) -> None:
    # six channels made of three inputs: any three of them hold everything that the second layer reads
    chain = nn.Sequential(nn.Conv2d(3, 6, 1, bias=False), nn.Conv2d(6, 4, 3, **second))  # type: ignore[arg-type]
    model = set_weights(chain)
    inputs = drawn(200, 3, 9, 9)
    small = refitted(model, inputs, {"0": (0, 2, 5)})
    assert small.get_submodule("1").weight.shape == (4, 3, 3, 3)
    torch.testing.assert_close(small(inputs), model(inputs), atol=5e-3, rtol=5e-3)


def test_one_and_three_spatial_axes_are_refitted_as_well() -> None:
    for conv, shape in ((nn.Conv1d, (9,)), (nn.Conv3d, (5, 5, 5))):
        model = set_weights(nn.Sequential(conv(2, 4, 1, bias=False), conv(4, 3, 3, padding=1)))
        inputs = drawn(100, 2, *shape)
        torch.testing.assert_close(refitted(model, inputs, {"0": (1, 2)})(inputs), model(inputs), atol=5e-3, rtol=5e-3)


def test_a_linear_layer_gets_the_weight_and_bias_of_ordinary_least_squares() -> None:
    model = set_weights(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3)))
    inputs = drawn(400, 5)
    keep = (0, 3, 4, 6)
    small = refitted(model, inputs, {"0": keep})
    with torch.no_grad():
        hidden = torch.relu(model.get_submodule("0")(inputs))[:, list(keep)]
        solved = torch.linalg.lstsq(torch.cat([hidden, torch.ones(400, 1)], dim=1), model(inputs)).solution
    last = small.get_submodule("2")
    assert isinstance(last.weight, Tensor)
    torch.testing.assert_close(last.weight, solved[:4].T, atol=2e-3, rtol=2e-3)
    torch.testing.assert_close(last.bias, solved[4], atol=2e-3, rtol=2e-3)


def test_without_bias_and_norm_there_is_no_intercept_to_lean_on() -> None:
    model = set_weights(nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3, bias=False)))
    inputs = drawn(400, 5)
    small = refitted(model, inputs, {"0": (1, 2, 7)})
    with torch.no_grad():
        hidden = torch.relu(model.get_submodule("0")(inputs))[:, [1, 2, 7]]
        solved = torch.linalg.lstsq(hidden, model(inputs)).solution
    torch.testing.assert_close(small.get_submodule("2").weight, nn.Parameter(solved.T), atol=2e-3, rtol=2e-3)


def test_the_outputs_that_stay_keep_their_own_fit() -> None:
    model = set_weights(nn.Sequential(nn.Linear(5, 8), nn.Linear(8, 6), nn.Linear(6, 2)))
    inputs = drawn(300, 5)
    # five inputs: five of eight hidden values hold everything, so the middle layer's kept outputs are as before
    small = refitted(model, inputs, {"0": (0, 1, 2, 3, 4), "1": (1, 4)})
    with torch.no_grad():
        before = model.get_submodule("1")(model.get_submodule("0")(inputs))[:, [1, 4]]
        after = small.get_submodule("1")(small.get_submodule("0")(inputs))
    torch.testing.assert_close(after, before, atol=1e-2, rtol=1e-2)


@pytest.mark.parametrize("name", NETWORKS)
def test_any_network_can_be_refitted_and_is_left_as_it_was(name: str) -> None:
    model, inputs = build(name).eval(), example_inputs(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    graph = trace(model, inputs)
    channels = {g.group_id: ChannelDecision(pruning_ratio=0.5) for g in graph.channel_groups if g.prunable}
    plan = make_plan(model, graph, Policy(channels=channels), seed=0)
    small = materialize(model, plan)
    as_cut = {key: value.clone() for key, value in small.state_dict().items()}
    collect_moments(model, graph, [inputs], seed=0).refit(small, plan)
    cut = {cut.tensor for cut in plan.cuts if cut.axis == 1}
    for key, value in small.state_dict().items():
        if not torch.equal(value, as_cut[key]):
            assert key in cut or key.replace(".bias", ".weight") in cut
            assert getattr(small.get_submodule(key.rpartition(".")[0]), "groups", 1) == 1
    assert all(bool(torch.isfinite(value).all()) for value in small.state_dict().values() if value.is_floating_point())
    assert not any(module._forward_hooks for module in model.modules())
    for key, value in model.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=0, atol=0)


def test_the_same_seed_gives_the_same_weights_and_another_one_others() -> None:
    model = set_weights(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)))
    inputs = drawn(40, 3, 9, 9)
    first, again, other = (
        refitted(model, inputs, {"0": (0, 2, 5)}, seed=seed).get_submodule("2").weight for seed in (0, 0, 1)
    )
    assert isinstance(first, Tensor)
    assert isinstance(again, Tensor)
    assert isinstance(other, Tensor)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
