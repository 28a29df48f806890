"""The cross-entropy method over whole vectors of preserve ratios: the strongest of the simple searches.

Source: Rubinstein 1999, see ``agents/cem.py``. Whole vectors are decoded by ``level``: one common shift keeps the
budget, so that what is searched over is how groups differ.
"""

from __future__ import annotations

from tersenet.agents import CEM, CEMConfig
from tersenet.recipes.recipe import EVERYTHING, ChannelConfig, Problem, Recipe, make_env, quality_reward, register
from tersenet.search import Method


class CEMRecipeConfig(ChannelConfig, CEMConfig, frozen=True, extra="forbid"):
    """The method's constants beside what every channel search has."""


def build(problem: Problem, config: ChannelConfig) -> Method:
    """A normal distribution over the ratios of all groups."""
    assert isinstance(config, CEMRecipeConfig)
    env = make_env(problem, config, decoder="level")
    return Method(
        name="cem",
        env=env,
        agent=CEM(config, num_decisions=env.num_decisions, action_space=env.action_space, seed=problem.seed),
        reward=quality_reward,
        num_trials=config.trials,
        num_warmup=0,
        is_control=True,
    )


cem = register(
    Recipe(
        name="cem",
        summary="Cross-entropy method: draws generations of shares and fits the next one to the best.",
        paper="control; Rubinstein 1999",
        config_type=CEMRecipeConfig,
        build=build,
        is_control=True,
        decides=EVERYTHING,
    )
)
