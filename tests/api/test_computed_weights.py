"""Networks with weight norm and spectral norm through the main job, as a user would give them."""

from __future__ import annotations

import copy
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, spectral_norm, weight_norm

from tersenet import Target, load
from tersenet.api import CompressOptions, apply, compress, inspect
from tersenet.core.policy import ChannelDecision, Policy
from tersenet.data import Data
from tersenet.graph import trace
from tersenet.pack import save_packed
from tersenet.transforms import make_plan, materialize, without_parametrizations

IMAGES = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def network(seed: int = 0) -> nn.Sequential:
    """One layer of each kind, and one plain one."""
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        model = nn.Sequential(
            parametrizations.weight_norm(nn.Conv2d(1, 16, 3)),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            weight_norm(nn.Conv2d(16, 16, 3)),
            nn.ReLU(),
            parametrizations.spectral_norm(nn.Conv2d(16, 24, 3)),
            nn.ReLU(),
            spectral_norm(nn.Conv2d(24, 16, 2)),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(16, 10),
        )
    for _ in range(5):
        model(IMAGES)  # spectral norm learns the largest singular value in passes of training
    return model


def trained(model: nn.Module, digits: Data) -> nn.Module:
    """By the loop of a user who knows nothing of this library."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(8):
        for images, labels in digits.train.source.batches(64, shuffle_seed=epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()


def plain_network() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3), nn.ReLU(), nn.Conv2d(16, 24, 3),
        nn.ReLU(), nn.Conv2d(24, 16, 2), nn.ReLU(), nn.Flatten(), nn.Linear(16, 10),
    )  # fmt: skip


def assert_untouched(model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    assert list(model.state_dict()) == list(before)
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)
    assert parametrize.is_parametrized(model.get_submodule("0"))


def test_inspection_shows_all_layers_as_free_and_says_why() -> None:
    model = network().eval()
    before = copy.deepcopy(model.state_dict())
    seen = inspect(model, example_inputs=(IMAGES,))
    assert [row.prunable for row in seen.groups] == [True, True, True, True, False]
    assert [note for note in seen.notes if "4 layers (0, 3, 5, ...)" in note and "plain weights" in note]
    assert_untouched(model, before)


def test_a_packed_file_loads_into_the_network_with_its_norms_and_without(tmp_path: Path) -> None:
    model, _ = without_parametrizations(network().eval())
    graph = trace(model, IMAGES)
    plan = make_plan(model, graph, Policy(channels={"3": ChannelDecision(pruning_ratio=0.5)}), seed=0)
    small = materialize(model, plan)
    save_packed(tmp_path / "net.tersenet", small, plan=plan, policy=Policy(), provenance={})
    for original in (network(seed=1), plain_network()):
        loaded = load(tmp_path / "net.tersenet", original)
        torch.testing.assert_close(loaded(IMAGES), small(IMAGES), rtol=0, atol=0)
        assert not isinstance(loaded.get_submodule("0"), parametrize.ParametrizationList)
        assert loaded.get_submodule("3").weight.shape == (8, 16, 3, 3)


@pytest.mark.slow
def test_the_main_job_delivers_a_plain_network_that_loads_again(digits: Data, tmp_path: Path) -> None:
    model = trained(network(), digits)
    before = copy.deepcopy(model.state_dict())
    options = CompressOptions(trials=12, finetune_epochs=4, out=tmp_path / "run", controls=())
    target = Target(max_macs_ratio=0.5)
    result = compress(model, data=digits, target=target, recipe="random", seed=0, options=options)
    assert result.target_reached
    assert all(check.passed for check in result.run.checks)
    assert any("4 layers (0, 3, 5, ...)" in caveat for caveat in result.run.caveats)
    assert "plain weights" in (result.folder / "report.html").read_text()
    assert result.run.dense.macs is not None
    assert result.run.compressed.macs is not None
    assert result.run.compressed.macs <= 0.5 * result.run.dense.macs
    assert result.run.compressed.top1 is not None
    assert result.run.compressed.top1 > 60.0  # guessing gives 10
    assert_untouched(model, before)
    loaded = load(result.folder / "model.tersenet", network(seed=1))
    images = digits.example_inputs(16)[0]
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), result.model(images), rtol=0, atol=0)
    # the same command goes on with it, and what was decided can be applied by hand
    again = compress(model, data=digits, target=target, recipe="random", seed=0, options=options)
    assert again.policy == result.policy
    by_hand = apply(model, result.policy, data=digits, seed=0, options=CompressOptions(finetune_epochs=0))
    assert by_hand.plan.kept_channels == result.plan.kept_channels
    assert_untouched(model, before)
