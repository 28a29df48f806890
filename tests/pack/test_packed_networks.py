from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tersenet import graph, models, transforms
from tersenet.core.policy import ChannelDecision, Policy
from tersenet.pack import estimate_overhead, load, read_info, save_packed


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_a_real_plan_makes_a_small_index_and_comes_back(name: str, tmp_path: Path) -> None:
    model = models.build(name).eval()
    inputs = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    traced = graph.trace(model, inputs)
    rng = np.random.default_rng(0)
    ids = [group.group_id for group in traced.channel_groups if group.prunable]
    assert len(ids) >= 9
    ratios = {group: float(rng.uniform(0.2, 0.7)) for group in ids}
    policy = Policy(channels={group: ChannelDecision(pruning_ratio=ratio) for group, ratio in ratios.items()})
    plan = transforms.make_plan(model, traced, policy, seed=0)
    small = transforms.materialize(model, plan).eval()
    path = tmp_path / "net.tersenet"
    size = save_packed(path, small, plan=plan, policy=policy, provenance={"seed": "0"})
    info = read_info(path)
    assert (info.plan, info.policy) == (plan, policy)
    stored = 4 * sum(values.numel() for values in small.state_dict().values() if values.is_floating_point())
    assert 0 < size - stored < 0.03 * stored
    assert info.index_bytes < {"resnet20": 2_000, "mobilenet_v2": 6_000}[name]
    assert abs(estimate_overhead(model) - (size - stored)) < 1_500
    with torch.no_grad():
        assert torch.equal(load(path, models.build(name))(inputs), small(inputs))
