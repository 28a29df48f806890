"""AGMC: the network's computational graph is encoded, decoded to one state per decision, and DDPG decides on these.

Encoder and decoder are first trained as an auto-encoder, on the network, on all built-in ones and on random ones, then
together with actor and critic: the replay holds what the encoder reads, and states are made anew in every update. An
agent that was trained on another network may take their place (``problem.agent``); its first trial is then what it
decides unseen, and nothing is drawn evenly any more. ``state=hand_made`` runs the same agent, budget and schedule on
AMC's features instead, which shows what the learned states are worth.

Source: Yu et al. 2021 (AGMC), arXiv:2011.12641; agent and constants of He et al. 2018 (AMC), arXiv:1802.03494.
Warm-up is a twelfth of the trials, as 25 of 300 are, but at least 10; the noise falls as in AMC's code to 0.05, with an
agent from another network from 0.2 in as many trials.
Differs: the public code keeps states as plain arrays, so that its encoder is never trained, and draws node features at
random; here they come from the network that is pruned. Its budget is one proportional pass, which may be missed;
``level`` is the exact form of it. The reward is credited to every step without a bootstrap, see
``benchmarks/agent_ablation.py``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from tersenet import models
from tersenet.agents import DDPG, DDPGConfig
from tersenet.core.bounds import Count
from tersenet.core.protocols import FloatArray
from tersenet.embed import OperatorGraph, builtin_graph, operator_graph, random_graph
from tersenet.envs import ChannelSpace, LayerwiseEnv
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

EXTRA = "gnn"
"""Name of the extra that installs what is needed."""

LIBRARIES = ("torch_geometric",)
"""What that extra installs and message passing needs."""

NUM_RANDOM_GRAPHS = 24
"""Random networks that encoders are pre-trained on, beside the built-in ones and the one that is cut."""

TRANSFER_NOISE = 0.2
"""Where the noise begins, as a share of the action's range, for an agent that was trained on another network."""

State = Literal["learned", "hand_made"]


class Yu2021Config(ChannelConfig, frozen=True, extra="forbid"):
    """AGMC's choices beside those of every channel search."""

    state: State = "learned"
    """What the agent sees of a decision: a state learned from the network's graph, or AMC's features."""

    decoder: Literal["wall", "level"] = "level"
    """How the budget is held: one level for all groups found by bisection, or AMC's wall."""

    bootstrap: bool = False
    """Whether a step's value leans on the next one's; otherwise it is the episode's reward alone."""

    updates: Count = 16
    """Updates after an episode; each encodes the network once."""

    hidden: Count = 32
    """Size of embeddings and learned states."""

    pretrain_steps: Annotated[int, Field(ge=0)] = 100
    """Updates of encoder and decoder as an auto-encoder before the search; 0: none. None either where an agent is given
    to begin with."""


def decided_graph(problem: Problem) -> OperatorGraph:
    """The network's operators, and for each decision the layers that produce its channels."""
    assert isinstance(problem.space, ChannelSpace)
    groups = [problem.graph.channel_groups[int(index)] for index in problem.space.indices]
    return operator_graph(problem.graph, [group.producers for group in groups])


def numbered(num_decisions: int) -> FloatArray:
    """The feature of a decision that a learned state takes the place of: its number over that of the last one."""
    return np.linspace(0.0, 1.0, num_decisions)[:, None]


def pretraining_graphs(own: OperatorGraph, *, seed: int) -> list[Callable[[], OperatorGraph]]:
    """What encoders are pre-trained on: the network itself, a quarter of the time, all built-in and random ones."""
    first = seed * NUM_RANDOM_GRAPHS
    others: list[Callable[[], OperatorGraph]] = [
        *(partial(builtin_graph, name) for name in models.names()),
        *(partial(random_graph, seed=number) for number in range(first, first + NUM_RANDOM_GRAPHS)),
    ]
    return [lambda: own] * (len(others) // 3) + others


def build(problem: Problem, config: ChannelConfig) -> Method:
    """DDPG over learned states, or over AMC's features."""
    assert isinstance(config, Yu2021Config)
    num_warmup = 0 if problem.agent is not None else warmup_part(config.trials, part=12)
    env, agent = _env_and_agent(problem, config, num_warmup)
    return Method(
        name="yu2021",
        env=env,
        agent=agent,
        reward=quality_reward,
        num_trials=config.trials,
        num_warmup=num_warmup,
    )


def _env_and_agent(problem: Problem, config: Yu2021Config, num_warmup: int) -> tuple[LayerwiseEnv, DDPG]:
    settings = DDPGConfig(
        num_trials=config.trials,
        warmup_trials=num_warmup,
        bootstrap=config.bootstrap,
        updates_per_episode=config.updates,
        first_is_quiet=problem.agent is not None,
        noise_start=0.5 if problem.agent is None else TRANSFER_NOISE,
        noise_decay_until=amc_noise(num_warmup, trials=config.trials),
    )
    encoder = None
    if config.state == "learned":
        from tersenet.embed.gnn import LearnedStates  # needs the extra
        from tersenet.embed.gnn_pretrain import pretrain

        graph = decided_graph(problem)
        encoder = LearnedStates(graph, hidden=config.hidden, seed=problem.seed)
        if problem.agent is None and config.pretrain_steps:
            graphs = pretraining_graphs(graph, seed=problem.seed)
            pretrain(encoder.encoder, encoder.decoder, graphs, steps=config.pretrain_steps, seed=problem.seed)
    features = None if encoder is None else numbered(problem.space.num_decisions)
    env = make_env(problem, config, decoder=config.decoder, features=features)
    agent = DDPG(
        settings,
        observation_size=env.observation_space.size,
        action_space=env.action_space,
        seed=problem.seed,
        encoder=encoder,
    )
    if problem.agent is not None:
        agent.begin_with(problem.agent.weights)
    return env, agent


yu2021 = register(
    Recipe(
        name="yu2021",
        summary="AGMC: a graph network learns the layers' states, DDPG decides the share of channels each keeps.",
        paper="Yu et al. 2021, arXiv:2011.12641",
        config_type=Yu2021Config,
        build=build,
        transfers=True,
        extra=EXTRA,
        libraries=LIBRARIES,
    )
)
