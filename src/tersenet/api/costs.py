"""What a policy costs in each kind, and how much of it the target allows."""

from __future__ import annotations

import math
from typing import Literal

from torch import nn

from tersenet import pack
from tersenet.api.live_kernels import kernel_costs
from tersenet.core.target import CostKind, Target
from tersenet.envs import ChannelSpace, KernelSpace, Limit
from tersenet.errors import TargetError
from tersenet.graph import ModelGraph, cost_table
from tersenet.recipes import ChannelConfig
from tersenet.recipes.khatri2020 import Khatri2020Config

SIZE_AIM = 0.99
"""Share of a byte budget that the search aims at; what is left covers the index, which is known only when packed."""


def costs_of(
    model: nn.Module,
    graph: ModelGraph,
    space: ChannelSpace | KernelSpace,
    config: ChannelConfig,
    target: Target | None,
) -> tuple[Limit, ...]:
    """Every kind of cost that depends on what is decided; its maximum is infinite where the target sets no bound."""
    dtype: Literal["fp32", "fp16"] = "fp16" if storage_dtype(config, target) == "fp16" else "fp32"
    if isinstance(space, KernelSpace):
        assert isinstance(config, Khatri2020Config)
        return kernel_costs(model, graph, space, config, target=target, dtype=dtype, aim=SIZE_AIM)
    width = pack.bytes_per_element(model, dtype=dtype)
    original: dict[CostKind, float] = {
        "macs": float(graph.macs),
        "params": float(graph.num_params),
        "size_bytes": float(graph.original_bytes),
    }
    limits = {} if target is None else target.limits(original)
    asked = {} if target is None else target.asked(original)
    if "size_bytes" in limits:
        limits["size_bytes"] *= SIZE_AIM
    tables = {
        "macs": cost_table(graph, "macs"),
        "params": cost_table(graph, "params"),
        "size_bytes": cost_table(
            graph, "size_bytes", bytes_per_element=width, overhead_bytes=float(pack.estimate_overhead(model))
        ),
    }
    return tuple(
        Limit(
            kind=kind,
            table=tables[kind],
            maximum=limits.get(kind, math.inf),
            original=original[kind],
            asked=asked.get(kind, ""),
        )
        for kind in original
    )


def check_storage_target(target: Target, recipe: str) -> None:
    """Refuse what a search over storage cannot keep to.

    Raises:
        TargetError: no bound on bytes, or one on the drop.
    """
    if target.max_size_ratio is None and target.max_size_bytes is None:
        raise TargetError(
            f"Recipe {recipe!r} decides how weights are stored, so it needs a bound on bytes: give max_size_ratio "
            "(for example 0.1) or max_size_bytes."
        )
    if target.max_top1_drop is not None:
        raise TargetError(
            f"Recipe {recipe!r} keeps to bytes, so max_top1_drop={target.max_top1_drop} cannot be promised. Leave it "
            "out, and choose the bound on bytes by the report."
        )


def storage_dtype(config: ChannelConfig, target: Target | None) -> str:
    """``fp32``, ``fp16`` or ``auto``; where bytes are bounded, auto means fp16."""
    if config.storage == "auto" and target is not None and _bounds_bytes(target):
        return "fp16"
    return config.storage


def _bounds_bytes(target: Target) -> bool:
    return target.max_size_ratio is not None or target.max_size_bytes is not None
