"""Stacked members give what each would give alone, written out in plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tersenet.agents.plan_networks import CriticParts, PlanActors, PlanCritics

KNOWN = torch.cat([torch.eye(3), torch.tensor([[0.1, 0.9], [0.5, 0.2], [1.0, 0.0]])], dim=1)


def _numbers(module: torch.nn.Module) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.float64]]]:
    return {name: parameter.detach().double().numpy() for name, parameter in module.named_parameters()}


def _value_by_hand(critics: PlanCritics, member: int, plan: np.ndarray[tuple[int], np.dtype[np.float64]]) -> float:
    numbers, value, centred = _numbers(critics), 0.0, 2.0 * plan - 1.0
    if critics.parts != "joint":
        hidden = np.zeros(4)
        for action in range(3):
            known = KNOWN[action].double().numpy()
            offset = known @ numbers["curves.offset"][member] + numbers["curves.offset_bias"][member, 0]
            slope = known @ numbers["curves.slope"][member] + numbers["curves.slope_bias"][member, 0]
            hidden += np.maximum(0.0, offset + slope * centred[action])
        value += float(hidden / np.sqrt(3.0) @ numbers["curves.out"][member][:, 0])
        value += float(numbers["curves.out_bias"][member, 0, 0])
    if critics.parts != "curves":
        rest = centred
        for layer in range(3):
            rest = rest @ numbers[f"joint.weight{layer}"][member] + numbers[f"joint.bias{layer}"][member, 0]
            rest = np.maximum(0.0, rest) if layer < 2 else rest
        value += float(rest[0])
    return value


@pytest.mark.parametrize("parts", ["both", "curves", "joint"])
def test_values_are_those_written_out_per_member(parts: CriticParts) -> None:
    critics = PlanCritics(KNOWN, num_members=2, hidden=4, parts=parts, seed=0)
    plans = torch.rand((2, 5, 3), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        values = critics(plans)
    assert values.shape == (2, 5)
    for member, number in np.ndindex(2, 5):
        expected = _value_by_hand(critics, member, plans[member, number].double().numpy())
        assert float(values[member, number]) == pytest.approx(expected, abs=1e-5)


def test_a_sum_of_curves_has_no_cross_effects() -> None:
    critics = PlanCritics(KNOWN, num_members=3, hidden=8, parts="curves", seed=0)
    low, high = torch.full((3,), 0.2), torch.full((3,), 0.9)
    corners = torch.stack([low, torch.cat([high[:1], low[1:]]), torch.cat([low[:2], high[2:]]), high])
    corners[3, 1] = low[1]
    values = critics(corners.expand(3, -1, -1))
    # f(a, c) - f(a, C) - f(A, c) + f(A, C) is 0 for a sum of f_1(a) and f_3(c)
    torch.testing.assert_close(values[:, 0] + values[:, 3], values[:, 1] + values[:, 2])
    with torch.no_grad():
        joint = PlanCritics(KNOWN, num_members=3, hidden=8, parts="joint", seed=0)(corners.expand(3, -1, -1))
    assert float((joint[:, 0] + joint[:, 3] - joint[:, 1] - joint[:, 2]).abs().max()) > 1e-4


def test_plans_begin_near_the_middle_and_differ_between_members() -> None:
    with torch.no_grad():
        plans = PlanActors(KNOWN, num_members=4, hidden=16, seed=0)()
    assert plans.shape == (4, 3)
    assert float((plans - 0.5).abs().max()) < 0.2
    assert len({tuple(row) for row in plans.tolist()}) == 4
