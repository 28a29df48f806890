"""Looking before spending, training a base, measuring any network."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tersenet import Target, measure
from tersenet.api import CompressOptions, TrainOptions, inspect, train
from tersenet.data import Data
from tersenet.errors import DataError, NotFoundError
from tersenet.models import build, load_weights


def test_inspection_shows_layers_groups_and_what_can_be_reached(digits_cnn: nn.Module) -> None:
    seen = inspect(digits_cnn, example_inputs=(torch.randn(2, 1, 8, 8),), target=Target(max_macs_ratio=0.5))
    assert seen.num_params == 78_610
    assert [row.name for row in seen.layers] == [
        "stem", "block1.conv1", "block1.conv2", "down", "block2.conv1", "block2.conv2", "conv3", "conv4", "linear"
    ]  # fmt: skip
    reasons = {row.group_id: row.reason for row in seen.groups}
    assert reasons["conv3"] == ""
    assert "residual" in reasons["stem"]
    assert "outputs" in reasons["linear"]
    reach = {row.kind: row for row in seen.reachable}
    assert reach["macs"].bound == pytest.approx(0.5 * seen.macs)
    assert reach["macs"].is_reachable
    assert seen.search_seconds is None


def test_an_unreachable_target_is_shown_and_not_refused(digits_cnn: nn.Module) -> None:
    seen = inspect(digits_cnn, example_inputs=(torch.randn(2, 1, 8, 8),), target=Target(max_params=1000))
    assert not {row.kind: row for row in seen.reachable}["params"].is_reachable


@pytest.mark.slow
def test_with_data_the_time_is_predicted(digits_cnn: nn.Module, digits: Data) -> None:
    options = CompressOptions(trials=10, finetune_epochs=3)
    seen = inspect(digits_cnn, data=digits, target=Target(max_macs_ratio=0.5), options=options)
    twice = inspect(digits_cnn, data=digits, target=Target(max_macs_ratio=0.5), options=CompressOptions(trials=2000))
    assert seen.search_seconds is not None
    assert twice.search_seconds is not None
    assert 0.0 < seen.search_seconds < twice.search_seconds
    assert seen.finetune_seconds is not None
    assert seen.finetune_seconds > 0.0


def test_a_network_without_prunable_groups_is_shown_with_the_reason() -> None:
    seen = inspect(nn.Sequential(nn.Flatten(), nn.Linear(64, 10)), example_inputs=(torch.randn(2, 1, 8, 8),))
    assert seen.reachable == ()
    assert any("can be cut" in note for note in seen.notes)


def test_inspecting_needs_inputs_from_somewhere(digits_cnn: nn.Module) -> None:
    with pytest.raises(DataError, match="example_inputs"):
        inspect(digits_cnn)


@pytest.mark.slow
def test_training_writes_weights_that_say_what_they_have_seen(digits: Data, tmp_path: Path) -> None:
    torch.manual_seed(1)
    model = build("digits_cnn")
    found = train(model, data=digits, seed=0, epochs=3, out=tmp_path, options=TrainOptions(batch_size=64))
    assert found.metrics.top1 is not None
    assert found.metrics.top1 > 85.0
    assert len(found.epochs) == 3
    fresh = build("digits_cnn")
    info = load_weights(fresh, found.weights)
    assert info.saw_search is False
    with torch.no_grad():
        images = digits.example_inputs(4)[0]
        torch.testing.assert_close(fresh.eval()(images), model.eval()(images))


def test_any_network_can_be_measured(digits_cnn: nn.Module, digits: Data) -> None:
    found = measure(digits_cnn, data=digits, split="search")
    assert (found.num_params, found.num_samples, found.split) == (78_610, digits.search.source.num_samples, "search")
    assert found.top1 is not None
    assert found.top1 > 90.0


def test_evaluating_a_folder_without_a_run_says_what_is_missing(
    digits_cnn: nn.Module, digits: Data, tmp_path: Path
) -> None:
    from tersenet.api import evaluate

    with pytest.raises(NotFoundError, match="does not exist"):
        evaluate(tmp_path, digits_cnn, data=digits)
