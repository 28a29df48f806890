"""Networks that were pruned inside kernels: cropped layers come back, zeros cost what their frequency says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from tersenet.core.mask import Mask
from tersenet.core.policy import KernelDecision, Linear, Policy
from tersenet.graph import trace
from tersenet.pack import coded_bytes, load, read_info, save_packed
from tersenet.transforms import Coder, make_plan, materialize, write_values


def a_network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 1)
    ).eval()


IMAGES = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def test_a_cropped_and_masked_network_comes_back_without_tracing(tmp_path: Path) -> None:
    model = a_network()
    middle = Mask.of(np.array([[[[False] * 3, [True] * 3, [False] * 3]]]))
    policy = Policy(
        kernels={
            "0": KernelDecision(unit="position", mask=middle),
            "2": KernelDecision(unit="kernel", keep_ratio=0.5),
        },
        storage={"2": Linear(weight_bits=4)},
    )
    graph = trace(model, IMAGES)
    plan = make_plan(model, graph, policy, seed=0)
    small = materialize(model, plan)
    coded = Coder().code(small, graph, policy.storage)
    write_values(small, coded)
    path = tmp_path / "net.tersenet"
    save_packed(path, small, plan=plan, policy=policy, provenance={}, coded=coded)
    loaded = load(path, a_network())
    first = loaded.get_submodule("0")
    assert isinstance(first, nn.Conv2d)
    assert (first.kernel_size, first.padding) == ((1, 3), (0, 1))
    assert int((loaded.get_parameter("2.weight").flatten(2).abs().sum(dim=2) > 0).sum()) == 16 * 16 // 2
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES), small(IMAGES))
    stored = read_info(path).policy.kernels
    assert stored["2"] == policy.kernels["2"]
    assert stored["0"].keep_ratio == 1 / 3  # the mask itself is in the weights


def test_zeros_cost_what_an_ideal_code_of_their_frequency_costs() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(400, 300), nn.Linear(300, 2))
    graph = trace(model, torch.randn(1, 400))
    for share in (1.0, 0.3, 0.05):
        decision = KernelDecision(unit="element", keep_ratio=share, criterion="random")
        plan = make_plan(model, graph, Policy(kernels={"0": decision}), seed=0)
        small = materialize(model, plan)
        coded = Coder().code(small, graph, {"0": Linear(weight_bits=3)})["0.weight"]
        _, counts = np.unique(coded.integers, return_counts=True)  # type: ignore[union-attr]
        entropy = float((counts * np.log2(counts.sum() / counts)).sum()) / 8
        assert coded_bytes(coded) - 2 * len(small.get_parameter("0.weight")) - entropy < 0.01 * entropy + 60
        if share == 0.05:
            assert entropy < 400 * 300 * 0.5 / 8  # less than half a bit each
