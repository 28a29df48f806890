"""The contract of cutting: removing channels gives the same function as zeroing them."""

from __future__ import annotations

import copy

import numpy as np
import torch
from torch import Tensor, nn

from tersenet.core.policy import ChannelDecision, Policy
from tersenet.graph import ModelGraph, tensors_in, trace
from tersenet.transforms import make_plan, materialize, relative_difference, simulate

MAX_DIFFERENCE = 1e-9
"""Cut against zeroed, in float64, relative to the largest output."""

MIN_EFFECT = 1e-3
"""Zeroed against dense: below this the comparison would prove nothing."""


def random_policy(graph: ModelGraph, *, seed: int) -> Policy:
    """Keep a random non-empty proper subset of every prunable group."""
    rng = np.random.default_rng(seed)
    channels = {}
    for group in graph.channel_groups:
        if group.prunable:
            count = int(rng.integers(1, group.num_channels))
            keep = np.sort(rng.choice(group.num_channels, size=count, replace=False))
            channels[group.group_id] = ChannelDecision(keep=tuple(keep.tolist()))
    return Policy(channels=channels)


def assert_cut_equals_zeroed(
    model: nn.Module, inputs: Tensor | tuple[Tensor, ...], *, seed: int, graph: ModelGraph | None = None
) -> None:
    """Cut a random part of every prunable group and compare with the zeroed network in float64.

    Args:
        inputs: the forward's positional arguments.
        graph: of ``model``, traced here if it is not given.

    Raises:
        AssertionError: the two differ by more than 1e-9 of the largest output, or zeroing changes the dense
            network's outputs by less than 1e-3 of it, or nothing is prunable.
    """
    difference, effect = compare(model, inputs, seed=seed, graph=graph)
    assert difference <= MAX_DIFFERENCE, f"cut and zeroed network differ by {difference:.2g} of the largest output"
    assert effect >= MIN_EFFECT, f"zeroing changes the outputs by {effect:.2g} only: the comparison proves nothing"


def compare(
    model: nn.Module, inputs: Tensor | tuple[Tensor, ...], *, seed: int, graph: ModelGraph | None = None
) -> tuple[float, float]:
    """Cut a random part of every prunable group, in float64.

    Returns:
        Difference of the cut from the zeroed network and of the dense from the zeroed one, both relative to the
        zeroed network's largest output.

    Raises:
        AssertionError: nothing is prunable.
    """
    double = copy.deepcopy(model).double().eval()
    given = tuple(
        v.double() if v.is_floating_point() else v for v in ((inputs,) if isinstance(inputs, Tensor) else inputs)
    )
    graph = graph if graph is not None else trace(double, given)
    policy = random_policy(graph, seed=seed)
    assert policy.channels, "nothing is prunable: " + "; ".join(group.reason for group in graph.channel_groups)
    plan = make_plan(double, graph, policy, seed=seed)
    zeroed = outputs(simulate(double, graph, plan), given)
    difference = relative_difference(outputs(materialize(double, plan), given), zeroed)
    return difference, relative_difference(outputs(double, given), zeroed)


def outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    """All tensors that the model returns, in a list."""
    with torch.no_grad():
        made = model(*inputs)
    return tensors_in(made)
