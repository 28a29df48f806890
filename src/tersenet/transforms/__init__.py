"""From a policy to a plan, and from a plan to a really smaller network."""

from tersenet.transforms.channels import materialize
from tersenet.transforms.check import check_cut, relative_difference, verify_groups
from tersenet.transforms.coded import CodedWeights, LinearWeights, SharedWeights
from tersenet.transforms.plan import make_plan, member_views, plan_for
from tersenet.transforms.reconstruct import Reconstruction, collect_moments
from tersenet.transforms.simulate import simulate

__all__ = [
    "CodedWeights",
    "LinearWeights",
    "Reconstruction",
    "SharedWeights",
    "check_cut",
    "collect_moments",
    "make_plan",
    "materialize",
    "member_views",
    "plan_for",
    "relative_difference",
    "simulate",
    "verify_groups",
]
