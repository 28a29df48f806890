"""What a user calls from Python; the command line calls the same functions."""

from tersenet.api.compressing import apply, check_deliver, compress
from tersenet.api.evaluating import EvaluateResult, evaluate, measure
from tersenet.api.folders import check_folder
from tersenet.api.inspecting import inspect
from tersenet.api.int8 import check_export
from tersenet.api.options import CompressOptions, Result
from tersenet.api.training import TrainOptions, TrainResult, train
from tersenet.core.rules import ChannelRule, ChannelRules
from tersenet.measurement import Task

__all__ = [
    "ChannelRule",
    "ChannelRules",
    "CompressOptions",
    "EvaluateResult",
    "Result",
    "Task",
    "TrainOptions",
    "TrainResult",
    "apply",
    "check_deliver",
    "check_export",
    "check_folder",
    "compress",
    "evaluate",
    "inspect",
    "measure",
    "train",
]
