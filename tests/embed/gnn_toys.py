"""Operator graphs made without a network, for tests of what reads them."""

from __future__ import annotations

import numpy as np

from tersenet.core.protocols import IntArray
from tersenet.embed import OperatorGraph
from tersenet.embed.operator_graph import KINDS, NUMBERS


def chain(num_layers: int, *, seed: int = 0) -> OperatorGraph:
    """An input, then layers of convolution, norm and activation with random numbers; each layer is decided."""
    rng = np.random.default_rng(seed)
    size = 1 + 3 * num_layers
    kinds = [KINDS.index("input")] + [KINDS.index(kind) for kind in ("conv", "norm", "activation")] * num_layers
    numbers = rng.random((size, len(NUMBERS)))
    numbers[:, NUMBERS.index("position")] = np.linspace(0.0, 1.0, size)
    return OperatorGraph(
        kinds=np.array(kinds, dtype=np.int64),
        numbers=numbers,
        edges=np.array([np.arange(size - 1), np.arange(1, size)]),
        motifs=np.concatenate([[0], np.repeat(np.arange(1, num_layers + 1), 3)]),
        decisions=np.array([np.arange(num_layers), np.arange(1, num_layers + 1)]),
        num_decisions=num_layers,
    )


def renumbered(graph: OperatorGraph, operators: IntArray, motifs: IntArray) -> OperatorGraph:
    """The same graph with operator i at place ``operators[i]`` and motif m called ``motifs[m]``."""
    back = np.argsort(operators)
    return OperatorGraph(
        kinds=graph.kinds[back],
        numbers=graph.numbers[back],
        edges=operators[graph.edges][:, ::-1],
        motifs=motifs[graph.motifs[back]],
        decisions=np.stack([graph.decisions[0], motifs[graph.decisions[1]]]),
        num_decisions=graph.num_decisions,
    )
