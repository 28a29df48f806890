"""SqueezeNet, MobileNetV2 and ShuffleNet v2 in small, through the main job: fire modules, depthwise, shuffles."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from tersenet import Target, load
from tersenet.api import CompressOptions, Result, compress
from tersenet.data import Data
from tersenet.export.check import check_onnx
from tersenet.graph import trace
from tersenet.testing.mobile_digits import MOBILE_DIGITS
from tersenet.train import TrainConfig, fit

pytestmark = pytest.mark.slow

TRAINING = {
    "squeezenet": TrainConfig(epochs=14, learning_rate=0.02, batch_size=32, seed=0),  # it has no norms
    "mobilenet_v2": TrainConfig(epochs=8, learning_rate=0.1, batch_size=64, seed=0),
    "shufflenet_v2": TrainConfig(epochs=8, learning_rate=0.1, batch_size=64, seed=0),
}
OPTIONS: dict[str, dict[str, object]] = {
    "squeezenet": {"repair": "reconstruct", "finetune_learning_rate": 0.005},
    "mobilenet_v2": {},
    "shufflenet_v2": {},
}
"""Without norms there is nothing to recalibrate: least squares make up for a cut, and tuning takes small steps."""


@pytest.fixture(scope="module", params=list(MOBILE_DIGITS))
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, digits: Data) -> Result:
    """A network that knows the digits, cut to half of its multiply-accumulates, residual sums included."""
    torch.manual_seed(0)
    model = MOBILE_DIGITS[request.param]()
    fit(model, digits.train, digits.search, TRAINING[request.param])
    options = CompressOptions(
        trials=4,
        finetune_epochs=6,
        controls=(),
        recipe_options={"prune_residual": True, "finetune_batch_size": 32} | OPTIONS[request.param],
        out=tmp_path_factory.mktemp(request.param),
        model_name=request.param,
    )
    return compress(model.eval(), data=digits, target=Target(max_macs_ratio=0.5), seed=0, options=options)


def make(run: Result) -> nn.Module:
    return MOBILE_DIGITS[run.run.model]()


def test_the_budget_holds_for_what_is_traced_again(run: Result, digits: Data) -> None:
    inputs = digits.example_inputs()
    ratio = trace(run.model, inputs).macs / trace(make(run).eval(), inputs).macs
    assert 0.45 < ratio <= 0.5
    assert run.target_reached


def test_it_still_knows_the_digits(run: Result) -> None:
    dense, small = run.run.dense.top1, run.run.compressed.top1
    assert dense is not None
    assert small is not None
    assert dense > 85.0
    assert small > 75.0  # guessing gives 10


def test_every_check_of_the_run_passed(run: Result) -> None:
    assert {check.name for check in run.run.checks} >= {"cut network equals zeroed network"}
    assert all(check.passed for check in run.run.checks)


def test_the_packed_file_gives_the_same_outputs(run: Result, digits: Data) -> None:
    images = digits.example_inputs(32)[0]
    loaded = load(run.folder / "model.tersenet", make(run)).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), run.model(images), rtol=0, atol=0)


def test_the_onnx_file_agrees(run: Result, digits: Data) -> None:
    batches = [inputs for inputs, _ in digits.search.source.batches(99)]
    found = check_onnx(Path(run.folder) / "model.onnx", run.model, batches, num_threads=1)
    assert found.num_samples == 297
    assert found.agreement == 1.0
    assert found.max_relative_difference < 1e-5
