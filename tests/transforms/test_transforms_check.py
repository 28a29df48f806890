"""The comparison of the cut with the zeroed network, and the locking of groups that fail it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tersenet.core.policy import ChannelDecision, Policy
from tersenet.errors import PolicyError
from tersenet.graph import trace
from tersenet.testing.networks import NETWORKS, build, example_inputs
from tersenet.transforms import check_cut, make_plan, relative_difference, simulate, verify_groups


class HardCoded(nn.Module):
    """Three convolutions; the forward knows the size of the second one, and divides by that of the third one."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(i, 8, 3, padding=1) for i in (3, 8, 8))
        self.last = nn.Conv2d(8, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.two(torch.relu(self.one(x)))
        x = self.three(x.view(x.size(0), 8, 64).relu().view(x.size(0), 8, 8, 8))
        result: Tensor = self.last(x / x.shape[1])
        return result


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NETWORKS)
def test_all_groups_of_the_toy_networks_pass(name: str) -> None:
    model, inputs = build(name), example_inputs(name)
    graph = trace(model, inputs)
    assert verify_groups(model, graph, inputs) == graph


def test_sizes_written_into_the_forward_lock_their_groups_with_the_reason() -> None:
    model = HardCoded()
    graph = trace(model, IMAGES)
    assert [g.group_id for g in graph.channel_groups if g.prunable] == ["one", "two", "three"]
    verified = verify_groups(model, graph, IMAGES)
    assert [g.group_id for g in verified.channel_groups if g.prunable] == ["one"]
    assert "shape '[2, 8, 64]' is invalid" in verified.group("two").reason
    assert "test_transforms_check.py: x = self.three(x.view(x.size(0), 8, 64)" in verified.group("two").reason
    # the line that divides by a number of channels
    line = 1 + Path(__file__).read_text().splitlines().index("        result: Tensor = self.last(x / x.shape[1])")
    assert "changed the outputs" in verified.group("three").reason
    assert f"(test_transforms_check.py:{line})" in verified.group("three").reason


@pytest.mark.slow
def test_a_right_cut_differs_by_rounding_only_and_a_wrong_one_by_much() -> None:
    model, inputs = build("residual"), example_inputs("residual")
    graph = trace(model, inputs)
    decisions = {"stem.0": ChannelDecision(keep=(0, 2, 5)), "blocks.1.two.0": ChannelDecision(keep=(1, 3))}
    plan = make_plan(model, graph, Policy(channels=decisions), seed=0)
    assert check_cut(model, graph, plan, inputs) < 1e-4
    other = next(cut for cut in plan.cuts if cut.tensor == "head.weight")
    # the classifier reads two other columns than those that are left
    wrong = plan.model_copy(
        update={
            "keeps": (*plan.keeps, (5, 6)),
            "cuts": tuple(
                cut.model_copy(update={"keep": len(plan.keeps)}) if cut == other else cut for cut in plan.cuts
            ),
        }
    )
    assert check_cut(model, graph, wrong, inputs) > 0.05


def test_a_cut_that_does_not_run_is_an_error_that_says_what_to_do() -> None:
    model = HardCoded()
    graph = trace(model, IMAGES)
    plan = make_plan(model, graph, Policy(channels={"two": ChannelDecision(keep=(0, 1, 2))}), seed=0)
    with pytest.raises(PolicyError, match="verify_groups"):
        check_cut(model, graph, plan, IMAGES)


def test_zeroing_touches_exactly_the_slices_that_would_be_cut() -> None:
    model, graph = build("plain"), trace(build("plain"), example_inputs("plain"))
    plan = make_plan(model, graph, Policy(channels={"conv1": ChannelDecision(keep=(0, 1, 2, 3, 4, 5, 6))}), seed=0)
    zeroed = simulate(model, graph, plan)
    expected = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for name in ("conv1.weight", "conv1.bias", "bn1.weight", "bn1.bias", "bn1.running_mean"):
        expected[name][7] = 0.0
    expected["bn1.running_var"][7] = 1.0
    expected["conv2.weight"][:, 7] = 0.0
    for name, tensor in zeroed.state_dict().items():
        assert torch.equal(tensor, expected[name]), name


def test_differences_are_relative_to_the_largest_output_over_all_tensors() -> None:
    reference = [torch.tensor([1.0, -4.0]), torch.tensor([2.0])]
    assert relative_difference([torch.tensor([1.0, -4.0]), torch.tensor([2.5])], reference) == 0.125
    assert relative_difference([torch.tensor([1.0, -4.0])], reference) == float("inf")
    assert relative_difference([torch.tensor([1.0, torch.nan]), torch.tensor([2.0])], reference) == float("inf")
    zeros = [torch.zeros(2)]
    assert relative_difference(zeros, zeros) == 0.0
    assert relative_difference([torch.ones(2)], zeros) == float("inf")
