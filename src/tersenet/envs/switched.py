"""Which units of a network in training are on, as a policy and back: channels of groups, or 2-D kernels of layers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from tersenet.core.mask import Mask
from tersenet.core.policy import ChannelDecision, KernelDecision, Policy
from tersenet.envs.kernel_rules import BoolArray
from tersenet.errors import PolicyError


class Switched(Protocol):
    """What is switched, by group or layer."""

    @property
    def sizes(self) -> dict[str, int]:
        """Units of each."""
        ...

    def policy(self, masks: Mapping[str, BoolArray]) -> Policy:
        """The policy that keeps exactly what is on; what is whole is not named."""
        ...

    def masks(self, policy: Policy) -> dict[str, BoolArray]:
        """What is on by a policy, shape (units,) each.

        Raises:
            PolicyError: the policy decides something else, or does not say which units stay.
        """
        ...


@dataclass(frozen=True)
class SwitchedChannels:
    """Channels of coupled groups."""

    sizes: dict[str, int]

    def policy(self, masks: Mapping[str, BoolArray]) -> Policy:
        """Lists of channels that stay."""
        return Policy(
            channels={
                group_id: ChannelDecision(keep=tuple(np.flatnonzero(mask).tolist()))
                for group_id, mask in masks.items()
                if not mask.all()
            }
        )

    def masks(self, policy: Policy) -> dict[str, BoolArray]:
        """From lists of channels."""
        return masks_of(policy, self.sizes)


@dataclass(frozen=True)
class SwitchedKernels:
    """2-D kernels inside layers, in row-major order."""

    shapes: dict[str, tuple[int, ...]]
    """Of each layer's mask, (O, I, 1, ...)."""

    @property
    def sizes(self) -> dict[str, int]:
        """Kernels of each layer."""
        return {layer: math.prod(shape) for layer, shape in self.shapes.items()}

    def policy(self, masks: Mapping[str, BoolArray]) -> Policy:
        """Masks of kernels that stay."""
        return Policy(
            kernels={
                layer: KernelDecision(unit="kernel", mask=Mask.of(mask.reshape(self.shapes[layer])))
                for layer, mask in masks.items()
                if not mask.all()
            }
        )

    def masks(self, policy: Policy) -> dict[str, BoolArray]:
        """From masks of kernels."""
        found = {layer: np.ones(size, dtype=np.bool_) for layer, size in self.sizes.items()}
        others = [*policy.channels, *(name for name in policy.kernels if name not in found)]
        if others:
            raise PolicyError(
                f"{others[0]!r}: here a network in training is switched by policies that say which 2-D kernels of its "
                f"own layers stay. Its layers: {', '.join(found)}."
            )
        for layer, decision in policy.kernels.items():
            if decision.unit != "kernel" or decision.mask is None or decision.mask.shape != self.shapes[layer]:
                raise PolicyError(
                    f"Layer {layer!r}: a network in training is switched by masks of 2-D kernels (unit='kernel'), of "
                    f"shape {self.shapes[layer]} here."
                )
            found[layer] = decision.mask.array().reshape(-1)
        return found


def masks_of(policy: Policy, sizes: Mapping[str, int]) -> dict[str, BoolArray]:
    """Which channels of each group are on by a policy that names them.

    Args:
        sizes: channels of every group that may be switched, by its id.

    Raises:
        PolicyError: the policy names another group, or does not say which channels stay.
    """
    masks = {group_id: np.ones(size, dtype=np.bool_) for group_id, size in sizes.items()}
    for group_id, decision in policy.channels.items():
        if group_id not in masks or decision.keep is None:
            raise PolicyError(
                f"Group {group_id!r}: a network in training is switched by policies that list the channels of its own "
                f"groups (keep). Its groups: {', '.join(sizes)}."
            )
        masks[group_id][:] = False
        masks[group_id][list(decision.keep)] = True
    return masks
