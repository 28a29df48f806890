"""Where the nodes of a data flow are drawn: one row each in order of execution, in lanes side by side.

A lane belongs to a value from the row where it is made to the row where it is read last, so that no line runs through a
node. A node goes on in the lane of a value that it is the last to read: chains are straight, a residual stream is one
line with its blocks beside it.
"""

from __future__ import annotations

from collections.abc import Sequence


def lanes_of(reads: Sequence[Sequence[int]]) -> list[int]:
    """The lane of every node, from 0.

    Args:
        reads: per node the nodes whose values it reads, all before it.
    """
    last_read = list(range(len(reads)))
    for node, sources in enumerate(reads):
        for source in sources:
            last_read[source] = node
    lanes: list[int] = []
    for node, sources in enumerate(reads):
        taken_over = [lanes[source] for source in sources if last_read[source] == node]
        if taken_over:
            lanes.append(min(taken_over))
            continue
        alive = {lanes[earlier] for earlier in range(node) if last_read[earlier] > node}
        lanes.append(next(lane for lane in range(node + 1) if lane not in alive))
    return lanes
