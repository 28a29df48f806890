"""zhan2019 from end to end on the digits: both stages, exact bounds, and going on where a run was stopped."""

from __future__ import annotations

import json
import shutil
import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load as load_arrays
from torch import nn

from tersenet import Policy, Target, load, recipes
from tersenet.api import CompressOptions, Result, apply, compress
from tersenet.core.policy import KernelDecision, Linear
from tersenet.core.summary import StageSummary
from tersenet.data import Data
from tersenet.errors import TargetError
from tersenet.pack import read_info
from tersenet.recipes.zhan2019 import Zhan2019Config

SMALL = Target(max_size_ratio=0.06, max_params_ratio=0.7)
LAYERS = ("stem", "block1.conv1", "block1.conv2", "down", "block2.conv1", "block2.conv2", "conv3", "conv4")


def options(out: Path | None = None, **recipe: object) -> CompressOptions:
    fields: dict[str, object] = {"prune_trials": 11, "prune_epochs": 1, "noise_epochs": 2, "max_flops_ratio": 0.4}
    return CompressOptions(
        trials=11,
        finetune_epochs=2,
        out=out,
        model_name="digits_cnn",
        recipe_options=fields | recipe,
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, digits: Data, _trained_digits_cnn: nn.Module) -> Result:
    out = tmp_path_factory.mktemp("two_stages")
    return compress(_trained_digits_cnn, data=digits, target=SMALL, recipe="zhan2019", seed=0, options=options(out))


@pytest.mark.slow
def test_both_stages_keep_their_bounds_and_the_network_still_knows_the_digits(run: Result) -> None:
    first, compressed = run.run.first_stage, run.run.compressed
    assert first is not None
    assert compressed.num_params is not None
    assert run.run.dense.num_params is not None
    assert compressed.num_params <= 0.7 * run.run.dense.num_params
    assert compressed.nonzero_macs is not None
    assert run.run.dense.macs is not None
    assert compressed.nonzero_macs <= 0.4 * run.run.dense.macs
    assert first.tuned.nonzero_macs is not None
    assert first.tuned.macs is not None
    assert compressed.nonzero_macs <= first.tuned.nonzero_macs < first.tuned.macs == compressed.macs
    assert (run.folder / "model.tersenet").stat().st_size <= 0.06 * run.run.original_bytes
    assert run.target_reached
    assert all(check.passed for check in run.run.checks)
    assert compressed.top1 is not None
    assert compressed.top1 > 75.0
    assert any("have a weight that is not zero" in caveat for caveat in run.run.caveats)
    assert "MACs of weights that are not zero" in run.summary()


@pytest.mark.slow
def test_each_stage_has_its_own_trials_agent_and_reward(run: Result) -> None:
    first = run.run.first_stage
    assert first is not None
    own = [point for point in first.trials if point.method == "zhan2019-prune"]
    assert len(own) == 11
    assert {entry.method for entry in first.confirmed} == {"zhan2019-prune", "uniform", "random (warm-up)"}
    assert all(0.3 < point.costs["nonzero_macs"] <= 0.4 for point in own)
    # minus the error times a logarithm, over that of the whole cost
    point = own[0]
    macs = run.run.dense.macs
    assert macs is not None
    cost = torch.tensor(point.costs["nonzero_macs"] * macs).log() / torch.tensor(float(macs)).log()
    assert point.reward == pytest.approx(-(1 - point.quality / 100) * float(cost), rel=1e-5)
    assert {point.method for point in run.run.trials} == {"zhan2019", "uniform"}
    assert {form.weight_bits for form in run.policy.storage.values() if isinstance(form, Linear)} <= set(range(2, 9))


@pytest.mark.slow
def test_the_first_stage_is_kept(run: Result, digits: Data, digits_cnn: nn.Module) -> None:
    folder = run.folder / "stage1"
    stage = StageSummary.model_validate_json((folder / "stage.json").read_text())
    assert stage == run.run.first_stage
    small = load(folder / "model.tersenet", digits_cnn)
    for layer in stage.policy.kernels:
        weight = small.get_parameter(f"{layer}.weight")
        assert (weight == 0).any()
        final = run.model.get_parameter(f"{layer}.weight")
        assert final.shape == weight.shape
        assert (final[weight == 0] == 0).all()  # what the first stage pruned is pruned
    assert stage.policy.channels == run.policy.channels
    assert stage.policy.kernels == run.policy.kernels
    assert read_info(run.folder / "model.tersenet").policy.kernels == run.policy.kernels


