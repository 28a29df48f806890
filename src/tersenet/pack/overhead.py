"""What a packed file costs besides its floating-point values, for byte budgets.

A search counts bytes from numbers of channels and from how often each shared value occurs (``coded_bytes``,
``stream_bytes``); header, index and integer buffers come on top and are nearly the same for every policy. They are
measured on an index built in memory.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import nn

from tersenet.core.plan import Cut, Plan
from tersenet.core.policy import ChannelDecision, Clusters, Policy, Raw
from tersenet.graph import unwrapped
from tersenet.pack.codecs import num_bytes
from tersenet.pack.container import outer_bytes
from tersenet.pack.index import Dtype, Index, write_index
from tersenet.pack.matching import weight_name
from tersenet.pack.norms import Norms
from tersenet.pack.storage import stored_tensors
from tersenet.transforms.coded import CodedWeights, LinearWeights, SharedWeights

_FACTS = {f"fact {number}": f"{number:032x}" for number in range(12)}
"""Stands in for a run's provenance: a dozen facts of the length of a hash."""


def estimate_overhead(
    model: nn.Module,
    plan: Plan | None = None,
    *,
    policy: Policy | None = None,
    provenance: Mapping[str, str] | None = None,
    dtype: Dtype = "fp32",
    norms: Norms = "full",
    coded: Mapping[str, CodedWeights] | None = None,
) -> int:
    """Bytes of the packed file that are not floating-point values: header, index and integer buffers.

    Exact for a model, plan, policy and provenance that are all given as they will be saved; what is missing is
    replaced by something of the size a real run has. With what ``bytes_per_element`` says of each tensor it makes the
    size of the file: exactly if all is plain, within 0.5 % if weights are coded.

    Args:
        model: the original network, or the compressed one.
        plan: what will be cut; None for every layer cut to about half of its channels, in no regular pattern.
        policy: None for one decision per cut group.
        provenance: None for a dozen facts.
        dtype: as for ``save_packed``.
        norms: as for ``save_packed``.
        coded: as for ``save_packed``; weights that are not given are thought to have as many entries as their policy.

    Raises:
        ModelError: the model has a state that cannot be stored.
        PolicyError: the policy names a layer that the model does not have, or ``coded`` does not match it.
    """
    model = unwrapped(model)
    plan = plan if plan is not None else _likely_plan(model)
    policy = policy if policy is not None else _likely_policy(plan)
    weights = {**_stand_ins(model, policy), **(coded or {})}
    stored = list(stored_tensors(model, policy=policy, dtype=dtype, norms=norms, coded=weights))
    index = Index(
        entries=tuple(one.entry for one in stored),
        plan=plan,
        policy=policy,
        provenance=dict(_FACTS if provenance is None else provenance),
        dtype=dtype,
    )
    integers = sum(len(one.encoded.plain) for one in stored if not one.tensor.is_floating_point())
    values = sum(num_bytes(one.encoded) for one in stored)
    return outer_bytes(write_index(index), round(values)) + integers


def _stand_ins(model: nn.Module, policy: Policy) -> dict[str, CodedWeights]:
    """Weights of the form and size that the policy asks for, all of them the same number."""
    tensors = model.state_dict()
    found: dict[str, CodedWeights] = {}
    for layer, form in policy.storage.items():
        name = weight_name(layer)
        if isinstance(form, Raw) or name not in tensors:
            continue
        shape = tuple(tensors[name].shape)
        if isinstance(form, Clusters):
            channels = form.channels_per_codebook or shape[0]
            codebooks = np.zeros((-(-shape[0] // channels), form.n_clusters), dtype=f"float{form.codebook_bits}")
            indices = np.zeros(shape, dtype=np.uint16)
            found[name] = SharedWeights(codebooks=codebooks, indices=indices, axis=0, channels_per_codebook=channels)
        else:
            scales, integers = np.zeros(shape[0], dtype=np.float16), np.ones(shape, dtype=np.int8)
            found[name] = LinearWeights(integers=integers, scales=scales, weight_bits=form.weight_bits, axis=0)
    return found


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
