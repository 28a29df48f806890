"""The strong control for storage that learns nothing: bytes go where they lower the expected loss most.

The expected rise of the loss is the squared error of a layer's stored weights times the mean squared gradient of the
loss by them (the diagonal of the Fisher information), measured on training inputs.

Source: see ``envs/rate_distortion.py``; the measure of distortion as in Theis et al. 2018, arXiv:1801.05787, eq. 7.
"""

from __future__ import annotations

from tersenet.agents import FixedPlan
from tersenet.envs import StorageSpace, shares_of
from tersenet.envs import rate_distortion as allocate
from tersenet.recipes.recipe import ChannelConfig, Problem, Recipe, StorageConfig, make_env, register, storage_reward
from tersenet.search import Method


def build(problem: Problem, config: ChannelConfig) -> Method:
    """One trial: the allocation itself."""
    space = problem.space
    assert isinstance(space, StorageSpace)
    assert problem.distortions is not None
    counts = allocate(space, problem.budget, problem.distortions())
    return Method(
        name="rate_distortion",
        env=make_env(problem, config, decoder="level"),
        agent=FixedPlan(shares_of(space, counts)[:, None]),
        reward=storage_reward,
        num_trials=1,
        num_warmup=0,
        is_control=True,
    )


rate_distortion = register(
    Recipe(
        name="rate_distortion",
        summary="Lagrangian allocation of bytes by squared errors and gradients; nothing is learned.",
        paper="control; Shoham and Gersho 1988",
        config_type=StorageConfig,
        build=build,
        is_control=True,
        is_rule=True,
        decides=("clusters", "weight_bits"),
    )
)
