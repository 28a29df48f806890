"""Layerwise: a whole plan of preserve ratios at once, by an actor-critic that learns from a few hundred rewards.

What he2018 decides in a walk, this agent decides in one plan that is decoded by one level for all groups: every plan
uses the budget up, early and late layers are treated alike, and the critics see the reward as what it is, a number for
the whole plan. Warm-up is drawn around the same ratio everywhere, its first trial is exactly that.

Source: our own; see ``agents/plan.py`` for what its parts are taken from and ``benchmarks/agent_ablation.py`` for what
each of them is worth.
"""

from __future__ import annotations

from typing import Literal

from tersenet.agents import PlanAgent, PlanConfig
from tersenet.agents.plan_networks import CriticParts
from tersenet.agents.scores import RewardScale
from tersenet.core.bounds import Count
from tersenet.recipes.recipe import ChannelConfig, Problem, Recipe, make_env, quality_reward, register, warmup_part
from tersenet.search import Method
from tersenet.search.searcher import Reward


class LayerwiseConfig(ChannelConfig, frozen=True, extra="forbid"):
    """The agent's choices beside those of every channel search."""

    decoder: Literal["wall", "level"] = "level"
    """How the budget is held: one level for all groups found by bisection, or AMC's wall."""

    critic: CriticParts = "both"
    """What a critic's value is made of: a curve per decision, a joint network, or their sum."""

    reward_scale: RewardScale = "ranks"
    """What critics learn: normal scores of the rewards' ranks, or rewards over their spread."""

    members: Count = 4
    """Actors, and critics."""


def num_warmup_of(trials: int) -> int:
    """Warm-up trials of a search: a fifth of it, from 10 to 40."""
    return min(40, warmup_part(trials, part=5))


def build(problem: Problem, config: ChannelConfig) -> Method:
    """Actors and critics of whole plans."""
    assert isinstance(config, LayerwiseConfig)
    return search_of_plans("layerwise", problem, config, reward=quality_reward)


def search_of_plans(name: str, problem: Problem, config: LayerwiseConfig, *, reward: Reward) -> Method:
    """The agent over any space; equal shares everywhere are its first trial."""
    env = make_env(problem, config, decoder=config.decoder)
    num_warmup = num_warmup_of(config.trials)
    agent = PlanAgent(
        PlanConfig(
            num_trials=config.trials,
            warmup_trials=num_warmup,
            critic=config.critic,
            reward_scale=config.reward_scale,
            num_members=config.members,
        ),
        features=env.features,
        action_space=env.action_space,
        space=env,
        seed=problem.seed,
    )
    return Method(
        name=name,
        env=env,
        agent=agent,
        reward=reward,
        num_trials=config.trials,
        num_warmup=num_warmup,
    )


layerwise = register(
    Recipe(
        name="layerwise",
        summary="An actor-critic decides all layers' shares of channels in one plan.",
        paper="ours",
        config_type=LayerwiseConfig,
        build=build,
    )
)
