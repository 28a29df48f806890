"""2-D kernels switched while a network trains: zeros in a file that has no room for them, counts, resume, refusals."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from durable_runs import outcome
from forked_runs import Launcher
from torch import Tensor, nn

from tersenet import Target, load
from tersenet.api import CompressOptions, Result, apply, compress, inspect
from tersenet.core.metrics import Evaluation
from tersenet.core.policy import Policy
from tersenet.core.rules import ChannelRule, ChannelRules
from tersenet.data import Data, from_batches
from tersenet.errors import ModelError, SearchError, TargetError
from tersenet.evaluators import LiveEvaluator
from tersenet.pack import read_info

ROUNDS = 5


class Toy(nn.Module):
    """Switched inside: 12 + 96 kernels and 48 single weights; 1,086 parameters."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1 = nn.Conv2d(1, 12, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(12)
        self.conv2 = nn.Conv2d(12, 8, 3, padding=1)
        self.hidden = nn.Linear(8, 6)
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        logits: Tensor = self.linear(torch.relu(self.hidden(x.mean(dim=(2, 3)))))
        return logits


def batches(seed: int) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(seed)
    return [(torch.randn(16, 1, 6, 6, generator=generator), torch.arange(16) % 4) for _ in range(4)]


def few() -> Data:
    return from_batches(batches(0), batches(1), batches(2))


def run(target: Target, out: Path | None = None, **settings: object) -> Result:
    own: dict[str, object] = {"unit": "kernel", "live_epochs": 3.0, "share": 0.2}
    options = CompressOptions(
        trials=ROUNDS, finetune_epochs=1, out=out, model_name="toy", recipe_options=own | settings, controls=(),
        weights_saw_search=False,
    )  # fmt: skip
    return compress(Toy(), data=few(), target=target, recipe="khatri2020", seed=0, options=options)


BYTES = Target(max_size_ratio=0.9)  # of 4,440


@pytest.mark.slow
def test_zeros_are_bounded_counted_and_not_stored(tmp_path: Path) -> None:
    result = run(BYTES, tmp_path / "run", max_nonzero_ratio=0.4)
    assert result.target_reached
    assert all(check.passed for check in result.run.checks)
    metrics = result.run.compressed
    assert metrics.num_nonzero is not None
    assert metrics.num_params is not None
    assert metrics.num_nonzero <= 0.4 * 1086
    assert metrics.nonzero_macs is not None
    assert metrics.macs is not None
    assert metrics.nonzero_macs < metrics.macs  # a dense runtime multiplies by zeros
    kernels = result.policy.kernels
    assert set(kernels) <= {"conv1", "conv2", "hidden"}
    kept = sum(int(decision.mask.array().sum()) for decision in kernels.values() if decision.mask is not None)
    caveat = next(line for line in result.run.caveats if line.startswith("Switched while training"))
    assert f"unit 2-D kernel: {kept} of 156 are on" in caveat
    assert len(kernels) == 3
    loaded = load(tmp_path / "run" / "model.tersenet", Toy())
    nonzero = sum(int(torch.count_nonzero(p)) for p in loaded.parameters())
    assert nonzero == metrics.num_nonzero
    codecs = {tensor.name: tensor.codec for tensor in read_info(tmp_path / "run" / "model.tersenet").tensors}
    assert codecs["conv2.weight"].startswith("sparse")
    assert result.run.recipe_config["unit"] == "kernel"
    assert set(result.run.rounds[-1].num_on) == {"conv1", "conv2", "hidden"}
    page = (tmp_path / "run" / "report.html").read_text()
    assert "2-d kernels switched off and on" in page.lower()
    again = apply(Toy(), result.policy, data=few(), seed=0, options=CompressOptions(finetune_epochs=0))
    assert again.run.compressed.macs == metrics.macs
    assert json.loads((tmp_path / "run" / "policy.json").read_text())["kernels"]


@pytest.mark.slow
def test_channels_that_nothing_writes_or_reads_really_leave() -> None:
    result = run(BYTES, max_nonzero_ratio=0.25, agent="magnitude", lower_bound=0.02)
    shapes = {layer.name: layer.shape_after for layer in result.run.layers}
    stays = {name: decision.mask.array() for name, decision in result.policy.kernels.items() if decision.mask}
    written = stays["conv1"].any(axis=(1, 2, 3))
    read = stays["conv2"].any(axis=(0, 2, 3))
    assert shapes["conv1"][0] == shapes["conv2"][1] <= int((written & read).sum())
    assert shapes["conv1"][0] < 12


