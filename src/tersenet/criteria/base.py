"""What a criterion sees of a coupled group, the table of criteria, and the rule for groups with several producers.

A criterion gives one score per channel of a group; the channels with the lowest scores are removed first. Most
criteria look at one weight at a time and are written as a plain function of it; ``register`` makes a criterion for
whole groups of such a function. Criteria that need more register a function of the members with ``register_group``.

Axes: O positions along the cut axis of one weight, C channels of the group, P positions of one channel,
F flattened rest.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tersenet.core.registry import Registry
from tersenet.errors import UnknownNameError


@dataclass(frozen=True)
class MemberView:
    """One weight that produces the channels of a group, and where on it they are."""

    weight: Tensor
    """The whole weight, also what does not belong to the group."""

    axis: int
    """Axis along which the channels lie."""

    positions: Sequence[Sequence[int]] | NDArray[np.int64]
    """For each channel of the group, its positions on that axis, all of the same length."""

    norm_scale: Tensor | None
    """Mean absolute scale of the norm behind the weight, shape (num_channels,); None without a norm."""

    learned: Tensor | None = None
    """What training with noise found each position of the axis to be worth, shape (O,); None if nothing did."""

    def slices(self) -> Tensor:
        """All slices of the weight along the axis, shape (O, F), at least in single precision."""
        slices_OF = self.weight.detach().movedim(self.axis, 0).flatten(1)
        return slices_OF if slices_OF.dtype == torch.float64 else slices_OF.float()

    def filters(self) -> Tensor:
        """What the weight holds of each channel, shape (C, P * F), at least in single precision."""
        return self.slices()[self.position_index()].flatten(1)

    def position_index(self) -> Tensor:
        """``positions`` as integers, shape (C, P), on the weight's device."""
        return torch.from_numpy(np.asarray(self.positions, dtype=np.int64)).to(self.weight.device)


class Criterion(Protocol):
    """Scores the channels of one group."""

    def __call__(self, members: Sequence[MemberView], seed: int) -> Tensor:
        """Score each channel; low means redundant.

        Args:
            members: the producers of the group, at least one.
            seed: for criteria that draw numbers; the others ignore it.

        Returns:
            Scores, shape (num_channels,).
        """
        ...


WeightScore = Callable[[Tensor], Tensor]
"""Weight with the channels on its first axis, shape (O, ...), to one score per position, shape (O,)."""

_criteria: Registry[Criterion] = Registry("criterion")
_own: dict[str, Criterion] = {}


def get(name: str) -> Criterion:
    """The criterion of this name.

    Raises:
        UnknownNameError: there is none; the message gives the nearest name.
    """
    if name in _own:
        return _own[name]
    if ":" in name:
        raise UnknownNameError(
            f"The criterion {name!r} is a user's own and not known here. Enter it first: "
            "tersenet.criteria.use in Python, --criterion of `tersenet apply`."
        )
    return _criteria.get(name)


def own() -> dict[str, Criterion]:
    """Criteria that users entered, by name."""
    return dict(_own)


def enter_own(name: str, criterion: Criterion) -> None:
    """Enter a user's criterion, or replace it; its name has a colon, as no registered one has."""
    _own[name] = criterion


def names() -> list[str]:
    """Names of all criteria, sorted."""
    return _criteria.names()


def register(score: WeightScore) -> WeightScore:
    """Enter a function of one weight as a criterion, under the function's name.

    A channel with several positions on the weight has the sum of their scores; several producers are combined
    by ``combine``. The function itself is returned unchanged.
    """

    def criterion(members: Sequence[MemberView], seed: int) -> Tensor:
        return combine([score(member.slices())[member.position_index()].sum(dim=1) for member in members])

    _criteria.add(score.__name__, criterion)
    return score


def register_group(name: str) -> Callable[[Criterion], Criterion]:
    """Enter a function of all members of a group as the criterion ``name``."""

    def enter(criterion: Criterion) -> Criterion:
        _criteria.add(name, criterion)
        return criterion

    return enter


def combine(scores: Sequence[Tensor]) -> Tensor:
    """Scores of a group with several producers: each divided by its mean, then averaged.

    The mean is that of the absolute scores, so that criteria with a sign keep their order; scores that are all
    zero stay zero.

    Args:
        scores: one tensor per producer, shape (num_channels,) each.

    Returns:
        Scores, shape (num_channels,).

    Raises:
        ValueError: there is no producer.
    """
    if not scores:
        raise ValueError("a group without producers has no scores")
    relative = []
    for score in scores:
        mean = score.abs().mean()
        relative.append(score / mean if mean > 0 else score)
    return torch.stack([score.to(relative[0]) for score in relative]).mean(dim=0)
