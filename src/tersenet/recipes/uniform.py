"""The control every search must beat: the same preserve ratio everywhere, as large as the budget allows; one trial."""

from __future__ import annotations

from dataclasses import replace

from tersenet.agents import ConstantAgent
from tersenet.envs import JointSpace
from tersenet.recipes.recipe import EVERYTHING, ChannelConfig, Problem, Recipe, make_env, quality_reward, register
from tersenet.search import Method


def build(problem: Problem, config: ChannelConfig) -> Method:
    """One level for all groups, found by bisection, the slack filled."""
    if isinstance(problem.space, JointSpace):  # the same share of every layer, not the same threshold
        problem = replace(problem, space=replace(problem.space, levels=()))
    env = make_env(problem, config, decoder="level")
    return Method(
        name="uniform",
        env=env,
        agent=ConstantAgent(env.action_space.high),
        reward=quality_reward,
        num_trials=1,
        num_warmup=0,
        is_control=True,
    )


uniform = register(
    Recipe(
        name="uniform",
        summary="The same share of channels in every group; one trial, nothing is learned.",
        paper="control",
        config_type=ChannelConfig,
        build=build,
        is_control=True,
        decides=EVERYTHING,
        is_rule=True,
    )
)
