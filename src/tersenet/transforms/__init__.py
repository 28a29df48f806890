"""From a policy to a plan, and from a plan to a really smaller network."""

from tersenet.transforms.channels import materialize
from tersenet.transforms.check import check_cut, relative_difference, verify_groups
from tersenet.transforms.clusters import ClusterCache, clusterable_layers, output_axis, share_weights, write_values
from tersenet.transforms.coded import CodedWeights, LinearWeights, SharedWeights
from tersenet.transforms.kernels import unit_shape
from tersenet.transforms.parametrized import without_parametrizations
from tersenet.transforms.plain_weights import plain_weights
from tersenet.transforms.plan import make_plan, member_views, plan_for
from tersenet.transforms.quantize import entropy_bits, quantize, squared_error, squared_errors
from tersenet.transforms.reconstruct import Reconstruction, collect_moments
from tersenet.transforms.simulate import simulate
from tersenet.transforms.storage import Coder

__all__ = [
    "ClusterCache",
    "CodedWeights",
    "Coder",
    "LinearWeights",
    "Reconstruction",
    "SharedWeights",
    "check_cut",
    "clusterable_layers",
    "collect_moments",
    "entropy_bits",
    "make_plan",
    "materialize",
    "member_views",
    "output_axis",
    "plain_weights",
    "plan_for",
    "quantize",
    "relative_difference",
    "share_weights",
    "simulate",
    "squared_error",
    "squared_errors",
    "unit_shape",
    "verify_groups",
    "without_parametrizations",
    "write_values",
]
