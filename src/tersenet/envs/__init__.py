"""Walks over decisions, budgets that are kept exactly, and rewards as pure functions."""

from tersenet.envs import rewards
from tersenet.envs.budget import Budget, Limit, reachable, refuse_unreachable
from tersenet.envs.decoding import DecoderName, fill, level, nearest, wall, wall_step
from tersenet.envs.layerwise import DecisionPoint, LayerwiseEnv
from tersenet.envs.sensitivity import allot
from tersenet.envs.space import ChannelSpace, channel_space

__all__ = [
    "Budget",
    "ChannelSpace",
    "DecisionPoint",
    "DecoderName",
    "LayerwiseEnv",
    "Limit",
    "allot",
    "channel_space",
    "fill",
    "level",
    "nearest",
    "reachable",
    "refuse_unreachable",
    "rewards",
    "wall",
    "wall_step",
]
