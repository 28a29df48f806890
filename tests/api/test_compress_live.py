"""A network that is switched while it trains, from the command to the files, and killed on the way."""

from __future__ import annotations

import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from durable_runs import outcome
from forked_runs import Launcher
from torch import nn

from tersenet import Target, load
from tersenet.api import CompressOptions, compress, inspect
from tersenet.data import Data
from tersenet.errors import ModelError, SearchError, TargetError
from tersenet.report import read_summary

ROUNDS = 8


def quick(out: Path | None = None, **settings: object) -> CompressOptions:
    own: dict[str, object] = {"live_epochs": 3.0, "live_learning_rate": 0.03}
    return CompressOptions(
        trials=ROUNDS, finetune_epochs=2, out=out, model_name="digits_cnn", recipe_options=own | settings, controls=()
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["auto_aec", "auto_ceca"])
@pytest.mark.parametrize("agent", ["dqn", "random", "magnitude"])
def test_every_mode_and_agent_ends_within_the_bounds_with_every_file(
    mode: str, agent: str, digits: Data, digits_cnn: nn.Module, tmp_path: Path
) -> None:
    options = quick(tmp_path / "run", mode=mode, agent=agent)
    target = Target(max_params_ratio=0.6)
    result = compress(digits_cnn, data=digits, target=target, recipe="khatri2020", seed=0, options=options)
    assert result.target_reached
    assert all(check.passed for check in result.run.checks)
    assert {"model.tersenet", "model.onnx", "policy.json", "result.json", "report.html"} <= set(result.delivered)
    assert result.run.compressed.top1 is not None
    assert result.run.compressed.top1 > 85.0
    loaded = load(tmp_path / "run" / "model.tersenet", digits_cnn)
    assert sum(p.numel() for p in loaded.parameters()) == result.run.compressed.num_params
    rounds = read_summary(tmp_path / "run").rounds
    assert [point.index for point in rounds] == list(range(ROUNDS))
    for group_id, decision in result.policy.channels.items():
        assert decision.keep is not None
        assert rounds[-1].num_on[group_id] >= len(decision.keep)
    total = sum(rounds[0].num_on.values()) + rounds[0].num_off
    on = np.cumsum([point.num_woken - point.num_off for point in rounds]) + total
    assert on.tolist() == [sum(point.num_on.values()) for point in rounds]
    assert rounds[-1].num_settled == total
    assert rounds[0].exploring == {"dqn": 1.0, "random": 1.0, "magnitude": 0.0}[agent]
    page = (tmp_path / "run" / "report.html").read_text()
    assert "Channels switched off and on" in page


CONTROLS: dict[str, dict[str, object]] = {
    "random": {"agent": "random"},
    "magnitude": {"agent": "magnitude"},
    "fixed": {"reactivate": False},
}


@pytest.mark.slow
@pytest.mark.parametrize("unit", ["filter", "kernel"])
@pytest.mark.parametrize("control", list(CONTROLS))
def test_controls_of_the_benchmark_run_from_end_to_end_with_as_many_decisions(
    control: str, unit: str, digits: Data, digits_cnn: nn.Module
) -> None:
    own: dict[str, object] = {"live_epochs": 1.0, "unit": unit, "share": 0.2, **CONTROLS[control]}
    target = Target(max_params_ratio=0.5)
    if unit == "kernel":
        target, own["max_nonzero_ratio"] = Target(max_size_ratio=0.6), 0.5
    options = CompressOptions(
        trials=5, finetune_epochs=1, recipe_options=own, controls=(), model_name="digits_cnn", weights_saw_search=False
    )
    result = compress(digits_cnn, data=digits, target=target, recipe="khatri2020", seed=1, options=options)
    run = result.run
    assert result.target_reached
    assert all(check.passed for check in run.checks)
    assert len(run.trials) == len(run.rounds) == 5
    assert {trial.phase for trial in run.trials} == {"learned" if control == "fixed" else "control"}
    num_woken = sum(point.num_woken for point in run.rounds)
    assert (num_woken > 0) == (control == "random")
    assert sum(point.num_off for point in run.rounds) > 0
    left = run.compressed.num_nonzero if unit == "kernel" else run.compressed.num_params
    assert left is not None
    assert left <= 0.5 * (run.dense.num_params or 0)
    assert any(f"unit {'2-D kernel' if unit == 'kernel' else 'filter'}" in line for line in run.caveats)


