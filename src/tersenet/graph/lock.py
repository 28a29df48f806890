"""Take groups out of what may be cut, with the reason that the user will read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from tersenet.core.registry import unknown_name
from tersenet.graph.model_graph import ModelGraph


def lock(graph: ModelGraph, group_ids: Mapping[str, str]) -> ModelGraph:
    """The same graph with some groups locked.

    Args:
        group_ids: group id to the reason; groups that are locked already keep their first reason.

    Raises:
        UnknownNameError: there is no such group; the message gives the nearest id.
    """
    known = [group.group_id for group in graph.channel_groups]
    for group_id in group_ids:
        if group_id not in known:
            raise unknown_name("channel group", group_id, known)
    groups = tuple(
        replace(group, prunable=False, reason=group_ids[group.group_id])
        if group.prunable and group.group_id in group_ids
        else group
        for group in graph.channel_groups
    )
    return replace(graph, channel_groups=groups)
