"""Agents: arrays in, arrays out; they know nothing of networks to compress."""

from tersenet.agents.cem import CEM, CEMConfig
from tersenet.agents.constant import ConstantAgent, FixedPlan
from tersenet.agents.ddpg import DDPG, DDPGConfig
from tersenet.agents.dqn import DQN, DQNConfig
from tersenet.agents.files import Knowledge, read_agent, write_agent
from tersenet.agents.greedy import Greedy, GreedyConfig
from tersenet.agents.plan import PlanAgent, PlanConfig
from tersenet.agents.ppo import PPO, PPOConfig
from tersenet.agents.random import RandomAgent

__all__ = [
    "CEM",
    "DDPG",
    "DQN",
    "PPO",
    "CEMConfig",
    "ConstantAgent",
    "DDPGConfig",
    "DQNConfig",
    "FixedPlan",
    "Greedy",
    "GreedyConfig",
    "Knowledge",
    "PPOConfig",
    "PlanAgent",
    "PlanConfig",
    "RandomAgent",
    "read_agent",
    "write_agent",
]
