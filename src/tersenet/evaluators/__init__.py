"""Where a trial is measured."""

from tersenet.evaluators.fresh import FreshEvaluator
from tersenet.evaluators.live import LiveEvaluator, check_one_worker
from tersenet.evaluators.ray_cluster import RayEvaluator, check_workers
from tersenet.evaluators.repair import Repair, RepairName, make_repair

__all__ = [
    "FreshEvaluator",
    "LiveEvaluator",
    "RayEvaluator",
    "Repair",
    "RepairName",
    "check_one_worker",
    "check_workers",
    "make_repair",
]
