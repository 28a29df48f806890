"""Auto-encoder pre-training: from embeddings alone, what the operators are and which of them are joined.

Operators whose features are hidden must be told from their neighbours, so that the encoder learns to pass on what is
around; edges are told from random pairs by a bilinear form; the decoder must tell from its state what the decided
layers are. The heads that do so are thrown away.

Source: Kipf and Welling 2016 (graph auto-encoders), arXiv:1611.07308; hidden features after Hou et al. 2022
(GraphMAE), arXiv:2205.10803; pre-training of AGMC's and GNN-RL's encoders is ours.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tersenet.embed.gnn import GraphEncoder, GraphTensors, StateDecoder
from tersenet.embed.operator_graph import KINDS, NUMBERS, OperatorGraph

HIDDEN_SHARE = 0.3
"""Share of the operators whose features the encoder does not see."""

LEARNING_RATE = 3e-3

NUMBERS_WEIGHT = 10.0
"""Weight of squared errors of numbers in [0, 1] beside cross-entropies."""


class AutoEncoder(nn.Module):
    """An encoder and a decoder with the heads that reconstruct a network from what they make of it."""

    def __init__(self, encoder: GraphEncoder, decoder: StateDecoder | None, *, seed: int) -> None:
        super().__init__()
        size = 2 * encoder.hidden
        self.encoder, self.decoder = encoder, decoder
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.kinds, self.numbers = nn.Linear(size, len(KINDS)), nn.Linear(size, len(NUMBERS))
            self.sources, self.targets = nn.Linear(size, encoder.hidden), nn.Linear(size, encoder.hidden)
            self.decided = nn.Linear(encoder.hidden, len(NUMBERS))

    def losses(self, graph: GraphTensors, edges_2E: Tensor, rng: np.random.Generator) -> dict[str, Tensor]:
        """Reconstruction errors of one network: ``kinds``, ``numbers``, ``edges`` and, with a decoder, ``decided``."""
        hidden_N1 = torch.from_numpy(rng.random((len(graph.features), 1)) < HIDDEN_SHARE)
        operators_NH = self.encoder.operators(graph, graph.features.masked_fill(hidden_N1, 0.0))
        motifs_1MH = self.encoder.motifs(graph, operators_NH)
        known = torch.cat([operators_NH, motifs_1MH[0, graph.motif_of]], dim=1)
        kinds, numbers = graph.features[:, : len(KINDS)], graph.features[:, len(KINDS) :]
        found = {
            "kinds": F.cross_entropy(self.kinds(known), kinds.argmax(dim=1)),
            "numbers": NUMBERS_WEIGHT * F.mse_loss(self.numbers(known), numbers),
            "edges": self._edge_loss(known, edges_2E, rng),
        }
        if self.decoder is not None:
            decided_1DH, network_1H = self.encoder.decided(graph, motifs_1MH)
            told = self.decided(self.decoder(decided_1DH, network_1H)[0])
            found["decided"] = NUMBERS_WEIGHT * F.mse_loss(told, graph.of_decisions(numbers))
        return found

    def _edge_loss(self, known: Tensor, edges_2E: Tensor, rng: np.random.Generator) -> Tensor:
        """Edges against as many random pairs that are none."""
        pairs_2E = torch.from_numpy(rng.integers(len(known), size=tuple(edges_2E.shape)))
        codes = [both[0] * len(known) + both[1] for both in (edges_2E, pairs_2E)]
        pairs_2E = pairs_2E[:, ~torch.isin(codes[1], codes[0])]
        both = torch.cat([edges_2E, pairs_2E], dim=1)
        scores = (self.sources(known)[both[0]] * self.targets(known)[both[1]]).sum(dim=1)
        is_edge = torch.arange(both.shape[1]) < edges_2E.shape[1]
        return F.binary_cross_entropy_with_logits(scores / math.sqrt(self.encoder.hidden), is_edge.float())


def pretrain(
    encoder: GraphEncoder,
    decoder: StateDecoder | None,
    graphs: Sequence[Callable[[], OperatorGraph]],
    *,
    steps: int,
    seed: int,
) -> list[float]:
    """Train encoder and decoder in place on one random network of ``graphs`` per step.

    Args:
        graphs: what makes each network's arrays; only those that are drawn are made.
        steps: updates.
        seed: for the heads, and for what is drawn and hidden.

    Returns:
        The loss at each step, before its update.
    """
    model = AutoEncoder(encoder, decoder, seed=seed)
    rng = np.random.default_rng(seed)
    known: dict[int, tuple[GraphTensors, Tensor]] = {}
    optimizer = torch.optim.Adam(model.parameters(), lr=LEARNING_RATE, fused=True)
    course = []
    for _ in range(steps):
        number = int(rng.integers(len(graphs)))
        if number not in known:
            made = graphs[number]()
            known[number] = GraphTensors(made), torch.from_numpy(made.edges)
        loss = torch.stack(list(model.losses(*known[number], rng).values())).sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        course.append(float(loss.detach()))
    return course
