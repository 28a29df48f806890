from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from packed_nets import read_elsewhere

from tersenet import graph, models, transforms
from tersenet.core.plan import Plan
from tersenet.core.policy import ChannelDecision, Clusters, Linear, Policy
from tersenet.pack import as_stored, bytes_per_element, estimate_overhead, load, read_info, save_packed
from tersenet.transforms.coded import CodedWeights, LinearWeights, SharedWeights


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


def coded_by_quantiles(model: torch.nn.Module, seed: int) -> tuple[Policy, dict[str, CodedWeights]]:
    """Layers in turn as 5 to 20 shared values and as integers of 2 to 8 bits; the first keeps its numbers."""
    rng = np.random.default_rng(seed)
    policy, coded = Policy(), dict[str, CodedWeights]()
    layers = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Conv2d | torch.nn.Linear)]
    for number, name in enumerate(layers[1:]):
        weights = model.get_parameter(f"{name}.weight").detach().numpy()
        form = (
            Clusters(n_clusters=int(rng.integers(5, 21))) if number % 2 else Linear(weight_bits=int(rng.integers(2, 9)))
        )
        if isinstance(form, Clusters):
            places = (np.arange(form.n_clusters) + 0.5) / form.n_clusters
            codebook = np.quantile(weights, places).astype(np.float16)
            indices = np.abs(weights[..., None] - codebook.astype(np.float32)).argmin(-1).astype(np.uint8)
            coded[f"{name}.weight"] = SharedWeights(
                codebooks=codebook[None], indices=indices, axis=0, channels_per_codebook=len(weights)
            )
        else:
            largest = 2 ** (form.weight_bits - 1) - 1
            scales = (np.abs(weights.reshape(len(weights), -1)).max(1) / largest).astype(np.float16)
            ratio = weights / scales.astype(np.float32).reshape(-1, *[1] * (weights.ndim - 1))
            integers = np.clip(np.rint(ratio), -largest, largest).astype(np.int8)
            coded[f"{name}.weight"] = LinearWeights(
                integers=integers, scales=scales, weight_bits=form.weight_bits, axis=0
            )
        policy = policy.model_copy(update={"storage": {**policy.storage, name: form}})
    return policy, coded


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet20", "mobilenet_v2"])
def test_a_real_network_in_many_forms_comes_back_here_and_elsewhere_and_has_the_size_that_was_foreseen(
    name: str, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    model = models.build(name).eval()
    policy, coded = coded_by_quantiles(model, seed=0)
    small = as_stored(model, policy=policy, dtype="fp16", norms="folded", coded=coded)
    path = tmp_path / "net.tersenet"
    size = save_packed(
        path,
        small,
        plan=Plan(),
        policy=policy,
        provenance={},
        dtype="fp16",
        norms="folded",
        coded=coded,
    )
    loaded = load(path, models.build(name)).state_dict()
    elsewhere, _ = read_elsewhere(path, tmp_path / "values.npz")
    for tensor, values in small.state_dict().items():
        assert torch.equal(loaded[tensor], values)
        np.testing.assert_array_equal(elsewhere[tensor].astype(values.numpy().dtype), values.numpy())
    widths = bytes_per_element(small, policy=policy, dtype="fp16", norms="folded", coded=coded)
    foreseen = sum(width * loaded[tensor].numel() for tensor, width in widths.items())
    foreseen += estimate_overhead(model, Plan(), policy=policy, provenance={}, dtype="fp16", norms="folded")
    assert foreseen == pytest.approx(size, rel=0.005)
    if name == "resnet20":
        assert size - read_info(path).payload_bytes < 1_500  # header and index
