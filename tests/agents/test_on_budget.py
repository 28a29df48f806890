"""Plans shifted onto a budget: values by hand, gradients against finite differences."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tersenet.agents.on_budget import clipped_through, overshoot, shifted_to_cost


def test_a_plan_is_shifted_by_one_amount() -> None:
    # prices 1 and 3: 0.2 + 3 * 0.6 = 2; a cost of 1.2 needs a shift of -0.2
    shifted = shifted_to_cost(torch.tensor([[0.2, 0.6]]), torch.tensor([1.0, 3.0]), 1.2)
    torch.testing.assert_close(shifted, torch.tensor([[0.0, 0.4]]), atol=1e-5, rtol=0.0)


def test_clipped_actions_leave_the_rest_of_the_shift_to_the_others() -> None:
    # a common shift of +0.1 would be 1.05 and 0.6; the first counts as 1, so the second must reach 0.9
    shifted = shifted_to_cost(torch.tensor([[0.95, 0.5]]), torch.tensor([1.0, 1.0]), 1.9)
    torch.testing.assert_close(shifted, torch.tensor([[1.35, 0.9]]), atol=1e-5, rtol=0.0)


@pytest.mark.parametrize(("cost", "expected"), [(9.0, 1.0), (-1.0, 0.0)])
def test_a_cost_out_of_reach_gives_the_nearest_plan(cost: float, expected: float) -> None:
    shifted = shifted_to_cost(torch.tensor([[0.3, 0.7]]), torch.tensor([1.0, 1.0]), cost)
    torch.testing.assert_close(shifted.clamp(0.0, 1.0), torch.full((1, 2), expected), atol=1e-5, rtol=0.0)


def test_without_prices_a_plan_stays_as_it_is() -> None:
    plan = torch.tensor([[-0.5, 0.5, 1.5]])
    assert torch.equal(shifted_to_cost(plan, torch.zeros(3), 0.0), plan)


def test_gradients_within_the_box_are_those_of_finite_differences() -> None:
    generator = torch.Generator().manual_seed(0)
    plan = (0.3 + 0.4 * torch.rand((2, 5), generator=generator, dtype=torch.float64)).requires_grad_()
    prices = torch.tensor([1.0, 2.0, 0.5, 1.5, 3.0], dtype=torch.float64)
    weights = torch.rand((2, 5), generator=generator, dtype=torch.float64)

    def value(plans: torch.Tensor) -> torch.Tensor:
        return (clipped_through(shifted_to_cost(plans, prices, 3.5)) ** 2 * weights).sum()

    (gradient,) = torch.autograd.grad(value(plan), plan)
    step = 1e-4
    for index in np.ndindex(2, 5):
        moved = torch.zeros_like(plan)
        moved[index] = step
        with torch.no_grad():
            slope = (value(plan + moved) - value(plan - moved)) / (2 * step)
        assert float(gradient[index]) == pytest.approx(float(slope), abs=1e-3)


def test_asking_for_more_everywhere_brings_nothing() -> None:
    plan = torch.tensor([[0.3, 0.6, 0.4]], requires_grad=True)
    prices = torch.tensor([1.0, 2.0, 4.0])
    (gradient,) = torch.autograd.grad((shifted_to_cost(plan, prices, 2.0) @ prices).sum(), plan)
    torch.testing.assert_close(gradient, torch.zeros(1, 3), atol=1e-5, rtol=0.0)


def test_a_clipped_action_can_come_back() -> None:
    plan = torch.tensor([[-0.1, 0.5, 1.2]], requires_grad=True)
    clipped = clipped_through(plan)
    assert clipped.tolist() == [[0.0, 0.5, pytest.approx(1.0)]]
    (gradient,) = torch.autograd.grad(clipped.sum(), plan)
    assert gradient.tolist() == [[1.0, 1.0, 1.0]]


def test_the_overshoot_is_the_squared_distance_to_the_box() -> None:
    # by hand: 0.1^2 + 0.2^2
    assert float(overshoot(torch.tensor([[-0.1, 0.5, 1.2]]))) == pytest.approx(0.05)
