"""Learned states of a network's decisions: message passing over its operators and layers, then a recurrent decoder.

Messages first run among the operators of each motif (``operator_graph.py``), along the data flow and against it; the
mean of a motif's operators is its node in the upper level, where messages run between motifs. A decision's embedding is
the mean of the motifs it is about; an LSTM reads these in the order of the walk, each beside the mean over the whole
network, and gives one state per decision. States are stretched over the decisions of a network, as hand-made features
are, and squashed into [0, 1]: an untrained encoder already tells layers apart, and its gradients are not drowned by
what all layers share. Beside them stands what the encoder read of the decided layers, stretched as well: from the first
update on, layers of the same kind then look alike to the agent, whatever messages have made of them.

Everything is a function of the network: no random node features, no dropout, and the same states whatever the order in
which operators are listed.

Axes: B samples, N operators, M motifs, D decisions, H hidden units, F features of an operator.

Source: Yu et al. 2021 (AGMC), arXiv:2011.12641, sections 3.1 and 3.2 (graph encoder, LSTM decoder); two levels from Yu
et al. 2022 (GNN-RL), arXiv:2102.03214, section 4.2; layers of Hamilton et al. 2017 (GraphSAGE), arXiv:1706.02216; what
goes past all layers after Xu et al. 2018 (jumping knowledge), arXiv:1806.03536.
Differs: gradients reach every part, see ``agents/ddpg.py``. The decoder does not read earlier actions: these stand
beside its state as the environment's own numbers, so that one pass serves all remembered steps of an update.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor, nn

from tersenet.embed.features import stretched
from tersenet.embed.operator_graph import KINDS, NUMBERS, OperatorGraph

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # what importing it warns of is its authors' business
    from torch_geometric.nn.conv import SAGEConv

_LEAST_SPREAD = 1e-3
"""Added to the spread over decisions that states are divided by."""


class MessageRound(nn.Module):
    """Each node adds what it reads from the nodes before and after it."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.forth = SAGEConv(hidden, hidden)
        self.back = SAGEConv(hidden, hidden, root_weight=False)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, nodes: Tensor, edges_2E: Tensor) -> Tensor:
        """Nodes (..., N, H) to the same shape."""
        heard = self.forth(nodes, edges_2E) + self.back(nodes, edges_2E.flip(0))
        updated: Tensor = nodes + torch.relu(self.norm(heard))
        return updated