@pytest.mark.slow
def test_from_scratch_the_given_weights_teach_nothing(digits: Data, digits_cnn: nn.Module) -> None:
    target = Target(max_params_ratio=0.6)
    ends = []
    for factor in (1.0, 1.5):  # other weights, and so another reference, but the same training
        for parameter in digits_cnn.linear.parameters():  # type: ignore[union-attr]
            parameter.data *= factor
        options = quick(start="scratch", agent="magnitude")
        result = compress(digits_cnn, data=digits, target=target, recipe="khatri2020", seed=0, options=options)
        ends.append(result.run)
    assert ends[0].policy == ends[1].policy
    assert ends[0].compressed.top1 == ends[1].compressed.top1
    assert ends[0].rounds[0].quality < ends[0].rounds[-1].quality


@pytest.mark.slow
def test_a_drop_that_is_missed_is_answered_by_a_larger_round(digits: Data, digits_cnn: nn.Module) -> None:
    options = quick(mode="auto_ceca", share=0.3, penalty=0.0)
    options = replace(options, weights_saw_search=False, finetune_epochs=0)
    target = Target(max_top1_drop=0.0, minimize="params")
    result = compress(digits_cnn, data=digits, target=target, recipe="khatri2020", seed=0, options=options)
    costs = [point.cost for point in result.run.rounds]
    delivered = (result.run.compressed.num_params or 0) / (result.run.dense.num_params or 1)
    assert min(abs(cost - delivered) for cost in costs) < 1e-9  # masks of one of the rounds


@pytest.mark.slow
def test_what_cannot_run_is_refused_before_anything_is_trained(digits: Data, digits_cnn: nn.Module) -> None:
    def run(target: Target, options: CompressOptions) -> None:
        compress(digits_cnn, data=digits, target=target, recipe="khatri2020", seed=0, options=options)

    with pytest.raises(TargetError, match=r"magnitude.*only follows the bounds"):
        run(Target(max_top1_drop=1.0), CompressOptions(
            recipe_options={"agent": "magnitude"}, weights_saw_search=False, controls=()
        ))  # fmt: skip
    with pytest.raises(SearchError, match="cannot use 2 workers"):
        run(Target(max_params_ratio=0.5), CompressOptions(workers=2, controls=()))
    with pytest.raises(TargetError, match="cannot be reached"):
        run(Target(max_params_ratio=0.01), quick())
    digits_cnn.register_parameter("own", nn.Parameter(torch.ones(1)))
    with pytest.raises(ModelError, match="no reset_parameters"):
        run(Target(max_params_ratio=0.5), quick(start="scratch"))


@pytest.mark.slow
def test_inspection_predicts_how_long_rounds_take(digits: Data, digits_cnn: nn.Module) -> None:
    seen = inspect(digits_cnn, data=digits, target=Target(max_params_ratio=0.5), recipe="khatri2020", options=quick())
    assert seen.search_seconds is not None
    assert seen.finetune_seconds is not None
    assert seen.search_seconds == pytest.approx(1.5 * seen.finetune_seconds, rel=0.9)  # three epochs and two


ARGUMENTS = [
    "compress", "digits_cnn", "--weights", "../weights.safetensors", "--recipe", "khatri2020", "--max-params-ratio",
    "0.5", "--trials", "12", "--set", "live_epochs=4", "--finetune-epochs", "2", "--controls", "none", "--seed", "5",
    "--out", "out", "--json",
]  # fmt: skip
MOMENTS = [("search khatri2020: started", 1.0)] * 5 + [("search khatri2020: done", 0.5), ("fine-tune: started", 0.5)]


@pytest.mark.slow
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_masks(two_folders: Path, launcher: Launcher) -> None:
    whole, troubled = two_folders / "whole", two_folders / "troubled"
    assert launcher.start(ARGUMENTS, whole).wait() == 0
    random = np.random.default_rng(1)
    num_killed = 0
    for line, longest in MOMENTS:
        run = launcher.start(ARGUMENTS, troubled)
        run.wait_for(line)
        time.sleep(float(random.uniform(0.0, longest)))
        run.signal(signal.SIGKILL)
        status = run.wait()
        assert status in (0, -signal.SIGKILL), run.stderr.read_text()
        num_killed += status == -signal.SIGKILL
    assert num_killed >= 3
    assert launcher.start(ARGUMENTS, troubled).wait() == 0
    assert outcome(troubled) == outcome(whole)
