"""Where a trial is measured."""

from tersenet.evaluators.fresh import FreshEvaluator
from tersenet.evaluators.repair import Repair, RepairName, make_repair

__all__ = ["FreshEvaluator", "Repair", "RepairName", "make_repair"]