class GraphEncoder(nn.Module):
    """Message passing on both levels of one network after the other; its parameters fit every network."""

    def __init__(self, hidden: int, *, inner_rounds: int = 2, outer_rounds: int = 3) -> None:
        super().__init__()
        self.hidden = hidden
        self.features = nn.Linear(len(KINDS) + len(NUMBERS), hidden)
        self.inner = nn.ModuleList(MessageRound(hidden) for _ in range(inner_rounds))
        self.widths = nn.Linear(hidden + 1, hidden)
        self.outer = nn.ModuleList(MessageRound(hidden) for _ in range(outer_rounds))

    def operators(self, graph: GraphTensors, features_NF: Tensor | None = None) -> Tensor:
        """Embeddings of operators inside their motifs, shape (N, H); ``features_NF``: in place of the graph's own."""
        nodes: Tensor = self.features(graph.features if features_NF is None else features_NF)
        for messages in self.inner:
            nodes = messages(nodes, graph.inner_edges)
        return nodes

    def motifs(self, graph: GraphTensors, operators_NH: Tensor, kept_BD: Tensor | None = None) -> Tensor:
        """Embeddings of motifs in the whole network.

        Args:
            operators_NH: what ``operators`` gave.
            kept_BD: share of its channels that each decision keeps at the time, shape (B, D); None: all, B = 1.

        Returns:
            Shape (B, M, H).
        """
        pooled_MH = _mean_over(operators_NH, graph.motif_of, graph.num_motifs)
        kept_BM = operators_NH.new_ones(1 if kept_BD is None else len(kept_BD), graph.num_motifs)
        if kept_BD is not None:
            removed = (1.0 - kept_BD[:, graph.decision_of]).T
            kept_BM = kept_BM - _mean_over(removed, graph.decided_motif, graph.num_motifs).T
        pooled_BMH = pooled_MH.expand(len(kept_BM), -1, -1)
        nodes: Tensor = self.widths(torch.cat([pooled_BMH, kept_BM[..., None]], dim=2))
        for messages in self.outer:
            nodes = messages(nodes, graph.motif_edges)
        return nodes

    def forward(self, graph: GraphTensors, kept_BD: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Embeddings of decisions, shape (B, D, H), and of the network, shape (B, H)."""
        return self.decided(graph, self.motifs(graph, self.operators(graph), kept_BD))

    def decided(self, graph: GraphTensors, motifs_BMH: Tensor) -> tuple[Tensor, Tensor]:
        """The same from embeddings of motifs."""
        chosen = motifs_BMH[:, graph.decided_motif].transpose(0, 1)
        decisions_BDH = _mean_over(chosen, graph.decision_of, graph.num_decisions).transpose(0, 1)
        return decisions_BDH, motifs_BMH.mean(dim=1)


class StateDecoder(nn.Module):
    """Embeddings of decisions in the order of the walk, and of the network, to one state per decision."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(2 * hidden, hidden, batch_first=True)

    def forward(self, decisions_BDH: Tensor, network_BH: Tensor) -> Tensor:
        """States, shape (B, D, H), in (-1, 1)."""
        beside = network_BH[:, None].expand_as(decisions_BDH)
        states: Tensor = self.lstm(torch.cat([decisions_BDH, beside], dim=2))[0]
        return states


class GraphTensors(nn.Module):
    """One network's arrays as tensors: buffers that are no part of what is learned or saved."""

    features: Tensor
    inner_edges: Tensor
    motif_edges: Tensor
    motif_of: Tensor
    decision_of: Tensor
    decided_motif: Tensor
    described: Tensor
    """Features of the decided layers, each column stretched to [0, 1] over the decisions, shape (D, F)."""

    def __init__(self, graph: OperatorGraph) -> None:
        super().__init__()
        self.num_motifs = graph.num_motifs
        self.num_decisions = graph.num_decisions
        one_hot = np.eye(len(KINDS))[graph.kinds]
        arrays = {
            "features": np.concatenate([one_hot, graph.numbers], axis=1).astype(np.float32),
            "inner_edges": graph.inner_edges,
            "motif_edges": graph.motif_edges,
            "motif_of": graph.motifs,
            "decision_of": graph.decisions[0],
            "decided_motif": graph.decisions[1],
        }
        for name, array in arrays.items():
            self.register_buffer(name, torch.from_numpy(np.ascontiguousarray(array)), persistent=False)
        # rounded: what is the same everywhere must not be stretched from the last digits of its means
        described = stretched(self.of_decisions(self.features).double().numpy().round(6))
        self.register_buffer("described", torch.from_numpy(described).float(), persistent=False)

    def of_decisions(self, rows_NF: Tensor) -> Tensor:
        """Mean of the operators' rows over the motifs that each decision is about, shape (D, F)."""
        motifs_MF = _mean_over(rows_NF, self.motif_of, self.num_motifs)
        return _mean_over(motifs_MF[self.decided_motif], self.decision_of, self.num_decisions)


class LearnedStates(nn.Module):
    """Observations of a walk to states: the decision's learned state in place of its number.

    An observation holds, first, the decision's number over the number of the last one, then whatever changes during a
    walk, which is passed on. All decisions are encoded in one pass, however many observations there are.
    """

    def __init__(self, graph: OperatorGraph, *, hidden: int, seed: int) -> None:
        """Set up encoder and decoder.

        Args:
            graph: the network.
            hidden: size of embeddings and of states.
            seed: for the initial weights.
        """
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = GraphEncoder(hidden)
            self.decoder = StateDecoder(hidden)
        self.graph = GraphTensors(graph)

    def states(self) -> Tensor:
        """States of all decisions in [0, 1], shape (D, H + F)."""
        decided_1DH, network_1H = self.encoder(self.graph)
        learned_DH = spread(self.decoder(decided_1DH, network_1H)).squeeze(0)
        return torch.cat([learned_DH, self.graph.described], dim=1)

    def forward(self, observations_BS: Tensor) -> Tensor:
        """States with what was passed on, shape (B, H + F + S - 1), in [0, 1]."""
        last = self.graph.num_decisions - 1
        numbers = (observations_BS[:, 0] * last).round().long()
        return torch.cat([self.states()[numbers], observations_BS[:, 1:]], dim=1)


class StagedStates(nn.Module):
    """Observations of a walk in stages to one state per decision: the network is encoded as it is at that stage.

    An observation holds what is left of each decision's channels, then whatever is passed on to every decision.
    """

    def __init__(self, graph: OperatorGraph, *, hidden: int, seed: int) -> None:
        """As ``LearnedStates``; there is no decoder, since all decisions are taken at once."""
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.encoder = GraphEncoder(hidden)
        self.graph = GraphTensors(graph)

    def forward(self, observations_BS: Tensor) -> Tensor:
        """Embeddings of decision and network, features, what is left, and what is passed on, shape (B, D, any)."""
        decisions = self.graph.num_decisions
        kept_BD, rest = observations_BS[:, :decisions], observations_BS[:, decisions:]
        decided_BDH, network_BH = self.encoder(self.graph, kept_BD)
        beside = torch.cat([torch.sigmoid(network_BH), rest], dim=1)[:, None].expand(-1, decisions, -1)
        described = self.graph.described.expand(len(kept_BD), -1, -1)
        return torch.cat([spread(decided_BDH), described, kept_BD[..., None], beside], dim=2)


def spread(states_BDH: Tensor) -> Tensor:
    """States centred and scaled over the decisions of each sample, then squashed into (0, 1); same shape."""
    centred = states_BDH - states_BDH.mean(dim=1, keepdim=True)
    variance = centred.square().mean(dim=1, keepdim=True)
    return torch.sigmoid(centred / (variance + _LEAST_SPREAD**2).sqrt())


def _mean_over(rows: Tensor, groups: Tensor, num_groups: int) -> Tensor:
    """Mean of the rows of each group along axis 0; groups without rows are 0."""
    summed = rows.new_zeros(num_groups, *rows.shape[1:]).index_add(0, groups, rows)
    counts = torch.bincount(groups, minlength=num_groups).clamp_min(1)
    return summed / counts.view(-1, *[1] * (rows.ndim - 1))
