"""Losses and updates on numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch

from tersenet.agents.losses import (
    actor_loss,
    critic_loss,
    critic_targets,
    double_q_targets,
    huber_loss,
    moving_average,
    soft_update,
    weighted_critic_loss,
)

REWARDS = torch.tensor([1.0, 2.0])
NEXT = torch.tensor([10.0, 20.0])
DONE = torch.tensor([False, True])


def test_targets_add_the_discounted_next_value_except_at_the_end() -> None:
    targets = critic_targets(REWARDS, NEXT, DONE, discount=0.5, baseline=0.25, bootstrap=True)
    # by hand: 1 - 0.25 + 0.5 * 10, and 2 - 0.25
    torch.testing.assert_close(targets, torch.tensor([5.75, 1.75]))


def test_targets_without_bootstrap_are_the_centred_rewards() -> None:
    targets = critic_targets(REWARDS, NEXT, DONE, discount=1.0, baseline=0.5, bootstrap=False)
    torch.testing.assert_close(targets, torch.tensor([0.5, 1.5]))


def test_a_next_value_after_the_end_may_be_anything() -> None:
    targets = critic_targets(REWARDS, torch.tensor([0.0, torch.nan]), DONE, discount=1.0, baseline=0.0, bootstrap=True)
    torch.testing.assert_close(targets, torch.tensor([1.0, 2.0]))


def test_critic_loss_is_the_mean_square_and_targets_get_no_gradient() -> None:
    values = torch.tensor([1.0, 3.0], requires_grad=True)
    targets = torch.tensor([0.0, 1.0], requires_grad=True)
    loss = critic_loss(values, targets)
    loss.backward()  # type: ignore[no-untyped-call]
    # by hand: (1 + 4) / 2, and 2 (v - t) / 2
    assert loss.item() == pytest.approx(2.5)
    torch.testing.assert_close(values.grad, torch.tensor([1.0, 2.0]))
    assert targets.grad is None


def test_actor_loss_falls_when_values_rise() -> None:
    assert actor_loss(torch.tensor([1.0, 3.0])).item() == pytest.approx(-2.0)


def test_soft_update_moves_a_hundredth_of_the_way() -> None:
    target, online = torch.tensor([0.0, 10.0]), torch.tensor([1.0, 20.0])
    soft_update([target], [online], tau=0.01)
    torch.testing.assert_close(target, torch.tensor([0.01, 10.1]))
    torch.testing.assert_close(online, torch.tensor([1.0, 20.0]))


def test_the_moving_average_begins_with_its_first_value() -> None:
    assert moving_average(None, 0.8, decay=0.5) == 0.8
    assert moving_average(0.8, 0.4, decay=0.75) == pytest.approx(0.7)


def test_the_loss_of_several_critics_weighs_samples_and_adds_critics() -> None:
    values = torch.tensor([[1.0, 2.0], [0.0, 3.0]], requires_grad=True)
    weights = torch.tensor([[1.0, 0.5], [2.0, 0.0]])
    loss = weighted_critic_loss(values, torch.tensor([[0.0, 0.0], [1.0, 1.0]]), weights)
    # by hand: (1 * 1 + 0.5 * 4) / 2 + (2 * 1 + 0) / 2
    assert float(loss.detach()) == pytest.approx(2.5)


def test_double_dqn_takes_the_targets_value_of_the_action_that_the_online_network_prefers() -> None:
    online = torch.tensor([[1.0, 5.0, 2.0], [9.0, 0.0, 0.0]])
    target = torch.tensor([[7.0, 3.0, 8.0], [4.0, 100.0, 100.0]])
    found = double_q_targets(REWARDS, online, target, DONE, discount=0.5)
    # by hand: 1 + 0.5 * 3, where plain DQN would have 1 + 0.5 * 8; and 2, since nothing follows
    torch.testing.assert_close(found, torch.tensor([2.5, 2.0]))


def test_hubers_loss_is_square_for_small_errors_and_linear_for_large_ones() -> None:
    values = torch.tensor([0.5, 4.0], requires_grad=True)
    targets = torch.tensor([0.0, 1.0], requires_grad=True)
    loss = huber_loss(values, targets, delta=2.0)
    loss.backward()  # type: ignore[no-untyped-call]
    # by hand: (0.5 * 0.25 + 2 * (3 - 1)) / 2; gradients 0.5 / 2, and 2 / 2 instead of 3 / 2
    assert loss.item() == pytest.approx(2.0625)
    torch.testing.assert_close(values.grad, torch.tensor([0.25, 1.0]))
    assert targets.grad is None
