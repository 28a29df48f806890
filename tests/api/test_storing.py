"""Weights as clusters and small integers, decided by hand and by a search, from the policy to the file on disk."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from tersenet import Policy, Target, load
from tersenet.api import CompressOptions, Result, apply, compress, inspect
from tersenet.core.policy import ChannelDecision, Clusters, Linear, Storage
from tersenet.data import Data
from tersenet.errors import ModelError, StudyError, TargetError
from tersenet.graph import trace
from tersenet.measurement.size import paper_ratio
from tersenet.pack import read_info

TINY = Target(max_size_ratio=0.08)


def quick(out: Path | None = None, **changes: object) -> CompressOptions:
    fields: dict[str, object] = {"trials": 12, "finetune_epochs": 1, "out": out, "model_name": "digits_cnn"}
    return CompressOptions(**(fields | changes))  # type: ignore[arg-type]


def mixed(model: nn.Module, digits: Data) -> Policy:
    """Seven clusters and three bits in turn, and a quarter of the stem's channels cut."""
    layers = trace(model, digits.example_inputs()).layers
    forms: tuple[Storage, Storage] = (Clusters(n_clusters=7), Linear(weight_bits=3))
    storage = {layer.name: forms[number % 2] for number, layer in enumerate(layers)}
    return Policy(channels={"block1.conv1": ChannelDecision(pruning_ratio=0.25)}, storage=storage)


@pytest.fixture(scope="module")
def by_hand(tmp_path_factory: pytest.TempPathFactory, digits: Data, _trained_digits_cnn: nn.Module) -> Result:
    out = tmp_path_factory.mktemp("by_hand")
    policy = mixed(_trained_digits_cnn, digits)
    return apply(_trained_digits_cnn, policy, data=digits, seed=0, options=quick(out))


@pytest.mark.slow
def test_a_policy_written_by_hand_is_stored_as_it_says(by_hand: Result, digits_cnn: nn.Module) -> None:
    info = read_info(by_hand.folder / "model.tersenet")
    codecs = {tensor.name: tensor.codec.split()[0] for tensor in info.tensors}
    assert codecs["stem.weight"] == "clusters"
    assert codecs["block1.conv1.weight"] == "linear"
    weights = by_hand.model.state_dict()
    assert len(weights["stem.weight"].unique()) <= 7
    for channel in weights["block1.conv1.weight"].flatten(1):
        assert len(channel.unique()) <= 7  # -3 to 3
    assert len(weights["block1.conv1.weight"]) == 3 * len(digits_cnn.get_parameter("block1.conv1.weight")) // 4
    assert {layer.name: layer.storage for layer in by_hand.run.layers}["stem"] == "7 clusters"


@pytest.mark.slow
def test_the_coded_file_is_ten_times_smaller_and_the_network_still_knows_the_digits(by_hand: Result) -> None:
    assert by_hand.run.compressed.size_bytes is not None
    assert by_hand.run.compressed.size_bytes < by_hand.run.original_bytes / 10
    assert by_hand.run.compressed.top1 is not None
    assert by_hand.run.compressed.top1 > 85.0
    assert all(check.passed for check in by_hand.run.checks)


@pytest.mark.slow
def test_file_and_onnx_give_the_delivered_network(by_hand: Result, digits_cnn: nn.Module, digits: Data) -> None:
    images = digits.example_inputs(16)[0]
    loaded = load(by_hand.folder / "model.tersenet", digits_cnn)
    session = onnxruntime.InferenceSession(by_hand.folder / "model.onnx", providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), by_hand.model(images), rtol=0, atol=0)
        np.testing.assert_allclose(outputs, by_hand.model(images).numpy(), rtol=1e-3, atol=1e-3)
    assert by_hand.run.files["model.onnx"] <= 1.5 * by_hand.run.files["model.tersenet"]


@pytest.mark.slow
def test_the_two_accountings_are_side_by_side_and_not_the_same(by_hand: Result) -> None:
    table = by_hand.summary()
    assert by_hand.run.paper_ratio is not None
    assert by_hand.run.compressed.size_bytes is not None
    by_bytes = by_hand.run.original_bytes / by_hand.run.compressed.size_bytes
    assert f"{by_bytes:.2f}x" in table
    assert f"{by_hand.run.paper_ratio:.2f}x" in table
    assert by_hand.run.paper_ratio > by_bytes


