"""Cost tables against the costs of really cut and newly traced networks."""

from __future__ import annotations

import statistics
import time

import numpy as np
import pytest
import torch

from tersenet.errors import UnknownNameError
from tersenet.graph import ModelGraph, cost_table, lock, trace
from tersenet.testing.invariant import random_policy
from tersenet.testing.networks import NETWORKS, build, example_inputs
from tersenet.testing.toy_joins import OptionAResNet
from tersenet.transforms import make_plan, materialize


def full(graph: ModelGraph) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    return np.array([group.num_channels for group in graph.channel_groups], dtype=np.int64)


@pytest.mark.parametrize("name", NETWORKS)
def test_costs_equal_those_of_the_cut_and_newly_traced_network(name: str) -> None:
    model, inputs = build(name), example_inputs(name)
    graph = trace(model, inputs)
    plan = make_plan(model, graph, random_policy(graph, seed=1), seed=0)
    num_kept = full(graph)
    for number, group in enumerate(graph.channel_groups):
        num_kept[number] = len(plan.kept_channels.get(group.group_id, range(group.num_channels)))
    cut = trace(materialize(model, plan), inputs)
    assert cost_table(graph, "macs").cost(num_kept) == cut.macs
    assert cost_table(graph, "params").cost(num_kept) == cut.num_params
    assert cost_table(graph, "size_bytes").cost(num_kept) == cut.original_bytes


def test_the_uncut_network_costs_what_the_graph_says() -> None:
    graph = trace(build("option_a"), example_inputs("option_a"))
    assert cost_table(graph, "macs").cost(full(graph)) == graph.macs
    assert cost_table(graph, "params").cost(full(graph)) == graph.num_params
    assert cost_table(graph, "size_bytes", overhead_bytes=100.0).cost(full(graph)) == graph.original_bytes + 100


def test_bytes_are_weighted_by_tensor() -> None:
    graph = trace(build("plain"), example_inputs("plain"))
    sizes = {t.name: 2.0 if t.name == "conv2.weight" else 4.0 for t in graph.tensors}
    # conv2.weight has 12 x 8 x 3 x 3 elements; half of 8 input channels leaves 432
    num_kept = full(graph)
    whole = cost_table(graph, "size_bytes", bytes_per_element=sizes)
    assert whole.cost(num_kept) == graph.original_bytes - 2 * 864
    num_kept[0] = 4
    uniform = cost_table(graph, "size_bytes")
    assert whole.cost(num_kept) == uniform.cost(num_kept) - 2 * 432


def test_a_missing_entry_and_a_wrong_length_are_errors() -> None:
    graph = trace(build("plain"), example_inputs("plain"))
    with pytest.raises(ValueError, match=r"no entry for 'conv1\.weight'"):
        cost_table(graph, "size_bytes", bytes_per_element={"head.bias": 4.0})
    with pytest.raises(ValueError):
        cost_table(graph, "macs").cost(np.ones(3, dtype=np.int64))


@pytest.mark.slow
def test_a_call_takes_microseconds_on_resnet56() -> None:
    graph = trace(OptionAResNet(blocks=9), torch.zeros(1, 3, 32, 32))
    table, num_kept = cost_table(graph, "size_bytes"), full(graph)
    times = []
    for _ in range(50):
        start = time.perf_counter()
        for _ in range(20):
            table.cost(num_kept)
        times.append((time.perf_counter() - start) / 20)
    assert statistics.median(times) < 200e-6


def test_locking_keeps_the_first_reason_and_names_the_nearest_id() -> None:
    graph = trace(build("plain"), example_inputs("plain"))
    locked = lock(graph, {"conv1": "by hand", "head": "by hand"})
    assert (locked.group("conv1").prunable, locked.group("conv1").reason) == (False, "by hand")
    assert locked.group("head").reason == "these are the model's outputs"
    assert graph.group("conv1").prunable
    with pytest.raises(UnknownNameError, match="Did you mean 'conv1'"):
        lock(graph, {"conv_1": "by hand"})
