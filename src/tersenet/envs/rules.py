"""A user's rules on a traced network: groups that are left alone are locked, the others get one rule each."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

from tersenet.core.rules import ChannelRule, ChannelRules, matches
from tersenet.envs.space import is_decided
from tersenet.errors import PolicyError, UnknownNameError
from tersenet.graph.lock import lock
from tersenet.graph.model_graph import ChannelGroup, ModelGraph

Value = TypeVar("Value", float, str)


@dataclass(frozen=True, kw_only=True)
class Ruled:
    """A network and what is allowed."""

    graph: ModelGraph
    """With the groups locked that are left alone."""

    rules: Mapping[str, ChannelRule]
    """By group id; groups without an entry follow the recipe's configuration."""

    notes: tuple[str, ...] = ()
    """Entries that change nothing, and why."""


def apply_rules(graph: ModelGraph, rules: ChannelRules | None, *, prune_residual: bool) -> Ruled:
    """Find the rule of every channel group.

    Args:
        graph: what tracing found.
        rules: None allows everything.
        prune_residual: whether residual sums may be cut; entries that are about nothing else are noted.

    Raises:
        UnknownNameError: an entry of ``by_name`` matches no layer; the message gives the nearest names.
        PolicyError: layers that share channels have rules that cannot both hold.
    """
    if rules is None:
        return Ruled(graph=graph, rules={})
    _check_names(graph, rules)
    ops = {layer.name: layer.op for layer in graph.layers}
    left_alone: dict[str, str] = {}
    found: dict[str, ChannelRule] = {}
    for group in graph.channel_groups:
        own = {layer: rules.rule(layer, ops.get(layer, "")) for layer in group.producers or ("",)}
        alone = next((f"left alone by the rule {said_by}" for rule, said_by in own.values() if rule is None), "")
        if alone:
            left_alone[group.group_id] = alone
        else:
            found[group.group_id] = _joined(group, {layer: rule for layer, (rule, _) in own.items() if rule})
    ruled = lock(graph, left_alone)
    return Ruled(graph=ruled, rules=found, notes=tuple(_idle(ruled, rules, prune_residual)))


def _check_names(graph: ModelGraph, rules: ChannelRules) -> None:
    names = [layer.name for layer in graph.layers]
    for pattern in rules.by_name:
        if not any(matches(pattern, name) for name in names):
            parts = [name.split(".") for name in names]
            modules = {".".join(part[:end]) for part in parts for end in range(1, len(part) + 1)}
            nearest = difflib.get_close_matches(pattern, sorted(modules), n=3, cutoff=0.4)
            hint = f" The nearest names are {', '.join(map(repr, nearest))}." if nearest else ""
            raise UnknownNameError(
                f"rules: by_name {pattern!r} matches no layer.{hint} `tersenet inspect` shows all {len(names)} of them."
            )


def _joined(group: ChannelGroup, rules: Mapping[str, ChannelRule]) -> ChannelRule:
    """One rule for layers that share channels: the stricter bound, blocks that suit all."""
    bounds = [rule.lower_bound for rule in rules.values() if rule.lower_bound is not None]
    blocks = [rule.round_to for rule in rules.values() if rule.round_to is not None]
    return ChannelRule(
        lower_bound=max(bounds, default=None),
        round_to=math.lcm(*blocks) if blocks else None,
        pruning_ratio=_same(group, {name: rule.pruning_ratio for name, rule in rules.items()}, "pruning_ratio"),
        criterion=_same(group, {name: rule.criterion for name, rule in rules.items()}, "criterion"),
    )


def _same(group: ChannelGroup, values: Mapping[str, Value | None], field: str) -> Value | None:
    given = {name: value for name, value in values.items() if value is not None}
    first = next(iter(given), "")
    for name, value in given.items():
        if value != given[first]:
            raise PolicyError(
                f"rules: layers {first!r} and {name!r} produce the same channels (group {group.group_id!r}), but "
                f"{field} is {given[first]!r} for one and {value!r} for the other. Give them the same."
            )
    return given.get(first)


def _idle(graph: ModelGraph, rules: ChannelRules, prune_residual: bool) -> list[str]:
    """Entries by name that ask for something and are about no group that is decided."""
    notes = []
    for pattern, rule in rules.by_name.items():
        groups = [group for group in graph.channel_groups if any(matches(pattern, name) for name in group.producers)]
        if rule is None or any(is_decided(group, prune_residual) for group in groups):
            continue
        reason = next((group.reason for group in groups if group.reason), "")
        if not reason:
            reason = "residual sums tie its channels; see prune_residual" if groups else "it produces no channels"
        notes.append(f"The rule by_name {pattern!r} changes nothing: {reason}.")
    return notes
