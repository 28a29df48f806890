"""TPE over whole vectors of preserve ratios, by Optuna: what most people would try first.

Source: Bergstra et al. 2011, see ``adapters/optuna.py``; decoded by ``level`` like every whole vector.
"""

from __future__ import annotations

from tersenet.adapters import optuna
from tersenet.core.bounds import Count
from tersenet.recipes.recipe import EVERYTHING, ChannelConfig, Problem, Recipe, make_env, quality_reward, register
from tersenet.search import Method


class TPEConfig(ChannelConfig, frozen=True, extra="forbid"):
    """The sampler's choices beside what every channel search has."""

    num_startup: Count = 10
    """Random vectors at the beginning."""


def build(problem: Problem, config: ChannelConfig) -> Method:
    """A sampler over the ratios of all groups together."""
    assert isinstance(config, TPEConfig)
    env = make_env(problem, config, decoder="level")
    agent = optuna.tpe(
        num_decisions=env.num_decisions,
        action_space=env.action_space,
        num_startup=config.num_startup,
        seed=problem.seed,
    )
    return Method(
        name="tpe",
        env=env,
        agent=agent,
        reward=quality_reward,
        num_trials=config.trials,
        num_warmup=0,
        is_control=True,
        sequential=True,
    )


tpe = register(
    Recipe(
        name="tpe",
        summary="Optuna's tree-structured Parzen estimator over the shares of all groups.",
        paper="control; Bergstra et al. 2011, Akiba et al. 2019, arXiv:1907.10902",
        config_type=TPEConfig,
        build=build,
        is_control=True,
        decides=EVERYTHING,
        extra=optuna.EXTRA,
        libraries=optuna.LIBRARIES,
    )
)
