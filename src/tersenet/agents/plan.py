"""An actor-critic that decides all actions of an episode at once and learns from few hundred episodes.

The only reward comes at the end, so the critics regress it on the whole executed plan: no bootstrap, no credit that has
to travel from step to step. Several critics start differently and weigh the episodes differently; where little was seen
they disagree. Each has an actor of its own, trained to the plan its critic values most on the budget's surface. An
episode is proposed by one of the actors, drawn at random, with noise that narrows over the search: where critics
disagree this explores, where they agree it refines. A plan that would execute what was measured before is drawn anew
with wider noise. Rewards are replaced by normal scores of their ranks, since a few very bad plans would otherwise take
all of the critics' attention.

Source: one plan decoded by bisection instead of a walk of steps: our own, for a reward that comes once. Critics without
bootstrap from Lillicrap et al. 2016 (DDPG), arXiv:1509.02971; members by random weights on episodes and one drawn per
episode from Osband et al. 2016, arXiv:1602.04621.
"""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import numpy as np
import torch
from pydantic import BaseModel, Field
from torch import Tensor

from tersenet.agents.losses import descend, weighted_critic_loss
from tersenet.agents.noise import decayed_sigma
from tersenet.agents.on_budget import clipped_through, overshoot, shifted_to_cost
from tersenet.agents.plan_memory import PlanMemory, Plans
from tersenet.agents.plan_networks import CriticParts, PlanActors, PlanCritics
from tersenet.agents.random import check_reward
from tersenet.agents.scores import RewardScale, scaled
from tersenet.agents.state import AgentState
from tersenet.core.bounds import Count, Positive, Share
from tersenet.core.protocols import Box, FloatArray, State, Transition

_OVERSHOOT_WEIGHT = 10.0
"""Weight of squared distances to the box in the actors' loss."""

_MAX_DRAWS = 12
"""Draws of one plan; the last is taken even if it was measured before, as it must be where there is no other."""

_WIDENING = 1.5
"""Factor of the noise from one draw to the next."""


class PlanSpace(Protocol):
    """What executing a plan does to it, in numbers only."""

    def executed(self, proposals: FloatArray) -> FloatArray:
        """Actions that would be executed, shape (num_decisions, action size), as the arguments."""
        ...

    def prices(self, executed: FloatArray) -> FloatArray:
        """Cost of one unit of each action near an executed plan, same shape; all 0 without a budget."""
        ...


class PlanConfig(BaseModel, frozen=True, extra="forbid"):
    """Settings of the agent."""

    num_members: Count = 4
    """Actors, and critics."""

    hidden: Count = 24
    """Hidden units of an actor and of a critic's curves; the joint part has twice as many."""

    critic: CriticParts = "both"
    """What a critic's value is made of."""

    reward_scale: RewardScale = "ranks"
    """Whether critics see normal scores of the rewards' ranks, or rewards centred and divided by their spread."""

    on_budget: bool = True
    """Whether actors are trained through the shift onto the budget."""

    judged_by: Literal["own", "mean"] = "own"
    """Whether each actor is trained by its own critic, or all of them by the critics' mean."""

    actor_lr: Positive = 1e-3
    """Adam's learning rate of the actors."""

    critic_lr: Positive = 3e-3
    """Adam's learning rate of the critics."""

    weight_decay: Annotated[float, Field(ge=0.0)] = 1e-4
    """Weight of the critics' squared parameters in their loss."""

    batch_size: Count = 48
    """Episodes per update and member."""

    updates: Count = 12
    """Updates of critics, and of actors, after an episode."""

    first_updates: Count = 200
    """Updates of critics, and of actors, at the end of warm-up."""

    warmup_trials: Count = 40
    """Episodes drawn around the same action everywhere, the first being exactly that."""

    warmup_sigma: Positive = 0.3
    """Standard deviation of these, as a share of the box."""

    num_trials: Count = 300
    """Episodes in all; sets the course of the noise."""

    noise_start: Positive = 0.15
    """Standard deviation of the noise after warm-up, as a share of the box."""

    noise_end: Positive = 0.03
    """Standard deviation at the end."""

    noise_decay_until: Share = 0.8
    """Share of the trials after which the noise has come down to ``noise_end``."""