@pytest.mark.slow
def test_the_policy_of_a_control_is_that_of_the_second_stage_on_the_same_cut(
    run: Result, digits: Data, digits_cnn: nn.Module, tmp_path: Path
) -> None:
    folder = shutil.copytree(run.folder, tmp_path / "run")
    asked = replace(options(folder), deliver="uniform")
    other = compress(digits_cnn, data=digits, target=SMALL, recipe="zhan2019", seed=0, options=asked)
    first, again = run.run.first_stage, other.run.first_stage
    assert first is not None
    assert again is not None
    assert again.model_copy(update={"seconds": first.seconds}) == first
    assert other.run.trials == run.run.trials
    assert (other.policy.channels, other.policy.kernels) == (run.policy.channels, run.policy.kernels)
    (control,) = [entry for entry in run.run.confirmed if entry.method == "uniform"]
    assert other.run.untuned is not None
    assert other.run.untuned.top1 == control.confirmed_quality
    bits = {name: form.weight_bits for name, form in control.policy.storage.items() if isinstance(form, Linear)}
    delivered = {name: form for name, form in other.policy.storage.items() if isinstance(form, Linear)}
    assert delivered.keys() == bits.keys()
    assert all(form.weight_bits <= bits[name] for name, form in delivered.items())  # fewer where the file needs it
    assert "As asked, the policy of the control uniform was tuned and delivered, not that of zhan2019." in (
        other.run.caveats
    )


@pytest.mark.slow
def test_a_run_that_was_stopped_goes_on_to_the_same_end(
    run: Result, digits: Data, digits_cnn: nn.Module, tmp_path: Path
) -> None:
    class StoppedError(Exception):
        pass

    class Stops:
        """Stops when the second stage has begun."""

        def start(self, stage: str, total: int, *, done: int = 0) -> None:
            if stage == "search zhan2019":
                raise StoppedError

        def update(self, stage: str, done: int, facts: dict[str, str]) -> None: ...
        def finish(self, stage: str) -> None: ...
        def note(self, text: str) -> None: ...

    stopping = CompressOptions(**{**vars(options(tmp_path)), "progress": Stops()})
    with pytest.raises(StoppedError):
        compress(digits_cnn, data=digits, target=SMALL, recipe="zhan2019", seed=0, options=stopping)
    again = compress(digits_cnn, data=digits, target=SMALL, recipe="zhan2019", seed=0, options=options(tmp_path))
    assert again.policy == run.policy
    for name, tensor in run.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], tensor)


@pytest.mark.slow
def test_the_delivered_policy_can_be_applied_without_what_was_learned(
    run: Result, digits: Data, digits_cnn: nn.Module
) -> None:
    policy = Policy.model_validate(json.loads((run.folder / "policy.json").read_text()))
    result = apply(digits_cnn, policy, data=digits, seed=0, options=CompressOptions(finetune_epochs=1))
    assert result.run.compressed.macs == run.run.compressed.macs
    assert result.run.compressed.nonzero_macs == pytest.approx(run.run.compressed.nonzero_macs, rel=0.1)
    assert all(check.passed for check in result.run.checks)


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe",
    [
        {"prunes": "channels", "agent": "uniform"},
        {"prunes": "kernels", "unit": "position", "agent": "random", "units_lower_bound": 0.3},
        {"prunes": "both", "unit": "kernel", "agent": "cem", "criterion": "l1"},
    ],
)
def test_ablations_and_controls_are_delivered_like_the_agents_network(
    recipe: dict[str, object], digits: Data, digits_cnn: nn.Module
) -> None:
    target = Target(max_size_ratio=0.1)
    few = options(None, **{**recipe, "max_flops_ratio": 0.5})
    result = compress(digits_cnn, data=digits, target=target, recipe="zhan2019", seed=0, options=few)
    assert result.target_reached
    first = result.run.first_stage
    assert first is not None
    if recipe["prunes"] == "channels":
        assert not result.policy.kernels
        assert result.run.compressed.nonzero_macs is None
    else:
        assert {decision.unit for decision in result.policy.kernels.values()} == {recipe["unit"]}
    if recipe["prunes"] == "kernels":
        assert not result.policy.channels


