"""Per-layer sensitivity and greedy moves, nothing random: what a careful engineer does by hand.

Source: see ``agents/greedy.py`` and ``envs/sensitivity.py``. Trials that measure one group alone keep no budget; they
count among the trials, stand in the study as probes, and are never chosen.
"""

from __future__ import annotations

from tersenet.agents import Greedy, GreedyConfig
from tersenet.core.protocols import FloatArray
from tersenet.envs import allot, level, shares_of
from tersenet.recipes.recipe import (
    ChannelConfig,
    Problem,
    Recipe,
    make_env,
    quality_reward,
    register,
    without_budget,
)
from tersenet.search import Method


class GreedyRecipeConfig(ChannelConfig, GreedyConfig, frozen=True, extra="forbid"):
    """How trials are split, beside what every channel search has."""


def build(problem: Problem, config: ChannelConfig) -> Method:
    """Probes without the budget, then the allotted policy and moves within it."""
    assert isinstance(config, GreedyRecipeConfig)
    space, budget = problem.space, problem.budget

    def execute(ratios: FloatArray) -> FloatArray:
        return shares_of(space, level(space, budget, ratios))

    agent = Greedy(
        config,
        num_trials=config.trials,
        num_decisions=space.num_decisions,
        lowest=space.lower_bound,
        allot=lambda ratios, losses: allot(space, budget, ratios, losses),
        execute=execute,
    )
    return Method(
        name="greedy",
        env=make_env(problem, config, decoder="level"),
        agent=agent,
        reward=quality_reward,
        num_trials=config.trials,
        num_warmup=0,
        is_control=True,
        sequential=True,
        num_probes=agent.num_probes,
        probe_env=make_env(without_budget(problem), config, decoder="level"),
    )


greedy = register(
    Recipe(
        name="greedy",
        summary="Measures every group alone, allots the budget by that, then moves one group at a time.",
        paper="control; sensitivity as in Li et al. 2017, arXiv:1608.08710",
        config_type=GreedyRecipeConfig,
        build=build,
        is_control=True,
    )
)
