"""AMC: DDPG walks the layers and decides each one's preserve ratio; one reward at the end of the walk.

Source: He et al. 2018 (AMC), arXiv:1802.03494; constants as in the released code (actor and critic 300-300, learning
rates 1e-4 and 1e-3, tau 0.01, discount 1, batch 64, truncated-normal noise from 0.5, the episode's reward minus a
moving average on every step, the budget held by clipping each action so that the rest can still fit).
Differs: decisions per coupled channel group instead of per layer; the replay holds executed actions; the budget's slack
is filled; warm-up is an eighth of the trials, as 100 of 800 are, but at least 10; the noise falls as released, but not
below 0.05; batch-norm statistics are recalibrated before the reward; the paper's reconstruction is ``repair``.
"""

from __future__ import annotations

from typing import Literal

from tersenet.agents import DDPG, DDPGConfig
from tersenet.recipes.recipe import (
    ChannelConfig,
    Problem,
    Recipe,
    amc_noise,
    make_env,
    quality_reward,
    register,
    warmup_part,
)
from tersenet.search import Method


class He2018Config(ChannelConfig, frozen=True, extra="forbid"):
    """AMC's choices beside those of every channel search."""

    decoder: Literal["wall", "level"] = "wall"
    """How the budget is held: AMC's wall, or one level for all groups found by bisection."""

    bootstrap: bool = True
    """Whether a step's value leans on the next one's, as released; otherwise it is the episode's reward alone."""


def num_warmup_of(trials: int) -> int:
    """Warm-up trials of a search: an eighth of it, at least 10."""
    return warmup_part(trials, part=8)


def build(problem: Problem, config: ChannelConfig) -> Method:
    """DDPG over AMC's state features."""
    assert isinstance(config, He2018Config)
    env = make_env(problem, config, decoder=config.decoder)
    num_warmup = num_warmup_of(config.trials)
    agent = DDPG(
        DDPGConfig(
            num_trials=config.trials,
            warmup_trials=num_warmup,
            noise_decay_until=amc_noise(num_warmup, trials=config.trials),
            bootstrap=config.bootstrap,
        ),
        observation_size=env.observation_space.size,
        action_space=env.action_space,
        seed=problem.seed,
    )
    return Method(
        name="he2018",
        env=env,
        agent=agent,
        reward=quality_reward,
        num_trials=config.trials,
        num_warmup=num_warmup,
    )


he2018 = register(
    Recipe(
        name="he2018",
        summary="AMC: DDPG decides the share of channels each layer keeps.",
        paper="He et al. 2018, arXiv:1802.03494",
        config_type=He2018Config,
        build=build,
    )
)
