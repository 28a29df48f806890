"""Walks over decisions, budgets that are kept exactly, and rewards as pure functions."""

from tersenet.envs import rewards
from tersenet.envs.budget import Budget, Limit, nonzero_params_limit, reachable, refuse_unreachable
from tersenet.envs.decisions import ChannelDecisions, DecisionPoint, Decisions, StorageDecisions, storage_form
from tersenet.envs.decoding import DecoderName, fill, level, nearest, sweep, wall, wall_step
from tersenet.envs.joint_space import JointDecisions, JointSpace
from tersenet.envs.kernel_rules import KernelRules, Signals
from tersenet.envs.kernel_space import KernelSpace, UnitCost
from tersenet.envs.kernels import KernelEnv
from tersenet.envs.layerwise import LayerwiseEnv
from tersenet.envs.rate_distortion import rate_distortion, scaled_by_loss
from tersenet.envs.residual import ResidualEnv
from tersenet.envs.rules import Ruled, apply_rules
from tersenet.envs.sensitivity import allot
from tersenet.envs.space import ChannelSpace, Space, channel_space, nothing_to_cut, shares_of
from tersenet.envs.storage_space import LookupCost, StorageSpace
from tersenet.envs.switched import SwitchedChannels, SwitchedKernels

__all__ = [
    "Budget",
    "ChannelDecisions",
    "ChannelSpace",
    "DecisionPoint",
    "Decisions",
    "DecoderName",
    "JointDecisions",
    "JointSpace",
    "KernelEnv",
    "KernelRules",
    "KernelSpace",
    "LayerwiseEnv",
    "Limit",
    "LookupCost",
    "ResidualEnv",
    "Ruled",
    "Signals",
    "Space",
    "StorageDecisions",
    "StorageSpace",
    "SwitchedChannels",
    "SwitchedKernels",
    "UnitCost",
    "allot",
    "apply_rules",
    "channel_space",
    "fill",
    "level",
    "nearest",
    "nonzero_params_limit",
    "nothing_to_cut",
    "rate_distortion",
    "reachable",
    "refuse_unreachable",
    "rewards",
    "scaled_by_loss",
    "shares_of",
    "storage_form",
    "sweep",
    "wall",
    "wall_step",
]
