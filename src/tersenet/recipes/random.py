"""The second control: preserve ratios drawn at random, decoded to the budget like an agent's."""

from __future__ import annotations

from tersenet.agents import RandomAgent
from tersenet.envs import DecoderName
from tersenet.recipes.recipe import EVERYTHING, ChannelConfig, Problem, Recipe, make_env, quality_reward, register
from tersenet.search import Method


class RandomConfig(ChannelConfig, frozen=True, extra="forbid"):
    """How random vectors become policies."""

    decoder: DecoderName = "wall"
    """How the budget is held: ``wall`` or ``level``; beside another recipe, the one that it has."""


def build(problem: Problem, config: ChannelConfig) -> Method:
    """Uniformly random ratios per group."""
    assert isinstance(config, RandomConfig)
    env = make_env(problem, config, decoder=config.decoder)
    return Method(
        name="random",
        env=env,
        agent=RandomAgent(env.action_space, seed=problem.seed),
        reward=quality_reward,
        num_trials=config.trials,
        num_warmup=0,
        is_control=True,
    )


random = register(
    Recipe(
        name="random",
        summary="Random shares per group within the budget; nothing is learned.",
        paper="control",
        config_type=RandomConfig,
        build=build,
        is_control=True,
        decides=EVERYTHING,
        follows=("decoder",),
    )
)
