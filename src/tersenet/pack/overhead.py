"""What a packed file costs besides its floating-point values, for byte budgets.

A search counts bytes from numbers of channels; header, index and integer buffers come on top and are nearly the same
for every policy. They are measured on a file built in memory, never written.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import nn

from tersenet.core.plan import Cut, Plan
from tersenet.core.policy import ChannelDecision, Policy
from tersenet.graph import unwrapped
from tersenet.pack.packed import packed_bytes
from tersenet.pack.storage import bytes_per_element

_FACTS = {f"fact {number}": f"{number:032x}" for number in range(12)}
"""Stands in for a run's provenance: a dozen facts of the length of a hash."""


def estimate_overhead(
    model: nn.Module,
    plan: Plan | None = None,
    *,
    policy: Policy | None = None,
    provenance: Mapping[str, str] | None = None,
) -> int:
    """Bytes of the packed file that are not floating-point values.

    Exact for a model, plan, policy and provenance that are all given as they will be saved; what is missing is
    replaced by something of the size a real run has.

    Args:
        model: the original network, or the compressed one.
        plan: what will be cut; None for every layer cut to about half of its channels, in no regular pattern.
        policy: None for one decision per cut group.
        provenance: None for a dozen facts.

    Raises:
        ModelError: the model has a state that cannot be stored.
    """
    model = unwrapped(model)
    plan = plan if plan is not None else _likely_plan(model)
    policy = policy if policy is not None else _likely_policy(plan)
    facts = provenance if provenance is not None else _FACTS
    content = packed_bytes(model, plan=plan, policy=policy, provenance=facts)
    tensors = model.state_dict()
    widths = bytes_per_element(model, policy=policy)
    values = sum(int(width) * int(tensors[name].numel()) for name, width in widths.items())
    return len(content) - values


def _likely_plan(model: nn.Module) -> Plan:
    """Every layer with a weight keeps about half of its outputs, and the next one the same inputs."""
    rng = np.random.default_rng(0)
    keeps: list[tuple[int, ...]] = []
    cuts: list[Cut] = []
    attributes: dict[str, dict[str, int | tuple[int, ...]]] = {}
    kept_channels: dict[str, tuple[int, ...]] = {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        if not isinstance(weight, nn.Parameter) or weight.ndim == 0:
            continue
        if weight.ndim > 1:
            num_kept = max(1, int(len(weight) * rng.uniform(0.3, 0.7)))
            keeps.append(tuple(sorted(rng.choice(len(weight), num_kept, replace=False).tolist())))
            kept_channels[name] = keeps[-1]
            if len(keeps) > 1:
                cuts.append(Cut(tensor=f"{name}.weight", axis=1, keep=len(keeps) - 2))
        if keeps:
            tensors = {**dict(module.named_parameters(recurse=False)), **dict(module.named_buffers(recurse=False))}
            cuts += [Cut(tensor=f"{name}.{leaf}", axis=0, keep=len(keeps) - 1) for leaf, t in tensors.items() if t.ndim]
            attributes[name] = {"in_channels": len(weight), "out_channels": len(keeps[-1])}
    return Plan(keeps=tuple(keeps), cuts=tuple(cuts), attributes=attributes, kept_channels=kept_channels)


def _likely_policy(plan: Plan) -> Policy:
    ratios = {group: 1.0 / (2.0 + len(kept) % 7) for group, kept in plan.kept_channels.items()}
    return Policy(channels={group: ChannelDecision(pruning_ratio=ratio) for group, ratio in ratios.items()})