class PlanAgent:
    """Members of actor and critic over whole plans; implements ``core.protocols.Proposer``."""

    def __init__(
        self, config: PlanConfig, *, features: FloatArray, action_space: Box, space: PlanSpace, seed: int
    ) -> None:
        """Set the agent up.

        Args:
            config: settings.
            features: what is known of each decision, in [0, 1], shape (num_decisions, F).
            action_space: box of one decision's action.
            space: tells what is executed of a plan.
            seed: for initial weights, exploration and samples.
        """
        self._config = config
        self._space = space
        self._low = np.tile(action_space.low, (len(features), 1))
        self._width = np.tile(action_space.high - action_space.low, (len(features), 1))
        critic_seed, actor_seed, rng_seed = (int(n) for n in np.random.SeedSequence(seed).generate_state(3))
        known = _known(features, action_space.size)
        members = config.num_members
        self._critics = PlanCritics(
            known, num_members=members, hidden=config.hidden, parts=config.critic, seed=critic_seed
        )
        self._actors = PlanActors(known, num_members=members, hidden=config.hidden, seed=actor_seed)
        self._critic_optimizer = torch.optim.Adam(self._critics.parameters(), lr=config.critic_lr, fused=True)
        self._actor_optimizer = torch.optim.Adam(self._actors.parameters(), lr=config.actor_lr, fused=True)
        self._memory = PlanMemory(num_actions=self._low.size, num_members=members)
        self._rng = np.random.default_rng(rng_seed)
        self._num_learned = 0

    @property
    def sigma(self) -> float:
        """Standard deviation of the next episode's noise, as a share of the box."""
        config = self._config
        last = round(config.noise_decay_until * config.num_trials)
        return decayed_sigma(
            len(self._memory), start=config.noise_start, end=config.noise_end, first=config.warmup_trials, last=last
        )

    def propose(self) -> FloatArray:
        """A whole plan, shape (num_decisions, action size)."""
        if len(self._memory) < self._config.warmup_trials:
            return self._warmup_plan()
        member = int(self._rng.integers(self._config.num_members))
        with torch.no_grad():
            plan = shifted_to_cost(self._actors(), *self._budget())[member].clamp(0.0, 1.0).double().numpy()
        return self._drawn_around(plan)

    def _warmup_plan(self) -> FloatArray:
        spread = self._config.warmup_sigma if len(self._memory) else 0.0
        unit = 0.5 + spread * self._rng.standard_normal(self._low.size)
        return self._boxed(unit)

    def _drawn_around(self, plan_N: FloatArray) -> FloatArray:
        """A noisy plan that was not executed before, where one is found."""
        sigma = self.sigma
        for _ in range(_MAX_DRAWS):
            proposal = self._boxed(plan_N + sigma * self._rng.standard_normal(plan_N.shape))
            if not self._memory.holds(self._unit(self._space.executed(proposal))):
                break
            sigma *= _WIDENING
        return proposal

    def observe(self, transitions: list[Transition], *, reward: float) -> None:
        """Remember the executed plan of an episode and its reward.

        Raises:
            SearchError: the reward is not a finite number.
            ValueError: the episode has another number of decisions than the agent was made for.
        """
        check_reward(reward)
        taken = np.stack([transition.action_taken for transition in transitions])
        if taken.shape != self._low.shape:
            raise ValueError(f"an episode must have actions of shape {self._low.shape}, got {taken.shape}")
        self._memory.add(self._unit(taken), reward, weights_M=self._rng.exponential(size=self._config.num_members))

    def learn(self) -> None:
        """Train critics and actors on what was observed since the last call; nothing during warm-up."""
        config = self._config
        if len(self._memory) < config.warmup_trials or self._num_learned == len(self._memory):
            return
        updates = config.first_updates if self._num_learned == 0 else config.updates
        self._num_learned = len(self._memory)
        targets = torch.from_numpy(scaled(self._memory.rewards, config.reward_scale).astype(np.float32))
        plans, weights = torch.from_numpy(self._memory.plans), torch.from_numpy(self._memory.weights)
        for _ in range(updates):
            self._update_critics(plans, targets, weights)
        prices, cost = self._budget()
        for _ in range(updates):
            plans_MN = shifted_to_cost(self._actors(), prices, cost)
            loss = _OVERSHOOT_WEIGHT * overshoot(plans_MN) - self._judged(clipped_through(plans_MN)).sum()
            descend(self._actor_optimizer, loss)

    def _judged(self, plans_MN: Tensor) -> Tensor:
        """Values that actors are trained to raise: of each plan by its own critic, (M, 1), or of all by all, (M, M)."""
        shown = plans_MN[:, None] if self._config.judged_by == "own" else plans_MN[None].expand(len(plans_MN), -1, -1)
        values: Tensor = self._critics(shown)
        return values

    def _update_critics(self, plans_TN: Tensor, targets_T: Tensor, weights_TM: Tensor) -> None:
        config = self._config
        size = (config.num_members, min(config.batch_size, len(plans_TN)))
        chosen_MB = torch.from_numpy(self._rng.integers(len(plans_TN), size=size))
        loss = weighted_critic_loss(
            self._critics(plans_TN[chosen_MB]), targets_T[chosen_MB], weights_TM.T.gather(1, chosen_MB)
        )
        decay = torch.stack([parameter.square().sum() for parameter in self._critics.parameters()]).sum()
        descend(self._critic_optimizer, loss + config.weight_decay * decay)

    def _budget(self) -> tuple[Tensor, float]:
        """Prices of the actions near the best plan so far, and what that plan costs; no prices without a budget."""
        best = self._memory.best()
        prices = np.zeros(self._low.shape)
        if self._config.on_budget:
            executed = self._low + self._width * best.reshape(self._low.shape).astype(np.float64)
            prices = self._space.prices(executed) * self._width
        largest = float(prices.max())
        relative = torch.from_numpy((prices / (largest if largest > 0.0 else 1.0)).ravel().astype(np.float32))
        return relative, float(relative @ torch.from_numpy(best))

    def _unit(self, actions: FloatArray) -> Plans:
        unit: Plans = ((actions - self._low) / self._width).ravel().astype(np.float32)
        return unit

    def _boxed(self, unit: FloatArray) -> FloatArray:
        boxed: FloatArray = self._low + self._width * unit.clip(0.0, 1.0).reshape(self._low.shape)
        return boxed

    def state_dict(self) -> State:
        """Networks, optimisers, memory, random state and counter, as copies."""
        return self._state().save() | {"num_learned": np.array(self._num_learned)}

    def load_state_dict(self, state: State) -> None:
        """Put a saved state back.

        Raises:
            StudyError: the state is of an agent with other sizes.
        """
        self._state().restore(state)
        self._num_learned = int(state["num_learned"])

    def _state(self) -> AgentState:
        return AgentState(
            modules={"critics": self._critics, "actors": self._actors},
            optimizers={"critic_optimizer": self._critic_optimizer, "actor_optimizer": self._actor_optimizer},
            memories={"memory": self._memory},
            rng=self._rng,
        )


def _known(features: FloatArray, action_size: int) -> Tensor:
    """One row per action: its place among all, one-hot, then its decision's features."""
    repeated = np.repeat(features, action_size, axis=0)
    return torch.from_numpy(np.concatenate([np.eye(len(repeated)), repeated], axis=1).astype(np.float32))