@pytest.mark.slow
def test_parameters_that_are_not_zero_have_a_bound_of_their_own(digits: Data, digits_cnn: nn.Module) -> None:
    few = options(unit="element", max_nonzero_ratio=0.2, max_flops_ratio=1.0)
    target = Target(max_size_ratio=0.1)
    result = compress(digits_cnn, data=digits, target=target, recipe="zhan2019", seed=0, options=few)
    first, num_params = result.run.first_stage, result.run.dense.num_params
    assert first is not None
    assert num_params is not None
    assert first.tuned.num_nonzero is not None
    assert 0.15 * num_params < first.tuned.num_nonzero <= 0.2 * num_params
    assert first.tuned.num_params is not None
    assert first.tuned.num_params > 0.3 * num_params  # a dense runtime holds the zeros
    assert all(point.costs["nonzero_params"] <= 0.2 for point in first.trials)


def test_the_first_stage_can_be_tuned_at_its_own_learning_rate() -> None:
    recipe = recipes.get("zhan2019")
    same = recipe.configure({"finetune_learning_rate": 0.01})
    own = recipe.configure({"finetune_learning_rate": 0.01, "prune_learning_rate": 0.05})
    assert isinstance(same, Zhan2019Config)
    assert isinstance(own, Zhan2019Config)
    assert same.of_stage_1().finetune_learning_rate == 0.01
    assert own.of_stage_1().finetune_learning_rate == 0.05
    assert own.finetune_learning_rate == 0.01


def test_a_hand_written_policy_that_was_not_learned_is_refused(digits: Data, digits_cnn: nn.Module) -> None:
    decision = KernelDecision(unit="kernel", keep_ratio=0.5, criterion="information_dropout")
    with pytest.raises(ValueError, match="zhan2019"):
        apply(digits_cnn, Policy(kernels={"conv3": decision}), data=digits, seed=0)


def test_what_cannot_be_reached_is_refused_before_anything_is_trained(digits: Data, digits_cnn: nn.Module) -> None:
    for few, asked in (
        (options(prunes="kernels", units_lower_bound=0.5), r"max_flops_ratio=0\.4"),
        (options(max_nonzero_ratio=0.001, max_flops_ratio=1.0), r"max_nonzero_ratio=0\.001 .* nonzero_params down to"),
    ):
        with pytest.raises(TargetError, match=asked):
            compress(digits_cnn, data=digits, target=Target(max_size_ratio=0.1), recipe="zhan2019", seed=0, options=few)


@pytest.mark.slow
@pytest.mark.parametrize("scale", ["share", "threshold"])
def test_what_is_asked_for_is_a_share_or_a_threshold(
    scale: str, digits: Data, digits_cnn: nn.Module, tmp_path: Path
) -> None:
    asked = options(tmp_path / scale, unit_scale=scale, unit="element", prunes="kernels", prune_epochs=0)
    asked = replace(asked, finetune_epochs=0, trials=2)
    target = Target(max_size_ratio=0.1)
    result = compress(digits_cnn, data=digits, target=target, recipe="zhan2019", seed=0, options=asked)
    db = sqlite3.connect(result.folder / "stage1" / "study.sqlite")
    rows = db.execute("SELECT policy, proposals FROM trials WHERE method = 'zhan2019-prune'").fetchall()
    db.close()
    assert len(rows) == 11
    falls = []  # how far a layer that asked for more than another stays behind it
    for policy, proposals in rows:
        kernels = Policy.model_validate_json(policy).kernels
        wanted = load_arrays(proposals)["proposals"][:, 0]
        left = [kernels[layer].keep_ratio or 1.0 if layer in kernels else 1.0 for layer in LAYERS]
        rising = [left[place] for place in np.argsort(wanted)]
        falls.append(max(0.0, *-np.diff(rising)))
    assert (max(falls) <= 0.05) == (scale == "share")  # what is left of the bound may lift one of two that are equal
