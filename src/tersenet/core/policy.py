"""What is to be compressed and how far: the policy, in the numbering of the original model.

A policy says *how much*, a plan (``core/plan.py``) says *which indices*. Channels are decided per coupled group, what
stays inside kernels and storage per layer, one form each: a policy cannot contradict itself.
"""

from __future__ import annotations

import hashlib
import math
from typing import Annotated, Literal

from pydantic import BaseModel, Field, model_validator

from tersenet.core.bounds import Count
from tersenet.core.mask import Mask
from tersenet.errors import PolicyError


class ChannelDecision(BaseModel, frozen=True, extra="forbid"):
    """How many, or exactly which, channels of one coupled group stay."""

    pruning_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] | None = None
    """Share of the group's channels that is removed (at most; whole channels stay whole)."""

    criterion: str = "l1"
    """Which channels go first: the name of a criterion; unused with ``keep``."""

    keep: tuple[int, ...] | None = None
    """The channels that stay, ascending, in the original numbering."""

    @model_validator(mode="after")
    def _one_form(self) -> ChannelDecision:
        if (self.pruning_ratio is None) == (self.keep is None):
            raise ValueError("give either pruning_ratio or keep, and not both")
        if self.keep is not None and (not self.keep or list(self.keep) != sorted(set(self.keep)) or self.keep[0] < 0):
            raise ValueError(f"keep must be ascending channel numbers, at least one, got {self.keep}")
        return self

    def num_kept(self, num_channels: int) -> int:
        """Channels that stay out of ``num_channels``, at least 1.

        Raises:
            PolicyError: ``keep`` names a channel that the group does not have.
        """
        if self.keep is not None:
            if self.keep[-1] >= num_channels:
                raise PolicyError(
                    f"keep names channel {self.keep[-1]}, but the group has {num_channels} channels (0 to "
                    f"{num_channels - 1}). Was the policy made for another model?"
                )
            return len(self.keep)
        assert self.pruning_ratio is not None
        return max(1, math.ceil(num_channels * (1.0 - self.pruning_ratio) - 1e-9))


KernelUnit = Literal["kernel", "position", "filter_position", "element"]
"""What is pruned inside a layer's weight of shape (O, I, h, w): a 2-D kernel (o, i); a position (h, w) of all kernels
of the layer, or of one filter; a single weight."""


class KernelDecision(BaseModel, frozen=True, extra="forbid"):
    """How many, or exactly which, units of one layer's weight stay; the others are zero."""

    unit: KernelUnit
    """What stays or goes as a whole."""

    keep_ratio: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    """Share of the units that stays, of those that channel pruning leaves (rounded up, so at least one)."""

    threshold: float | None = None
    """Units with a lower score go; the best one always stays."""

    criterion: str = "l1"
    """Which units go first: the name of a criterion for units; unused with ``mask``."""

    mask: Mask | None = None
    """The units that stay, in the original numbering."""

    @model_validator(mode="after")
    def _one_form(self) -> KernelDecision:
        if sum(form is not None for form in (self.keep_ratio, self.threshold, self.mask)) != 1:
            raise ValueError("give exactly one of keep_ratio, threshold and mask")
        return self


class Raw(BaseModel, frozen=True, extra="forbid"):
    """Weights stored as plain floating-point numbers."""

    form: Literal["raw"] = "raw"
    """Tag of this form in JSON."""

    dtype: Literal["fp32", "fp16"] = "fp32"
    """Width of one stored number."""


class Clusters(BaseModel, frozen=True, extra="forbid"):
    """One layer's weights as indices into a shared codebook."""

    form: Literal["clusters"] = "clusters"
    """Tag of this form in JSON."""

    n_clusters: Annotated[int, Field(ge=2, le=65536)]
    """Number of shared values, the papers' k; a fixed zero for pruned weights comes on top."""

    codebook_bits: Literal[16, 32] = 16
    """Bits of one shared value in the file."""

    channels_per_codebook: Count | None = None
    """Output channels that share one codebook, in blocks; None: the whole layer."""


class Linear(BaseModel, frozen=True, extra="forbid"):
    """One layer's weights as small integers times one scale per output channel, symmetric around zero."""

    form: Literal["linear"] = "linear"
    """Tag of this form in JSON."""

    weight_bits: Annotated[int, Field(ge=1, le=8)]
    """Width of the integers: from -(2^(b-1) - 1) to 2^(b-1) - 1; with 1 bit, -1 or 1."""


Storage = Annotated[Raw | Clusters | Linear, Field(discriminator="form")]
"""How one layer's weight is stored, told apart by ``form``; its other tensors are raw."""


class Policy(BaseModel, frozen=True, extra="forbid"):
    """How far each part of a network is compressed."""

    version: Literal[1] = 1
    """Version of this format."""

    channels: dict[str, ChannelDecision] = {}
    """Decision per coupled group, by group id; groups that are not named stay whole."""

    kernels: dict[str, KernelDecision] = {}
    """Decision per layer, by layer name; weights of layers that are not named stay whole."""

    storage: dict[str, Storage] = {}
    """Form of storage per layer, by layer name; layers that are not named are stored as fp32."""

    @model_validator(mode="after")
    def _zeros_can_be_stored(self) -> Policy:
        for layer in self.kernels:
            form = self.storage.get(layer)
            if isinstance(form, Linear) and form.weight_bits == 1:
                raise ValueError(f"{layer!r} is pruned inside its kernels, and 1 bit has no zero: give it 2 bits")
        return self

    def digest(self) -> str:
        """A short hash that is equal for equal policies, in any order of their entries."""
        ordered = self.model_copy(
            update={name: dict(sorted(getattr(self, name).items())) for name in ("channels", "kernels", "storage")}
        )
        without = None if self.kernels else {"kernels"}  # hashes are as they were before there were kernels
        return hashlib.sha256(ordered.model_dump_json(exclude=without).encode()).hexdigest()[:16]


def ratio_for(num_kept: int, num_channels: int) -> float:
    """The pruning ratio that keeps exactly ``num_kept`` of ``num_channels`` channels."""
    return 1.0 - num_kept / num_channels
