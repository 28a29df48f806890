"""Measuring a network: accuracy or the user's own score, the time of a forward pass, the staircase of a runtime."""

from tersenet.measurement.accuracy import Accuracy, accuracy, accuracy_of
from tersenet.measurement.latency import compare_latency, measure_latency
from tersenet.measurement.metrics import measure_quality
from tersenet.measurement.ranges import activation_ranges
from tersenet.measurement.score import score
from tersenet.measurement.staircase import probe_staircase
from tersenet.measurement.task import Loss, Metric, Task

__all__ = [
    "Accuracy",
    "Loss",
    "Metric",
    "Task",
    "accuracy",
    "accuracy_of",
    "activation_ranges",
    "compare_latency",
    "measure_latency",
    "measure_quality",
    "probe_staircase",
    "score",
]