def test_the_paper_ratio_counts_index_bits_of_convolutions_only(digits_cnn: nn.Module, digits: Data) -> None:
    graph = trace(digits_cnn, digits.example_inputs())
    convolutions = {layer.name: layer.num_params for layer in graph.layers if layer.op != "linear"}
    total = sum(digits_cnn.get_parameter(f"{name}.weight").numel() for name in convolutions)
    assert paper_ratio(graph, graph, {name: Clusters(n_clusters=16) for name in convolutions}) == 8.0
    assert paper_ratio(graph, graph, {name: Clusters(n_clusters=31) for name in convolutions}) == 8.0  # floor
    stem = digits_cnn.get_parameter("stem.weight").numel()
    only_stem = paper_ratio(graph, graph, {"stem": Linear(weight_bits=2), "linear": Linear(weight_bits=1)})
    assert only_stem == pytest.approx(32 * total / (32 * (total - stem) + 2 * stem))


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["wang2020", "haq2019"])
def test_a_search_over_storage_keeps_to_the_bytes_of_the_file(
    recipe: str, digits: Data, digits_cnn: nn.Module, tmp_path: Path
) -> None:
    controls = ("uniform", "rate_distortion", "random", "cem")
    options = quick(tmp_path / "run", controls=controls)
    result = compress(digits_cnn, data=digits, target=TINY, recipe=recipe, seed=0, options=options)
    size = (result.folder / "model.tersenet").stat().st_size
    assert 0.075 < size / result.run.original_bytes <= 0.08
    assert result.target_reached
    assert all(check.passed for check in result.run.checks)
    assert result.run.compressed.top1 is not None
    assert result.run.compressed.top1 > 80.0
    assert {entry.method for entry in result.run.confirmed} >= {recipe, *controls}
    assert all(0.07 < entry.costs["size_bytes"] <= 0.08 for entry in result.run.confirmed)
    for entry in result.run.confirmed:  # each could be built by `apply`
        assert entry.policy.channels == result.policy.channels
        assert set(entry.policy.storage) == set(result.policy.storage)
    forms = {type(form) for form in result.policy.storage.values()}
    assert forms == {Clusters if recipe == "wang2020" else Linear}
    assert bool(result.policy.channels) == (recipe == "wang2020")
    again = compress(digits_cnn, data=digits, target=TINY, recipe=recipe, seed=0, options=options)
    assert again.policy == result.policy
    assert (again.folder / "model.tersenet").stat().st_size == size


@pytest.mark.slow
def test_every_number_of_clusters_is_a_power_of_two_where_that_is_asked_for(
    digits: Data, digits_cnn: nn.Module
) -> None:
    options = quick(
        trials=4,
        finetune_epochs=0,
        controls=("uniform", "rate_distortion", "cem"),
        recipe_options={"powers_of_two": True, "pruning_ratio": 0.0},
    )
    result = compress(
        digits_cnn, data=digits, target=Target(max_size_ratio=0.12), recipe="wang2020", seed=0, options=options
    )
    policies = [result.policy, *(entry.policy for entry in result.run.confirmed)]
    counts = {form.n_clusters for policy in policies for form in policy.storage.values() if isinstance(form, Clusters)}
    assert len(counts) > 1
    assert counts <= {2, 4, 8, 16, 32, 64, 128, 256}
    assert result.target_reached


@pytest.mark.slow
def test_a_study_of_other_trials_is_not_gone_on_with(digits: Data, digits_cnn: nn.Module, tmp_path: Path) -> None:
    options = quick(tmp_path / "run", trials=2, finetune_epochs=0, controls=())
    compress(digits_cnn, data=digits, target=TINY, recipe="haq2019", seed=0, options=options)
    changed = quick(tmp_path / "run", trials=2, finetune_epochs=0, controls=(), recipe_options={"most": 4})
    with pytest.raises(StudyError, match="config"):
        compress(digits_cnn, data=digits, target=TINY, recipe="haq2019", seed=0, options=changed)


