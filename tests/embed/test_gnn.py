"""Learned states: what they depend on, and message passing written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gnn_toys import chain, renumbered
from torch import nn

from tersenet.embed import operator_graph
from tersenet.graph import trace
from tersenet.testing.toy_joins import Residual

pytest.importorskip("torch_geometric", exc_type=ImportError)

from tersenet.embed.gnn import GraphEncoder, GraphTensors, LearnedStates, MessageRound, StagedStates, spread
from tersenet.embed.operator_graph import KINDS, NUMBERS


def states_of(module: LearnedStates) -> torch.Tensor:
    with torch.no_grad():
        return module.states()


def test_a_round_is_that_of_numpy_written_out() -> None:
    torch.manual_seed(0)
    one = MessageRound(3)
    nodes = torch.randn(4, 3)
    edges = [(0, 1), (1, 2), (0, 2), (2, 3)]
    with torch.no_grad():
        found = one(nodes, torch.tensor(edges).T).numpy()
    weights = {name: tensor.detach().double().numpy() for name, tensor in one.named_parameters()}
    x = nodes.double().numpy()
    heard = np.zeros((4, 3))
    for node in range(4):
        before = [x[source] for source, target in edges if target == node] or [np.zeros(3)]
        after = [x[target] for source, target in edges if source == node] or [np.zeros(3)]
        heard[node] = (
            np.mean(before, axis=0) @ weights["forth.lin_l.weight"].T
            + weights["forth.lin_l.bias"]
            + x[node] @ weights["forth.lin_r.weight"].T
            + np.mean(after, axis=0) @ weights["back.lin_l.weight"].T
            + weights["back.lin_l.bias"]
        )
    normed = (heard - heard.mean(axis=1, keepdims=True)) / np.sqrt(heard.var(axis=1, keepdims=True) + 1e-5)
    normed = normed * weights["norm.weight"] + weights["norm.bias"]
    np.testing.assert_allclose(found, x + np.maximum(normed, 0.0), atol=1e-5)


@pytest.mark.slow
def test_the_order_in_which_operators_are_listed_changes_nothing() -> None:
    graph = chain(5)
    rng = np.random.default_rng(1)
    other = renumbered(graph, rng.permutation(len(graph.kinds)), rng.permutation(graph.num_motifs))
    one, two = (LearnedStates(g, hidden=8, seed=0) for g in (graph, other))
    torch.testing.assert_close(states_of(one), states_of(two), atol=1e-5, rtol=0.0)


def test_every_operator_and_every_edge_counts() -> None:
    graph = chain(4)
    changed = chain(4)
    changed.numbers[5, 0] += 0.5  # the norm of the second layer
    cut = renumbered(graph, np.arange(13), np.arange(5))
    object.__setattr__(cut, "edges", cut.edges[:, cut.edges.max(axis=0) < 10])  # the last layer reads nothing
    plain, other, less = (states_of(LearnedStates(g, hidden=8, seed=0)) for g in (graph, changed, cut))
    assert (plain - other).abs().amax(dim=1).min() > 1e-6  # every decision sees it
    assert (plain - less).abs().amax(dim=1).min() > 1e-6


@pytest.mark.slow
def test_the_same_network_has_the_same_states_and_another_one_others() -> None:
    class Renamed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inside = Residual()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = self.inside(x)
            return scores

    found = []
    for model, size in ((Residual(), 16), (Residual(), 16), (Renamed(), 16), (Residual(), 24)):
        graph = trace(model, torch.randn(2, 3, size, size))
        decided = [group.producers for group in graph.channel_groups if group.prunable]
        found.append(states_of(LearnedStates(operator_graph(graph, decided), hidden=8, seed=0)))
    assert torch.equal(found[0], found[1])  # neither weights nor chance
    assert torch.equal(found[0], found[2])  # nor names
    assert not torch.allclose(found[0], found[3], atol=1e-4)


def test_states_are_spread_over_the_decisions_and_lie_in_the_unit_interval() -> None:
    states = torch.randn(2, 5, 3, dtype=torch.float64) * 0.01 + 7.0
    squashed = spread(states)
    back = torch.logit(squashed)
    torch.testing.assert_close(back.mean(dim=1), torch.zeros(2, 3, dtype=torch.float64), atol=1e-9, rtol=0.0)
    variance = states.var(dim=1, correction=0)
    expected = (variance / (variance + 0.001**2)).sqrt()  # kept off 0 by 0.001
    torch.testing.assert_close(back.std(dim=1, correction=0), expected, atol=1e-9, rtol=0)
    untrained = states_of(LearnedStates(chain(6), hidden=8, seed=0))
    assert untrained[:, :8].std(dim=0).mean() > 0.15


def test_an_observation_names_its_decision_and_passes_on_the_rest() -> None:
    module = LearnedStates(chain(4), hidden=8, seed=0)
    observations = torch.tensor([[2 / 3, 0.25, 0.75], [0.0, 0.5, 1.0], [1.0, 0.0, 0.0]])
    with torch.no_grad():
        seen = module(observations)
    states = states_of(module)
    torch.testing.assert_close(seen[:, :-2], states[[2, 0, 3]])
    assert torch.equal(seen[:, -2:], observations[:, 1:])


def test_beside_what_is_learned_stands_what_the_decided_layers_are() -> None:
    graph = chain(4)
    graph.numbers[:, NUMBERS.index("stride")] = 0.3
    of_layers = [np.flatnonzero(graph.motifs == motif) for motif in graph.decisions[1]]  # one motif per decision
    numbers = np.stack([graph.numbers[rows].mean(axis=0) for rows in of_layers])
    span = np.ptp(numbers, axis=0)
    span[NUMBERS.index("stride")] = np.inf  # the same everywhere: 0
    expected = (numbers - numbers.min(axis=0)) / span
    described = GraphTensors(graph).described[:, len(KINDS) :]
    torch.testing.assert_close(described, torch.from_numpy(expected).float(), atol=1e-4, rtol=0)

    learned = states_of(LearnedStates(graph, hidden=8, seed=0))
    torch.testing.assert_close(learned[:, 8 + len(KINDS) :], described)
    staged = StagedStates(graph, hidden=8, seed=0)
    with torch.no_grad():
        seen = staged(torch.rand(3, 4 + 1))  # what is left of each decision, and one number more
    torch.testing.assert_close(seen[:, :, 8 + len(KINDS) : 8 + len(KINDS) + len(NUMBERS)], described.expand(3, -1, -1))


def test_samples_that_keep_different_shares_do_not_touch_each_other() -> None:
    torch.manual_seed(0)
    encoder, graph = GraphEncoder(8), GraphTensors(chain(3))
    kept = torch.tensor([[1.0, 1.0, 1.0], [0.2, 1.0, 0.6]])
    with torch.no_grad():
        together, networks = encoder(graph, kept)
        for row in range(2):
            alone, network = encoder(graph, kept[row : row + 1])
            torch.testing.assert_close(together[row], alone[0])
            torch.testing.assert_close(networks[row], network[0])
        torch.testing.assert_close(encoder(graph)[0][0], together[0])
    assert not torch.allclose(together[0], together[1])


def test_the_seed_alone_fixes_the_weights() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one = states_of(LearnedStates(chain(4), hidden=8, seed=0))
    torch.manual_seed(4)
    assert torch.equal(one, states_of(LearnedStates(chain(4), hidden=8, seed=0)))
    assert not torch.equal(one, states_of(LearnedStates(chain(4), hidden=8, seed=1)))
    torch.manual_seed(3)
    LearnedStates(chain(4), hidden=8, seed=0)
    assert torch.equal(before, torch.get_rng_state())


def test_networks_are_no_part_of_what_is_saved() -> None:
    names = LearnedStates(chain(4), hidden=8, seed=0).state_dict()
    LearnedStates(chain(7, seed=2), hidden=8, seed=1).load_state_dict(names)
    assert not any(name.startswith("graph") for name in names)
