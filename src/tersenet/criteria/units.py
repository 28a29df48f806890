"""How redundant each unit inside a layer's weight is: a 2-D kernel, a position of kernels, or a single weight.

Units are described by their shape, which broadcasts against the weight's: (O, I, 1, 1) for kernels, (1, 1, h, w) for
positions. Scores have that shape; the lowest go first. Only units of one layer are compared.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from tersenet.core.registry import Registry


@dataclass(frozen=True, kw_only=True)
class UnitView:
    """What a criterion sees of one layer."""

    weight: Tensor
    """Shape (O, I, ...); what channel pruning removes is zero."""

    unit_shape: tuple[int, ...]
    """One entry per axis of the weight; 1 where a unit covers the axis whole."""

    learned: Tensor | None = None
    """What training with noise found each unit to be worth, shape ``unit_shape``; None if nothing did."""

    def summed(self, values: Tensor) -> Tensor:
        """Values of the weight's shape added up per unit, shape ``unit_shape``."""
        return values.sum_to_size(self.unit_shape)


class UnitCriterion(Protocol):
    """Scores the units of one layer."""

    def __call__(self, view: UnitView, seed: int) -> Tensor:
        """One score per unit, shape ``view.unit_shape``; low means redundant. ``seed`` is for those that draw."""
        ...


_criteria: Registry[UnitCriterion] = Registry("criterion for units inside kernels")


def get_unit(name: str) -> UnitCriterion:
    """The criterion of this name.

    Raises:
        UnknownNameError: there is none; the message gives the nearest name.
    """
    return _criteria.get(name)


def unit_names() -> list[str]:
    """Names of all criteria for units, sorted."""
    return _criteria.names()


def register_unit(name: str) -> Callable[[UnitCriterion], UnitCriterion]:
    """Enter a function of one layer as the criterion ``name``."""

    def enter(criterion: UnitCriterion) -> UnitCriterion:
        _criteria.add(name, criterion)
        return criterion

    return enter


@register_unit("l1")
def unit_l1(view: UnitView, seed: int) -> Tensor:
    """Sum of absolute weights."""
    return view.summed(view.weight.detach().float().abs())


@register_unit("l2")
def unit_l2(view: UnitView, seed: int) -> Tensor:
    """Euclidean norm."""
    return view.summed(view.weight.detach().float().square()).sqrt()


@register_unit("random")
def unit_random(view: UnitView, seed: int) -> Tensor:
    """A number in [0, 1) that depends on ``seed`` and the number of units only."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(math.prod(view.unit_shape), generator=generator).reshape(view.unit_shape)
    return scores.to(view.weight.device)
