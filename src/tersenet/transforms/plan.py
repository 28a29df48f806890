"""Policy to plan: which channels stay, and from that which positions of which tensors and which module attributes.

What stays inside kernels is decided among the channels that stay (``transforms/kernels.py``).

Channels with the highest scores stay; of equal scores the lower index stays. The same policy, model and seed give
the same plan.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tersenet import criteria
from tersenet.core.mask import Mask
from tersenet.core.plan import Cut, Plan
from tersenet.core.policy import ChannelDecision, Policy
from tersenet.core.registry import unknown_name
from tersenet.errors import ModelError, PolicyError
from tersenet.graph import ChannelGroup, Member, ModelGraph, unwrapped
from tersenet.transforms.attributes import Attributes, changed_attributes
from tersenet.transforms.cropping import crops
from tersenet.transforms.kernels import axes_that_stay, kernel_masks, without_idle
from tersenet.transforms.tensors import tensors_by_name


def make_plan(
    model: nn.Module, graph: ModelGraph, policy: Policy, *, seed: int, learned: criteria.Learned | None = None
) -> Plan:
    """Make a policy explicit: score channels and units inside kernels, and list what stays of every tensor.

    Args:
        seed: for criteria that draw numbers.
        learned: for criteria that rank by what training with noise found out.

    Raises:
        PolicyError: a group or layer does not exist, is locked, or lacks a channel named in ``keep``; or the graph was
            traced from another model; or a criterion needs what was not learned.
        UnknownNameError: no criterion has this name.
        ModelError: the scores are not numbers, because the weights are not.
    """
    model = unwrapped(model)
    tensors = tensors_by_name(model)
    _check_groups(graph, policy)
    kept: dict[str, tuple[int, ...]] = {}
    for group in graph.channel_groups:
        decision = policy.channels.get(group.group_id)
        if decision is None:
            continue
        try:
            count = decision.num_kept(group.num_channels)
        except PolicyError as error:
            raise PolicyError(f"Group {group.group_id!r}: {error}") from None
        if count == group.num_channels:
            continue
        if not group.prunable:
            raise PolicyError(
                f"Group {group.group_id!r} cannot be cut: {group.reason}. Take it out of the policy's channels."
            )
        kept[group.group_id] = _kept_channels(group, decision, tensors, learned, seed=seed)
    if not policy.kernels:
        return plan_for(model, graph, kept)
    masks = kernel_masks(tensors, graph, policy, axes_that_stay(graph, kept), learned=learned, seed=seed)
    return plan_for(model, graph, without_idle(graph, kept, masks), masks)


def plan_for(
    model: nn.Module,
    graph: ModelGraph,
    kept: Mapping[str, tuple[int, ...]],
    masks: Mapping[str, NDArray[np.bool_]] | None = None,
) -> Plan:
    """The plan that keeps exactly these channels, by group id; groups that are not named stay whole.

    Args:
        masks: units inside kernels that stay, by name of the weight, shapes that broadcast to it; outer rows and
            columns that are off in all kernels are cut.

    Raises:
        PolicyError: the graph was traced from another model.
    """
    model = unwrapped(model)
    _check_shapes(graph, tensors_by_name(model))
    shapes = {tensor.name: tensor.shape for tensor in graph.tensors}
    stays = axes_that_stay(graph, kept)
    cropped = crops(model, graph, masks or {})
    weights = {layer.name: layer.weight for layer in graph.layers}
    for name, (ends, _) in cropped.items():
        for axis, end in enumerate(ends, start=2):
            if end:
                rows = np.arange(shapes[weights[name]][axis])
                stays[weights[name], axis] = (rows >= end) & (rows < len(rows) - end)
    numbers: dict[bytes, int] = {}
    keeps: list[tuple[int, ...]] = []
    cuts: list[Cut] = []
    sizes = {name: list(shapes[name]) for name, _ in stays}
    for (name, axis), mask in stays.items():
        digest = mask.tobytes()
        if digest not in numbers:
            numbers[digest] = len(keeps)
            keeps.append(tuple(np.flatnonzero(mask).tolist()))
        cuts.append(Cut(tensor=name, axis=axis, keep=numbers[digest]))
        sizes[name][axis] = len(keeps[numbers[digest]])
    attributes = changed_attributes(model, {name: tuple(size) for name, size in sizes.items()})
    _add_widths(attributes, model, graph, kept)
    for name, (_, padding) in cropped.items():
        attributes.setdefault(name, {})["padding"] = padding
    return Plan(
        keeps=tuple(keeps),
        cuts=tuple(cuts),
        attributes=attributes,
        kept_channels=dict(kept),
        masks={name: Mask.of(mask) for name, mask in (masks or {}).items()},
    )


def _add_widths(
    attributes: dict[str, Attributes], model: nn.Module, graph: ModelGraph, kept: Mapping[str, tuple[int, ...]]
) -> None:
    """Modules without tensors that hold a number of channels."""
    for width in graph.widths:
        size = getattr(model.get_submodule(width.module), "num_features", None)
        if width.group_id in kept and isinstance(size, int):
            fewer = graph.group(width.group_id).num_channels - len(kept[width.group_id])
            own = attributes.setdefault(width.module, {})
            before = own.get("num_features", size)
            assert isinstance(before, int)
            own["num_features"] = before - fewer * width.num_per_channel


def _check_shapes(graph: ModelGraph, tensors: Mapping[str, Tensor]) -> None:
    for info in graph.tensors:
        if info.name not in tensors or tuple(tensors[info.name].shape) != info.shape:
            found = tuple(tensors[info.name].shape) if info.name in tensors else "missing"
            raise PolicyError(
                f"The graph belongs to another model: {info.name!r} has shape {info.shape} there and is {found} here. "
                "Trace this model."
            )


def _check_groups(graph: ModelGraph, policy: Policy) -> None:
    known = [group.group_id for group in graph.channel_groups]
    for group_id in policy.channels:
        if group_id not in known:
            raise PolicyError(str(unknown_name("channel group", group_id, known)))


def _kept_channels(
    group: ChannelGroup,
    decision: ChannelDecision,
    tensors: Mapping[str, Tensor],
    learned: criteria.Learned | None,
    *,
    seed: int,
) -> tuple[int, ...]:
    if decision.keep is not None:
        return decision.keep
    score = criteria.get(decision.criterion)
    # groups of the same size must not draw the same channels
    drawn = np.random.SeedSequence([seed % 2**63, zlib.crc32(group.group_id.encode())]).generate_state(1)
    with torch.no_grad():
        scores = score(member_views(group, tensors, learned), int(drawn[0])).double().cpu().numpy()
    if not np.isfinite(scores).all():
        raise ModelError(
            f"Criterion {decision.criterion!r} gives no numbers for group {group.group_id!r}: its weights hold NaN or "
            "infinite values. Load other weights."
        )
    best = np.argsort(-scores, kind="stable")[: decision.num_kept(group.num_channels)]
    return tuple(sorted(best.tolist()))


def member_views(
    group: ChannelGroup, tensors: Mapping[str, Tensor], learned: criteria.Learned | None = None
) -> list[criteria.MemberView]:
    """What a criterion sees of a group: one view per producer's weight, with the norm directly behind it if any, and
    with what training with noise found out of its channels."""
    scales = {member.scales: member for member in group.members if member.scales}
    return [
        criteria.MemberView(
            weight=tensors[member.tensor],
            axis=member.axis,
            positions=member.places,
            norm_scale=_norm_scale(scales.get(member.layer), tensors),
            learned=None if learned is None else learned.channels.get(member.layer),
        )
        for member in group.members
        if member.role == "producer" and tensors[member.tensor].ndim > 1
    ]


def _norm_scale(member: Member | None, tensors: Mapping[str, Tensor]) -> Tensor | None:
    if member is None:
        return None
    scale = tensors[member.tensor].detach().abs()
    return scale[torch.from_numpy(member.places).to(scale.device)].mean(dim=1)
