"""Wang 2020: prune every group by geometric median, then let DDPG pick the number of clusters of every layer.

Source: Wang, Wu, Zhao 2020, "Automatic clustering with reinforcement learning" (ICNC-FSKD 2020): 40 % of the filters go
by geometric median (He et al. 2019, arXiv:1811.00250), then k-means per layer with a learned k. Internals of the agent
are not public; ours are HAQ's: its state, reward and sweep (Wang et al. 2019, arXiv:1811.08886).
Differs: filters are cut, not zeroed; any k, on a logarithmic scale; clusters are optimal; the budget is on the bytes of
the real file; shared values are fine-tuned; warm-up is a quarter of the trials (HAQ: 20 of 600), and the noise is down
to 0.05 at 80 % of them (HAQ multiplies it by 0.99 per trial).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from tersenet.agents import DDPG, DDPGConfig
from tersenet.envs import DecoderName
from tersenet.recipes.recipe import (
    ChannelConfig,
    Problem,
    Recipe,
    StorageConfig,
    make_env,
    register,
    storage_reward,
    warmup_part,
)
from tersenet.search import Method
from tersenet.search.searcher import Reward


class Wang2020Config(StorageConfig, frozen=True, extra="forbid"):
    """The paper's choices beside those of every search over storage."""

    criterion: str = "geometric_median"
    """Which channels go first."""

    pruning_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.4
    """Share of channels that is cut from every group before."""

    decoder: DecoderName = "sweep"
    """How the budget is held: HAQ's sweep from the last layer to the first, AMC's ``wall``, or one ``level``."""


def build(problem: Problem, config: ChannelConfig) -> Method:
    """DDPG over HAQ's state features."""
    assert isinstance(config, Wang2020Config)
    return haq_search("wang2020", problem, config, decoder=config.decoder)


def haq_search(
    name: str,
    problem: Problem,
    config: ChannelConfig,
    *,
    decoder: DecoderName,
    reward: Reward = storage_reward,
    bootstrap: bool = True,
) -> Method:
    """HAQ's agent: one action per decision, 300-300, 128 steps of replay per decision, noise from 0.5 down."""
    env = make_env(problem, config, decoder=decoder)
    num_warmup = warmup_part(config.trials, part=4)
    agent = DDPG(
        DDPGConfig(
            num_trials=config.trials,
            warmup_trials=num_warmup,
            replay_size=128 * env.num_decisions,
            bootstrap=bootstrap,
        ),
        observation_size=env.observation_space.size,
        action_space=env.action_space,
        seed=problem.seed,
    )
    return Method(name=name, env=env, agent=agent, reward=reward, num_trials=config.trials, num_warmup=num_warmup)


wang2020 = register(
    Recipe(
        name="wang2020",
        summary="Cuts 40 % of the channels by geometric median, then DDPG picks every layer's number of clusters.",
        paper="Wang, Wu, Zhao 2020 (ICNC-FSKD)",
        config_type=Wang2020Config,
        build=build,
        decides=("clusters",),
    )
)