@pytest.mark.slow
def test_an_interrupted_run_goes_on_to_the_same_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(BYTES, tmp_path / "whole", max_nonzero_ratio=0.5)
    measured = LiveEvaluator.evaluate
    calls: list[Policy] = []

    def interrupted(self: LiveEvaluator, policy: Policy, **options: float | None) -> Evaluation:
        calls.append(policy)
        if len(calls) in (2, 4):  # trained, but not told
            measured(self, policy, **options)
            raise KeyboardInterrupt
        return measured(self, policy, **options)

    monkeypatch.setattr(LiveEvaluator, "evaluate", interrupted)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(BYTES, tmp_path / "troubled", max_nonzero_ratio=0.5)
    found = run(BYTES, tmp_path / "troubled", max_nonzero_ratio=0.5)
    assert len(calls) == ROUNDS + 2
    assert found.policy == whole.policy
    assert found.run.compressed.top1 == whole.run.compressed.top1
    timeless = [[p.model_copy(update={"seconds": 0.0}) for p in each.run.rounds] for each in (whole, found)]
    assert timeless[0] == timeless[1]


def test_what_makes_no_sense_is_refused() -> None:
    for bound in ({"max_params_ratio": 0.5}, {"max_macs": 1000}):
        with pytest.raises(TargetError, match=r"zeros included.*max_nonzero_ratio"):
            run(Target.model_validate(bound))
    with pytest.raises(SearchError, match="unit='filter' leaves none"):
        run(Target(max_params_ratio=0.5), unit="filter", max_nonzero_ratio=0.5)
    with pytest.raises(TargetError, match=r"max_nonzero_ratio=0.01 .* switching 2-D kernels off .* lower_bound"):
        run(BYTES, max_nonzero_ratio=0.01)
    with pytest.raises(TargetError, match=r"magnitude.*only follows the bounds"):
        run(Target(max_top1_drop=50.0), agent="magnitude")
    options = CompressOptions(
        recipe_options={"unit": "kernel"},
        controls=(),
        rules=ChannelRules(by_name={"conv1": ChannelRule(lower_bound=0.5)}),
    )
    with pytest.raises(SearchError, match="Rules say what may be done to channels"):
        compress(Toy(), data=few(), target=BYTES, recipe="khatri2020", seed=0, options=options)
    single = nn.Sequential(nn.Flatten(), nn.Linear(36, 4))
    options = CompressOptions(recipe_options={"unit": "kernel"}, controls=())
    with pytest.raises(ModelError, match="nothing to switch"):
        compress(single, data=few(), target=BYTES, recipe="khatri2020", seed=0, options=options)


def test_inspection_says_how_far_kernels_go() -> None:
    options = CompressOptions(recipe_options={"unit": "kernel", "lower_bound": 0.5}, controls=())
    seen = inspect(Toy(), example_inputs=(torch.zeros(2, 1, 6, 6),), recipe="khatri2020", options=options)
    smallest = {row.kind: row.smallest for row in seen.reachable}
    # by hand: half of 12 x 9, 96 x 9 and 48 go
    assert smallest["nonzero_params"] == 1086 - (12 * 9 + 96 * 9 + 48) / 2
    assert not any(group.reason for group in seen.groups if group.prunable)


ARGUMENTS = [
    "compress", "digits_cnn", "--weights", "../weights.safetensors", "--recipe", "khatri2020", "--max-size-ratio",
    "0.25", "--trials", "10", "--set", "unit=kernel", "--set", "max_nonzero_ratio=0.4", "--set", "live_epochs=3",
    "--finetune-epochs", "1", "--controls", "none", "--seed", "5", "--out", "out", "--json",
]  # fmt: skip


@pytest.mark.slow
def test_a_run_that_is_killed_ends_with_the_same_kernels(two_folders: Path, launcher: Launcher) -> None:
    whole, troubled = two_folders / "whole", two_folders / "troubled"
    assert launcher.start(ARGUMENTS, whole).wait() == 0
    random = np.random.default_rng(1)
    num_killed = 0
    for _ in range(3):
        process = launcher.start(ARGUMENTS, troubled)
        process.wait_for("search khatri2020: started")
        time.sleep(float(random.uniform(0.2, 1.0)))
        process.signal(signal.SIGKILL)
        num_killed += process.wait() == -signal.SIGKILL
    assert num_killed >= 2
    assert launcher.start(ARGUMENTS, troubled).wait() == 0
    assert outcome(troubled) == outcome(whole)
