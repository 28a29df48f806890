"""Khatri 2020: a DQN switches kernels off and on while the network trains.

Unit: a filter, with everything that is coupled to it (a channel group's channel), so that what is off can be cut; or a
2-D kernel, one input channel of one filter (of a linear layer a single weight), which becomes zero. Then the copy that
is trained, and the network for a dense runtime, are smaller only by channels all of whose kernels are off.
Auto-AEC (accuracy ensured) is paid for compressing only while the accuracy is kept; Auto-CECA (compression ensured) for
being small, less what that costs in accuracy. A trial is one round: a sweep over the groups, then training for
``live_epochs / trials`` epochs, then a measurement. After the last round the masks are a policy like any other.

Source: Khatri and Won 2020 (RACS), kernel-controlled DQN. State, actions, rewards, health and schedule are not public;
ours are in ``envs/kernels.py`` and ``train/health.py``.
Differs: bounds of the target are kept by a ceiling, and nothing goes off below them; filters are cut, not masked;
fine-tuned afterwards.
"""

from __future__ import annotations

from typing import Annotated, Literal, Protocol

import numpy as np
from pydantic import Field

from tersenet.agents import DQN, ConstantAgent, DQNConfig, RandomAgent
from tersenet.agents.dqn import epsilon_at
from tersenet.core.bounds import Count, Positive, Share
from tersenet.core.protocols import Agent, Box, FloatArray, State, Transition
from tersenet.envs import ChannelSpace, KernelEnv, KernelRules, KernelSpace, Space, SwitchedChannels
from tersenet.envs.kernel_rules import Mode
from tersenet.envs.kernels import NOTHING
from tersenet.envs.switched import Switched
from tersenet.graph import ModelGraph
from tersenet.recipes.recipe import ChannelConfig, Problem, Recipe, register
from tersenet.search import Method
from tersenet.train.live import HealthName

DISCOUNT = 0.5
"""Weight of the next round: what is switched off is trained around within a few."""


class Khatri2020Config(ChannelConfig, frozen=True, extra="forbid"):
    """How the network is trained and what the agent may do, beside what every recipe over channels has."""

    trials: Count = 40
    """Rounds."""

    lower_bound: Annotated[float, Field(gt=0.0, le=1.0)] = 0.04
    """Share of a group's channels, or of a layer's kernels, that always stays on."""

    round_to: Count = 1
    """Not used: channels are switched one by one."""

    unit: Literal["filter", "kernel"] = "filter"
    """What is switched: channels of coupled groups, or 2-D kernels inside layers. With kernels the bounds are on bytes
    and on ``max_nonzero_ratio``."""

    max_nonzero_ratio: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Share of the parameters that may be left, zeros not counted; only with ``unit='kernel'``."""

    mode: Mode = "auto_ceca"
    """``auto_aec``: accuracy ensured; ``auto_ceca``: compression ensured, considering the accuracy."""

    start: Literal["trained", "scratch"] = "trained"
    """Whether training goes on from the network's weights or from new ones; those given then only are what the result
    is compared with, and teach nothing."""

    agent: Literal["dqn", "random", "magnitude"] = "dqn"
    """Who switches. Controls at the same number of decisions: ``random`` draws actions; ``magnitude`` leaves everything
    to the ceiling, by norms of filters and scales of batch norms."""

    reactivate: bool = True
    """Whether what is off may be switched on again."""

    share: Annotated[float, Field(gt=0.0, le=1.0)] = 0.05
    """Share of a group's channels, or of a layer's kernels, that the larger actions switch."""

    health: HealthName = "taylor"
    """What significance is; ``magnitude`` always takes ``scale``."""

    live_epochs: Positive = 8.0
    """Epochs of training over all rounds."""

    live_learning_rate: Positive = 0.02
    """Peak of the rounds' cosine, which ends at a tenth of it; from scratch 0.1 is usual."""

    ramp: Annotated[float, Field(gt=0.0, le=1.0)] = 0.6
    """Share of the rounds after which the ceiling is at the target's bounds."""

    settle: Share = 0.15
    """Share of the rounds, the last ones, in which nothing is switched on any more."""

    tolerance: Annotated[float, Field(ge=0.0)] = 0.3
    """Percent of the reference by which a network in the middle of training may be worse and still count as kept."""

    penalty: Annotated[float, Field(ge=0.0)] = 0.1
    """What a percent of accuracy below that costs, in shares of the original size."""


