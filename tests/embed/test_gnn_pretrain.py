"""Random networks, and encoders that learn to tell what is in a network from their embeddings."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch
from gnn_toys import chain

from tersenet import models
from tersenet.embed import builtin_graph, random_graph
from tersenet.embed.operator_graph import KINDS, NUMBERS

pytest.importorskip("torch_geometric", exc_type=ImportError)

from tersenet.embed.gnn import GraphTensors, LearnedStates
from tersenet.embed.gnn_pretrain import AutoEncoder, pretrain


def test_random_networks_are_whole_and_fixed_by_their_seed() -> None:
    graphs = [random_graph(seed=seed) for seed in range(30)]
    for graph in graphs:
        size = len(graph.kinds)
        assert (graph.edges[0] < graph.edges[1]).all()  # forward only
        # everything but the input reads something, everything but the scores is read
        assert set(graph.edges[1].tolist()) == set(range(1, size))
        assert set(graph.edges[0].tolist()) == set(range(size - 1))
        assert graph.numbers.min() >= 0.0
        assert graph.numbers.max() <= 1.0
        # every decision is about the motif of one layer of its own
        assert graph.decisions[0].tolist() == list(range(graph.num_decisions))
        assert len(set(graph.decisions[1].tolist())) == graph.num_decisions
    seen = {KINDS[kind] for graph in graphs for kind in graph.kinds}
    assert seen == {"input", "conv", "linear", "norm", "activation", "pool", "add", "concat"}
    assert len({graph.edges.shape for graph in graphs}) > 20
    again = random_graph(seed=7)
    assert np.array_equal(again.numbers, graphs[7].numbers)
    assert np.array_equal(again.edges, graphs[7].edges)


@pytest.mark.slow
def test_every_built_in_network_is_there_with_all_that_may_be_cut() -> None:
    random_state = torch.get_rng_state()
    graphs = {name: builtin_graph(name) for name in models.names()}
    assert torch.equal(random_state, torch.get_rng_state())
    # by hand: 13 convolutions and two hidden linear layers; one group inside each of 27 blocks, and the residual stream
    assert graphs["vgg16"].num_decisions == 15
    assert graphs["resnet56"].num_decisions == 28
    convolutions = (graphs["resnet56"].kinds == KINDS.index("conv")).sum()
    assert convolutions == 55
    assert (graphs["mobilenet_v2"].numbers[:, NUMBERS.index("is_depthwise")] == 1.0).sum() == 17


@pytest.mark.slow
def test_pre_training_moves_every_parameter_and_learns_to_reconstruct() -> None:
    states = LearnedStates(chain(4), hidden=16, seed=0)
    before = {name: tensor.clone() for name, tensor in states.state_dict().items()}
    random_state = torch.get_rng_state()
    graphs = [partial(random_graph, seed=seed) for seed in range(6)]
    course = pretrain(states.encoder, states.decoder, graphs, steps=60, seed=0)
    assert torch.equal(random_state, torch.get_rng_state())
    assert np.mean(course[-10:]) < 0.6 * np.mean(course[:5])
    assert [name for name, tensor in states.state_dict().items() if torch.equal(tensor, before[name])] == []


def test_pre_training_is_fixed_by_its_seed() -> None:
    found = []
    for _ in range(2):
        states = LearnedStates(chain(4), hidden=8, seed=0)
        found.append(pretrain(states.encoder, states.decoder, [partial(random_graph, seed=1)], steps=3, seed=5))
    assert found[0] == found[1]


def test_each_part_of_the_reconstruction_reaches_its_own_parameters() -> None:
    graph = chain(4)
    states = LearnedStates(graph, hidden=8, seed=0)
    model = AutoEncoder(states.encoder, states.decoder, seed=0)
    losses = model.losses(GraphTensors(graph), torch.from_numpy(graph.edges), np.random.default_rng(0))
    assert set(losses) == {"kinds", "numbers", "edges", "decided"}
    for name, heads in {"kinds": "kinds", "numbers": "numbers", "edges": "sources", "decided": "decided"}.items():
        parameters = list(model.named_parameters())
        gradients = torch.autograd.grad(losses[name], [p for _, p in parameters], retain_graph=True, allow_unused=True)
        reached = {n for (n, _), gradient in zip(parameters, gradients, strict=True) if gradient is not None}
        assert f"{heads}.weight" in reached
        assert "encoder.features.weight" in reached
        assert ("decoder.lstm.weight_ih_l0" in reached) == (name == "decided")
