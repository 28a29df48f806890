"""A search over storage without weights: bytes and distortions of layers by formula."""

from __future__ import annotations

from typing import Literal

import numpy as np

from tersenet.envs import Budget, Limit, LookupCost, StorageSpace
from tersenet.graph import ModelGraph
from tersenet.recipes import Problem


def toy_storage_problem(
    graph: ModelGraph, *, kind: Literal["clusters", "weight_bits"], max_ratio: float, seed: int
) -> Problem:
    """Every layer costs its weights times bits; each bit divides its error by four, earlier layers matter more.

    Args:
        graph: gives the layers.
        kind: what is decided.
        max_ratio: share of 32 bits per weight that may be left.
        seed: of the search.
    """
    space = StorageSpace(num_decisions=len(graph.layers), kind=kind, fewest=2, most=64 if kind == "clusters" else 8)
    counts = space.counts(0).astype(np.float64)
    bits = np.log2(counts) if kind == "clusters" else counts
    tables = [layer.num_params * bits / 8.0 for layer in graph.layers]
    original = 4.0 * sum(layer.num_params for layer in graph.layers)
    limit = Limit(
        kind="size_bytes",
        table=LookupCost(tables, space.counts(0), 0.0),
        maximum=max_ratio * original,
        original=original,
    )
    return Problem(
        graph=graph,
        space=space,
        budget=Budget(limits=(limit,)),
        seed=seed,
        layers=tuple(layer.name for layer in graph.layers),
        distortions=lambda: [4.0**-bits / (1.0 + position) for position in range(len(graph.layers))],
    )