def dqn_config(config: Khatri2020Config) -> DQNConfig:
    """The agent's settings."""
    return DQNConfig(
        num_actions=5 if config.reactivate else 3,
        num_trials=config.trials,
        discount=DISCOUNT,
        follows="episode",
        learning_rate=3e-3,
        batch_size=32,
        target_every=50,
        updates_per_step=4,
    )


def exploring_share(config: Khatri2020Config, trial: int) -> float:
    """Share of random actions in a round, counted from 0."""
    if config.agent == "dqn":
        return epsilon_at(trial, dqn_config(config))
    return 1.0 if config.agent == "random" else 0.0


class Saved(Protocol):
    """Anything that can be saved as arrays and put back."""

    def state_dict(self) -> State: ...

    def load_state_dict(self, state: State) -> None: ...


class Together:
    """An agent that is saved and restored together with environment and network: one transaction keeps all of them."""

    def __init__(self, agent: Agent, parts: dict[str, Saved]) -> None:
        self._agent = agent
        self._parts: dict[str, Saved] = {"agent": agent, **parts}

    def act(self, observation: FloatArray) -> FloatArray:
        """What the agent proposes."""
        return self._agent.act(observation)

    def observe(self, transitions: list[Transition], *, reward: float) -> None:
        """Told to the agent."""
        self._agent.observe(transitions, reward=reward)

    def learn(self) -> None:
        """Told to the agent."""
        self._agent.learn()

    def state_dict(self) -> State:
        """Of all parts, each under its name."""
        return {f"{part}/{name}": a for part, owner in self._parts.items() for name, a in owner.state_dict().items()}

    def load_state_dict(self, state: State) -> None:
        """Put all parts back."""
        for part, owner in self._parts.items():
            start = f"{part}/"
            owner.load_state_dict({name.removeprefix(start): a for name, a in state.items() if name.startswith(start)})


def build(problem: Problem, config: ChannelConfig) -> Method:
    """DQN, or a control, over rounds of a network in training."""
    assert isinstance(config, Khatri2020Config)
    assert problem.live is not None, "needs a network in training"
    env = KernelEnv(
        problem.space,
        switched_of(problem.graph, problem.space),
        problem.budget,
        problem.live.price,
        rules=KernelRules(
            mode=config.mode,
            num_rounds=config.trials,
            reference=problem.live.reference,
            share=config.share,
            reactivate=config.reactivate,
            ramp=config.ramp,
            settle=config.settle,
            tolerance=config.tolerance,
            penalty=config.penalty,
        ),
        signals=problem.live.signals,
    )
    return Method(
        name="khatri2020",
        env=env,
        agent=Together(_agent(config, env, seed=problem.seed), {"env": env, "session": problem.live.signals}),
        reward=env.reward,
        num_trials=config.trials,
        num_warmup=0,
        is_control=config.agent != "dqn",
        is_live=True,
    )


def switched_of(graph: ModelGraph, space: Space) -> Switched:
    """What is switched: the groups or layers of the space."""
    if isinstance(space, KernelSpace):
        return space.switched
    assert isinstance(space, ChannelSpace)
    groups = [graph.channel_groups[int(index)] for index in space.indices]
    return SwitchedChannels({group.group_id: group.num_channels for group in groups})


def _agent(config: Khatri2020Config, env: KernelEnv, *, seed: int) -> Agent:
    if config.agent == "magnitude":
        return ConstantAgent(np.array([float(NOTHING)]))
    if config.agent == "random":  # half a step wider, so that rounding makes every action as likely
        space = env.action_space
        return RandomAgent(Box(low=space.low - 0.5, high=space.high + 0.5), seed=seed)
    size = env.observation_space.size
    return DQN(dqn_config(config), observation_size=size, action_space=env.action_space, seed=seed)


khatri2020 = register(
    Recipe(
        name="khatri2020",
        summary="A DQN switches filters, or 2-D kernels, off and on while the network trains (auto_aec, auto_ceca).",
        paper="Khatri and Won 2020 (RACS)",
        config_type=Khatri2020Config,
        build=build,
        decides=("kernels",),
    )
)
