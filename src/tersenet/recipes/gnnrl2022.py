"""GNN-RL: in a few steps, each a whole vector, PPO cuts the network; after each it sees the graph as it then is.

The state is the two-level graph of the network with what is left of each layer's channels; encoder, actor and critic
are trained together. ``state=hand_made`` shows the same agent AMC's features instead of the graph.

Source: Yu et al. 2022 (GNN-RL), arXiv:2102.03214.
Differs: the public code reuses one state's embedding for all samples of an update, and draws node features anew at
every reset; here every sample is encoded, from the network that is pruned. One head over all layers, so that an agent
fits other networks. The budget is exact instead of a penalty; updates come after 10 episodes, at a higher learning
rate, since a few hundred are usual here and not 15,000.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch import nn

from tersenet.agents import PPO, PPOConfig
from tersenet.core.bounds import Count, Positive
from tersenet.embed.stages import FeatureStates
from tersenet.envs.staged import StagedEnv
from tersenet.recipes.recipe import ChannelConfig, Problem, Recipe, make_env, quality_reward, register
from tersenet.recipes.yu2021 import EXTRA, LIBRARIES, State, decided_graph, pretraining_graphs
from tersenet.search import Method


class Gnnrl2022Config(ChannelConfig, frozen=True, extra="forbid"):
    """GNN-RL's choices beside those of every channel search."""

    state: State = "learned"
    """What the agent sees of a layer: an embedding learned from the network's graph, or AMC's features."""

    steps: Annotated[int, Field(ge=1, le=10)] = 3
    """Steps of an episode; each cuts every layer a little further."""

    learning_rate: Positive = 1e-3
    """Adam's, for encoder, actor and critic."""

    hidden: Count = 32
    """Size of embeddings."""

    pretrain_steps: Annotated[int, Field(ge=0)] = 100
    """Updates of the encoder as an auto-encoder before the search; 0: none. None either where an agent is given to
    begin with."""


def _encoder(problem: Problem, config: Gnnrl2022Config) -> nn.Module:
    from tersenet.embed.gnn import StagedStates  # needs the extra
    from tersenet.embed.gnn_pretrain import pretrain

    graph = decided_graph(problem)
    states = StagedStates(graph, hidden=config.hidden, seed=problem.seed)
    if problem.agent is None and config.pretrain_steps:
        graphs = pretraining_graphs(graph, seed=problem.seed)
        pretrain(states.encoder, None, graphs, steps=config.pretrain_steps, seed=problem.seed)
    return states


def build(problem: Problem, config: ChannelConfig) -> Method:
    """PPO over embeddings of the partly cut network, or over AMC's features."""
    assert isinstance(config, Gnnrl2022Config)
    plans = make_env(problem, config, decoder="level")
    env = StagedEnv(plans, num_steps=config.steps)
    agent = PPO(
        PPOConfig(learning_rate=config.learning_rate, first_is_quiet=problem.agent is not None),
        observation_size=env.observation_space.size,
        action_space=env.action_space,
        encoder=_encoder(problem, config) if config.state == "learned" else FeatureStates(plans.features),
        seed=problem.seed,
    )
    if problem.agent is not None:
        agent.begin_with(problem.agent.weights)
    return Method(
        name="gnnrl2022",
        env=env,
        agent=agent,
        reward=quality_reward,
        num_trials=config.trials,
        num_warmup=0,
    )


gnnrl2022 = register(
    Recipe(
        name="gnnrl2022",
        summary="GNN-RL: in a few steps PPO cuts all layers at once, seeing the graph as it then is.",
        paper="Yu et al. 2022, arXiv:2102.03214",
        config_type=Gnnrl2022Config,
        build=build,
        transfers=True,
        extra=EXTRA,
        libraries=LIBRARIES,
    )
)
