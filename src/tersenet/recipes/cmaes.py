"""CMA-ES over whole vectors of preserve ratios, by Optuna.

Source: Hansen 2016, arXiv:1604.00772, see ``adapters/optuna.py``; decoded by ``level`` like every whole vector.
"""

from __future__ import annotations

from tersenet.adapters import optuna
from tersenet.recipes.recipe import EVERYTHING, ChannelConfig, Problem, Recipe, make_env, quality_reward, register
from tersenet.search import Method


def build(problem: Problem, config: ChannelConfig) -> Method:
    """A normal distribution with full covariance over the ratios of all groups."""
    env = make_env(problem, config, decoder="level")
    return Method(
        name="cmaes",
        env=env,
        agent=optuna.cmaes(num_decisions=env.num_decisions, action_space=env.action_space, seed=problem.seed),
        reward=quality_reward,
        num_trials=config.trials,
        num_warmup=0,
        is_control=True,
        sequential=True,
    )


cmaes = register(
    Recipe(
        name="cmaes",
        summary="Optuna's CMA-ES over the shares of all groups.",
        paper="control; Hansen 2016, arXiv:1604.00772",
        config_type=ChannelConfig,
        build=build,
        is_control=True,
        decides=EVERYTHING,
        extra=optuna.EXTRA,
        libraries=optuna.LIBRARIES,
    )
)