@pytest.mark.slow
def test_trials_of_a_cut_that_was_tuned_otherwise_are_not_gone_on_with(
    digits: Data, digits_cnn: nn.Module, tmp_path: Path
) -> None:
    def again(folder: str, *, pruning_ratio: float, epochs: int) -> Result:
        options = quick(
            tmp_path / folder,
            trials=2,
            finetune_epochs=epochs,
            controls=(),
            recipe_options={"pruning_ratio": pruning_ratio},
        )
        return compress(digits_cnn, data=digits, target=TINY, recipe="haq2019", seed=0, options=options)

    again("cut", pruning_ratio=0.4, epochs=1)
    with pytest.raises(StudyError, match="finetune_epochs: 1 there, 2 now"):
        again("cut", pruning_ratio=0.4, epochs=2)
    again("whole", pruning_ratio=0.0, epochs=0)
    assert len(again("whole", pruning_ratio=0.0, epochs=1).run.epochs) == 1  # nothing was tuned before the search


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (Target(max_macs_ratio=0.5), "needs a bound on bytes"),
        (Target(max_size_ratio=0.1, max_top1_drop=1.0), "max_top1_drop=1.0 cannot be promised"),
        (Target(max_size_ratio=0.01), r"max_size_ratio=0.01 .* cannot be reached.*at least 1 bits"),
        (Target(max_size_ratio=0.1, max_macs_ratio=0.5), r"max_macs_ratio=0.5 is not kept.*pruning_ratio=0 leaves 100"),
    ],
)
def test_targets_that_storage_cannot_keep_are_refused(
    target: Target, message: str, digits: Data, digits_cnn: nn.Module
) -> None:
    options = quick(recipe_options={"fewest": 1}, reference_top1=95.0)
    with pytest.raises(TargetError, match=message):
        compress(digits_cnn, data=digits, target=target, recipe="haq2019", seed=0, options=options)


@pytest.mark.slow
def test_inspect_shows_what_storage_can_reach(digits: Data, digits_cnn: nn.Module) -> None:
    rows = {
        recipe: {row.kind: row for row in inspect(digits_cnn, data=digits, target=TINY, recipe=recipe).reachable}
        for recipe in ("wang2020", "haq2019", "he2018")
    }
    assert rows["haq2019"]["size_bytes"].is_reachable
    assert rows["wang2020"]["size_bytes"].smallest < rows["haq2019"]["size_bytes"].smallest
    assert not rows["he2018"]["size_bytes"].is_reachable
    assert rows["haq2019"]["macs"].smallest == rows["haq2019"]["macs"].original
    assert rows["wang2020"]["macs"].smallest < 0.7 * rows["wang2020"]["macs"].original


@pytest.mark.slow
def test_groups_are_not_said_to_be_locked_where_no_channel_is_to_be_cut(digits_cnn: nn.Module) -> None:
    inputs = (torch.randn(2, 1, 8, 8),)
    stored = inspect(digits_cnn, example_inputs=inputs, recipe="haq2019").groups
    cut = inspect(digits_cnn, example_inputs=inputs, recipe="wang2020").groups
    assert {group.reason for group in stored if group.prunable} == {"pruning_ratio=0 cuts no channels"}
    assert "" in {group.reason for group in cut}


@pytest.mark.slow
def test_a_network_without_anything_to_cut_can_still_be_stored(digits: Data, tmp_path: Path) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    target, options = Target(max_size_ratio=0.6), quick(tmp_path / "run", trials=2, finetune_epochs=0, controls=())
    result = compress(model, data=digits, target=target, recipe="haq2019", seed=0, options=options)
    assert result.run.compressed.size_bytes is not None
    assert result.run.compressed.size_bytes <= 0.6 * result.run.original_bytes


def test_a_network_of_equal_weights_has_nothing_to_store(digits: Data, tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    fill: Callable[[torch.Tensor], torch.Tensor] = nn.init.ones_
    fill(model[1].weight)  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="none has three different weights"):
        compress(model, data=digits, target=TINY, recipe="haq2019", seed=0, options=quick(tmp_path / "run"))
