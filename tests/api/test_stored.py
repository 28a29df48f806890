"""Where the bytes of a packed file go."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tersenet.api.stored import INDEX, REST, storage_rows
from tersenet.core.policy import Clusters, Linear, Policy
from tersenet.graph import trace
from tersenet.pack import as_stored, save_packed
from tersenet.transforms import Coder, make_plan


class Tied(nn.Module):
    """Two convolutions with one weight, a norm, and a linear layer inside a module."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(4, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm2d(4)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(4, 10))

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.norm(self.second(self.first(x))).mean((2, 3)))
        return logits


@pytest.fixture
def net() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Tied().eval()


def test_plain_numbers_take_four_bytes_each_and_tied_weights_count_once(net: nn.Module, tmp_path: Path) -> None:
    graph = trace(net, (torch.zeros(2, 4, 5, 5),))
    plan = make_plan(net, graph, Policy(), seed=0)
    size = save_packed(tmp_path / "net.tersenet", net, plan=plan, policy=Policy(), provenance={})
    rows = storage_rows(tmp_path / "net.tersenet", net, graph, Policy())
    assert [row.name for row in rows] == ["first", "head.1", REST, INDEX]
    # 4 x 4 x 9 weights and 4 biases; 40 weights and 10 biases; 4 x 4 numbers of the norm
    assert [row.bytes_before for row in rows] == [4 * 148, 4 * 50, 4 * 16, 0]
    assert [row.bytes_after for row in rows[:2]] == [4 * 148, 4 * 50]
    assert rows[2].bytes_after >= 4 * 16  # and how many batches the norm has seen
    assert sum(row.bytes_before for row in rows) == graph.original_bytes
    assert sum(row.bytes_after for row in rows) == pytest.approx(size)
    assert {row.form for row in rows[:2]} == {"fp32"}


def test_coded_layers_take_less_than_their_indices_and_codebooks_in_full(net: nn.Module, tmp_path: Path) -> None:
    graph = trace(net, (torch.zeros(2, 4, 5, 5),))
    policy = Policy(storage={"first": Clusters(n_clusters=5), "head.1": Linear(weight_bits=2)})
    plan = make_plan(net, graph, policy, seed=0)
    coded = Coder().code(net, graph, policy.storage)
    stored = as_stored(net, policy=policy, dtype="fp32", norms="folded", coded=coded)
    size = save_packed(
        tmp_path / "net.tersenet", stored, plan=plan, policy=policy, provenance={}, norms="folded", coded=coded
    )
    first, head, rest, index = storage_rows(tmp_path / "net.tersenet", net, graph, policy)
    assert (first.kind, first.form, head.kind, head.form) == ("clusters", "5 clusters", "linear", "2 bits")
    # 144 indices of at most 3 bits, 5 values of 2 bytes, 4 biases of 4; 40 integers of 2 bits, 10 scales, 10 biases
    assert 16 < first.bytes_after < 144 * 3 / 8 + 5 * 2 + 16 + 8
    assert 40 < head.bytes_after < 40 * 2 / 8 + 10 * 4 + 40 + 8
    assert sum(row.bytes_after for row in (first, head, rest, index)) == pytest.approx(size)
