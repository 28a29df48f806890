"""Actor and critic: shapes, starting values and independence of global random state."""

from __future__ import annotations

import torch

from tersenet.agents.networks import Actor, Critic


def test_the_actor_begins_in_the_middle_of_its_range() -> None:
    actor = Actor(14, 1, hidden=(300, 300), seed=0)
    actions = actor(torch.rand(50, 14, generator=torch.Generator().manual_seed(0)))
    assert actions.shape == (50, 1)
    assert (actions - 0.5).abs().max().item() < 0.05


def test_the_critic_gives_one_value_near_zero_per_sample() -> None:
    values = Critic(14, 2, hidden=(300, 300), seed=0)(torch.rand(50, 14), torch.rand(50, 2))
    assert values.shape == (50,)
    assert values.abs().max().item() < 0.05


def test_networks_have_two_hidden_layers_of_three_hundred() -> None:
    shapes = [tuple(parameter.shape) for parameter in Critic(14, 1, hidden=(300, 300), seed=0).parameters()]
    assert shapes == [(300, 15), (300,), (300, 300), (300,), (1, 300), (1,)]


def test_weights_depend_on_their_seed_and_leave_the_global_generator_alone() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = Actor(3, 1, hidden=(8,), seed=0).state_dict()
    assert torch.equal(before, torch.get_rng_state())
    same, other = Actor(3, 1, hidden=(8,), seed=0).state_dict(), Actor(3, 1, hidden=(8,), seed=1).state_dict()
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_every_parameter_of_the_actor_gets_a_gradient() -> None:
    actor = Actor(3, 2, hidden=(16, 16), seed=0)
    actor(torch.rand(8, 3)).sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in actor.parameters())
