"""Losses and updates of actor and critic, and of a Q-network, as pure functions.

Axes: B samples of a batch, A actions to choose from.

Source: Lillicrap et al. 2016 (DDPG), arXiv:1509.02971, algorithm 1; the baseline from He et al. 2018 (AMC),
arXiv:1802.03494, section 3.2, in the form of the released code (a moving average of batch means); for Q-networks van
Hasselt et al. 2016 (double DQN), arXiv:1509.06461, and Mnih et al. 2015 (errors are clipped, which is Huber's loss).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor


def critic_targets(
    rewards_B: Tensor, next_values_B: Tensor, done_B: Tensor, *, discount: float, baseline: float, bootstrap: bool
) -> Tensor:
    """What the critic is regressed to.

    Args:
        rewards_B: reward of each step, shape (B,).
        next_values_B: target critic's value of the next step, shape (B,); ignored without ``bootstrap``.
        done_B: whether the step was the last of its episode, shape (B,), bool; last steps have no next value.
        discount: weight of the next value.
        baseline: subtracted from every reward.
        bootstrap: whether the next value is added at all.

    Returns:
        ``rewards - baseline + discount * next_values`` (the last term where it applies), shape (B,).
    """
    centred_B = rewards_B - baseline
    if not bootstrap:
        return centred_B
    return centred_B + discount * torch.where(done_B, torch.zeros_like(next_values_B), next_values_B)


def critic_loss(values_B: Tensor, targets_B: Tensor) -> Tensor:
    """Mean squared error of the critic, a scalar; targets carry no gradient."""
    return (values_B - targets_B.detach()).square().mean()


def weighted_critic_loss(values_MB: Tensor, targets_MB: Tensor, weights_MB: Tensor) -> Tensor:
    """Squared error of several critics, a scalar: weighted mean over samples (B), sum over critics (M)."""
    return (weights_MB * (values_MB - targets_MB.detach()).square()).mean(dim=1).sum()


def actor_loss(values_B: Tensor) -> Tensor:
    """Negative mean of the critic's values of the actor's own actions, a scalar."""
    return -values_B.mean()


def clipped_surrogate(log_ratios_B: Tensor, advantages_B: Tensor, *, clip: float) -> Tensor:
    """PPO's loss, a scalar: gains from making better steps likelier count until the ratio has moved by ``clip``.

    Args:
        log_ratios_B: logarithm of a step's probability now over its probability when it was taken, shape (B,).
        advantages_B: how much better the step was than expected, shape (B,); carry no gradient.

    Source: Schulman et al. 2017, arXiv:1707.06347, equation 7.
    """
    ratios_B, gains_B = log_ratios_B.exp(), advantages_B.detach()
    return -torch.minimum(ratios_B * gains_B, ratios_B.clamp(1.0 - clip, 1.0 + clip) * gains_B).mean()


@torch.no_grad()
def soft_update(targets: Iterable[Tensor], online: Iterable[Tensor], *, tau: float) -> None:
    """Move each target tensor by the share ``tau`` of the way to its online one, in place."""
    for target, source in zip(targets, online, strict=True):
        target.lerp_(source, tau)


def moving_average(previous: float | None, value: float, *, decay: float) -> float:
    """``decay * previous + (1 - decay) * value``; the value itself the first time."""
    return value if previous is None else decay * previous + (1.0 - decay) * value


def double_q_targets(
    rewards_B: Tensor, next_online_BA: Tensor, next_target_BA: Tensor, done_B: Tensor, *, discount: float
) -> Tensor:
    """What a Q-network's value of the action taken is regressed to, double DQN's equation 4.

    Args:
        rewards_B: reward of each step, shape (B,).
        next_online_BA: values of the next step by the network that learns, shape (B, A): they choose the action.
        next_target_BA: the same by its target network: they say what that action is worth.
        done_B: whether the step was the last of its episode, shape (B,), bool; last steps have no next value.
        discount: weight of the next value.

    Returns:
        Shape (B,).
    """
    chosen_B1 = next_online_BA.argmax(dim=1, keepdim=True)
    next_B = next_target_BA.gather(1, chosen_B1).squeeze(1)
    return rewards_B + discount * torch.where(done_B, torch.zeros_like(next_B), next_B)


def huber_loss(values_B: Tensor, targets_B: Tensor, *, delta: float) -> Tensor:
    """Half the squared error up to ``delta``, ``delta * (error - delta / 2)`` above; the mean, a scalar."""
    return F.huber_loss(values_B, targets_B.detach(), delta=delta)


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step down ``loss`` along the optimiser's own parameters only: an actor's loss runs through the critic."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        parameter.grad = gradient
    optimizer.step()
