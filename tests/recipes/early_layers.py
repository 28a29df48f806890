"""A search that costs nothing to ask, on the digits network at half its MACs."""

from __future__ import annotations

import torch

from tersenet import recipes
from tersenet.core.metrics import Evaluation, Metrics
from tersenet.core.policy import Policy
from tersenet.envs import Budget, ChannelSpace, Limit
from tersenet.graph import ModelGraph, cost_table, trace
from tersenet.models import build
from tersenet.recipes import ChannelConfig, Problem


class EarlyLayersMatter:
    """Every cut channel costs points, those of the first group most; costs nothing to ask."""

    signature: dict[str, str] = {}  # noqa: RUF012
    weights = (60.0, 20.0, 5.0, 1.0)

    def __init__(self, problem: Problem) -> None:
        assert isinstance(problem.space, ChannelSpace)
        self._ids = [problem.graph.channel_groups[int(index)].group_id for index in problem.space.indices]

    def evaluate(self, policy: Policy, *, hopeless_below: float | None = None) -> Evaluation:
        removed = [policy.channels[name].pruning_ratio or 0.0 if name in policy.channels else 0.0 for name in self._ids]
        lost = sum(weight * share**2 for weight, share in zip(self.weights, removed, strict=True))
        return Evaluation(metrics=Metrics(top1=100.0 - lost), seconds=0.0)

    confirm = evaluate


def digits_graph() -> ModelGraph:
    """Four decisions."""
    torch.manual_seed(0)
    return trace(build("digits_cnn"), torch.randn(2, 1, 8, 8))


def half_macs(graph: ModelGraph, config: ChannelConfig, *, seed: int = 0) -> Problem:
    """Channels are decided, half the MACs may stay."""
    limit = Limit(kind="macs", table=cost_table(graph, "macs"), maximum=0.5 * graph.macs, original=float(graph.macs))
    return Problem(graph=graph, space=recipes.make_space(graph, config), budget=Budget(limits=(limit,)), seed=seed)
