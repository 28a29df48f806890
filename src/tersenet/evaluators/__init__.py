"""Where a trial is measured."""

from tersenet.evaluators.fresh import FreshEvaluator
from tersenet.evaluators.ray_cluster import RayEvaluator, check_workers
from tersenet.evaluators.repair import Repair, RepairName, make_repair

__all__ = ["FreshEvaluator", "RayEvaluator", "Repair", "RepairName", "check_workers", "make_repair"]
