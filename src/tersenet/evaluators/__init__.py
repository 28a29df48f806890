"""Where a trial is measured."""

from tersenet.evaluators.fresh import FreshEvaluator

__all__ = ["FreshEvaluator"]
