"""Which indices stay: a policy made explicit, kept in the study and in the packed file.

A plan needs no tracing to be applied: it lists parameters and buffers by name, the axis to cut, and what stays.
"""

from __future__ import annotations

from pydantic import BaseModel, model_validator

from tersenet.core.mask import Mask


class Cut(BaseModel, frozen=True, extra="forbid"):
    """One axis of one parameter or buffer, and what stays of it."""

    tensor: str
    """Name as in ``model.state_dict()``."""

    axis: int
    """Axis that is cut."""

    keep: int
    """Which entry of ``Plan.keeps`` says what stays."""


class Plan(BaseModel, frozen=True, extra="forbid"):
    """Everything that is cut, as explicit indices into the original model."""

    keeps: tuple[tuple[int, ...], ...] = ()
    """Lists of positions that stay, ascending; shared between cuts."""

    cuts: tuple[Cut, ...] = ()
    """The cuts; at most one per (tensor, axis)."""

    attributes: dict[str, dict[str, int | tuple[int, ...]]] = {}
    """Module name to attributes that change with the cut (``out_channels``, ``groups``, ``num_features``, ...)."""

    kept_channels: dict[str, tuple[int, ...]] = {}
    """Group id to the channels of the group that stay; groups that stay whole are not named."""

    masks: dict[str, Mask] = {}
    """Tensor name to which of its weights stay, before anything is cut; the others become zero. A packed file does not
    repeat them: the zeros are in its weights."""

    @property
    def is_empty(self) -> bool:
        """Whether nothing is changed."""
        return not self.cuts and not self.masks

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        seen = set()
        for cut in self.cuts:
            if not 0 <= cut.keep < len(self.keeps):
                raise ValueError(f"cut of {cut.tensor!r} refers to list {cut.keep}, there are {len(self.keeps)}")
            if (cut.tensor, cut.axis) in seen:
                raise ValueError(f"axis {cut.axis} of {cut.tensor!r} is cut twice")
            seen.add((cut.tensor, cut.axis))
        for keep in self.keeps:
            if not keep or list(keep) != sorted(set(keep)) or keep[0] < 0:
                raise ValueError("a list of kept positions must be ascending, not negative and not empty")
        return self
