"""What is done to a cut network before a trial measures it, without training it to the end.

- ``none``: it is measured as it was cut.
- ``recalibrate``: batch-norm statistics are measured anew (``train/recalibrate.py``).
- ``reconstruct``: layers that lost inputs are refitted by least squares (``transforms/reconstruct.py``), then the same.
- ``distill``: a few steps towards the original's features (``train/features.py``), then the same.

How well each predicts what fine-tuning reaches, and what it costs, is measured by ``benchmarks/trial_correlation.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import nn

from tersenet.core.plan import Plan
from tersenet.data.splits import Inputs
from tersenet.graph import ModelGraph
from tersenet.measurement.placement import Placement, copied
from tersenet.train.features import FeatureTeacher
from tersenet.train.recalibrate import recalibrate
from tersenet.transforms import collect_moments

RepairName = Literal["none", "recalibrate", "reconstruct", "distill"]


@dataclass(frozen=True, kw_only=True)
class Repair:
    """Two steps, since whatever changes weights besides (how they are stored) comes between them."""

    mend: Callable[[nn.Module, Plan], None]
    """Changes the weights of a network that was cut by the plan, in place."""

    settle: Callable[[nn.Module, Placement], None]
    """Measures what follows from the weights, in place: the statistics of batch norms."""


LESSON_SAMPLES = 1000
"""Training inputs that ``reconstruct`` and ``distill`` learn from."""


def make_repair(
    name: RepairName,
    model: nn.Module,
    graph: ModelGraph,
    *,
    calibration: Sequence[Inputs],
    lessons: Sequence[Inputs],
    seed: int,
) -> Repair:
    """The repair of this name.

    Args:
        model: the original network, in eval mode; not changed.
        calibration: batches that batch-norm statistics are measured on, one size; empty without batch norms.
        lessons: batches for ``reconstruct`` and ``distill``; not looked at otherwise.
        seed: of the positions that ``reconstruct`` samples.
    """
    if name == "none":
        return Repair(mend=_leave, settle=_leave)

    def settle(small: nn.Module, placement: Placement) -> None:
        with placement.precision():
            recalibrate(small, (copied(inputs) for inputs in calibration))

    if name == "reconstruct":
        reconstruction = collect_moments(model, graph, (copied(inputs) for inputs in lessons), seed=seed)
        return Repair(mend=reconstruction.refit, settle=settle)
    if name == "distill":
        return Repair(mend=FeatureTeacher(model, graph, lessons).teach, settle=settle)
    return Repair(mend=_leave, settle=settle)


def _leave(small: nn.Module, _: object) -> None:
    """Nothing is done."""
