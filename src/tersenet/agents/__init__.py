"""Agents: arrays in, arrays out; they know nothing of networks to compress."""

from tersenet.agents.cem import CEM, CEMConfig
from tersenet.agents.constant import ConstantAgent, FixedPlan
from tersenet.agents.ddpg import DDPG, DDPGConfig
from tersenet.agents.dqn import DQN, DQNConfig
from tersenet.agents.greedy import Greedy, GreedyConfig
from tersenet.agents.plan import PlanAgent, PlanConfig
from tersenet.agents.random import RandomAgent

__all__ = [
    "CEM",
    "DDPG",
    "DQN",
    "CEMConfig",
    "ConstantAgent",
    "DDPGConfig",
    "DQNConfig",
    "FixedPlan",
    "Greedy",
    "GreedyConfig",
    "PlanAgent",
    "PlanConfig",
    "RandomAgent",
]
