"""The main job on the embedded digits: every part for real, at a small size."""

from __future__ import annotations

import copy
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from tersenet import Target, load
from tersenet.api import CompressOptions, Result, Task, apply, compress, evaluate
from tersenet.core.policy import ChannelDecision, Policy
from tersenet.core.summary import RunSummary
from tersenet.data import Data
from tersenet.errors import ModelError, PolicyError, SearchError, StudyError, TargetError, UnknownNameError
from tersenet.pack import read_info

HALF = Target(max_macs_ratio=0.5)


def quick(out: Path | None = None, **changes: object) -> CompressOptions:
    fields: dict[str, object] = {"trials": 12, "finetune_epochs": 2, "out": out, "model_name": "digits_cnn"}
    return CompressOptions(**(fields | changes))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, digits: Data, _trained_digits_cnn: nn.Module) -> Result:
    out = tmp_path_factory.mktemp("run")
    return compress(_trained_digits_cnn, data=digits, target=HALF, seed=0, options=quick(out))


def test_the_budget_is_kept_and_used(run: Result) -> None:
    dense, small = run.run.dense, run.run.compressed
    assert dense.macs is not None
    assert small.macs is not None
    assert 0.45 < small.macs / dense.macs <= 0.5
    assert run.target_reached


def test_the_file_is_really_smaller(run: Result) -> None:
    size = (run.folder / "model.tersenet").stat().st_size
    assert size == run.run.compressed.size_bytes == run.run.files["model.tersenet"]
    assert size < 0.5 * run.run.original_bytes


def test_the_network_still_knows_the_digits(run: Result) -> None:
    assert run.run.compressed.top1 is not None
    assert run.run.compressed.top1 > 85.0  # guessing gives 10
    assert run.run.compressed.num_samples == 500


def test_every_check_of_the_run_passed(run: Result) -> None:
    names = {check.name: check for check in run.run.checks}
    assert set(names) == {
        "cut network equals zeroed network",
        "packed file holds the tuned network",
        "ONNX model equals torch model",
    }
    assert all(check.passed for check in run.run.checks)


def test_the_packed_file_gives_the_delivered_network(run: Result, digits_cnn: nn.Module, digits: Data) -> None:
    images = digits.example_inputs(16)[0]
    loaded = load(run.folder / "model.tersenet", digits_cnn)
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), run.model(images), rtol=0, atol=0)


def test_onnxruntime_agrees_with_the_delivered_network(run: Result, digits: Data) -> None:
    images = digits.example_inputs(16)[0]
    session = onnxruntime.InferenceSession(run.folder / "model.onnx", providers=["CPUExecutionProvider"])
    (outputs,) = session.run(None, {session.get_inputs()[0].name: images.numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(outputs, run.model(images).numpy(), rtol=1e-3, atol=1e-3)


@pytest.mark.slow
def test_another_process_measures_the_same_accuracy(run: Result, tmp_path: Path) -> None:
    code = (
        "import sys, json\n"
        "from tersenet import data, models\n"
        "from tersenet.api import evaluate\n"
        f"found = evaluate({str(run.folder)!r}, models.build('digits_cnn'), data=data.digits())\n"
        "sys.stdout.write(json.dumps([found.metrics.top1, found.onnx.top1]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    packed, onnx = json.loads(done.stdout)
    assert packed == run.run.compressed.top1
    assert onnx == pytest.approx(packed, abs=0.21)  # at most one of 500 images


def test_the_uniform_control_and_the_agent_are_in_the_summary(run: Result) -> None:
    methods = [point.method for point in run.run.trials]
    assert methods.count("uniform") == 1
    assert methods.count("he2018") == 12
    phases = [point.phase for point in run.run.trials if point.method == "he2018"]
    assert phases == ["warmup"] * 10 + ["learned"] * 2
    assert all(point.costs["macs"] <= 0.5 for point in run.run.trials)


def test_the_winner_is_the_best_confirmed_of_the_recipe(run: Result) -> None:
    own = [entry for entry in run.run.confirmed if entry.method == "he2018"]
    assert run.run.untuned is not None
    assert run.run.untuned.top1 == max(entry.confirmed_quality for entry in own)
    assert {entry.method for entry in run.run.confirmed} == {"he2018", "uniform", "random (warm-up)"}


def test_the_files_tell_of_the_same_run(run: Result) -> None:
    assert RunSummary.model_validate_json((run.folder / "result.json").read_text()) == run.run
    assert Policy.model_validate_json((run.folder / "policy.json").read_text()) == run.policy
    assert read_info(run.folder / "model.tersenet").plan == run.plan
    assert "<svg" in (run.folder / "report.html").read_text()


def test_saving_copies_the_delivered_files(run: Result, tmp_path: Path) -> None:
    sizes = run.save(tmp_path / "copy")
    assert set(sizes) == {"model.tersenet", "model.onnx", "policy.json", "result.json", "report.html"}
    assert (tmp_path / "copy" / "model.onnx").read_bytes() == (run.folder / "model.onnx").read_bytes()


@pytest.mark.slow
def test_the_given_network_is_left_as_it_was(digits_cnn: nn.Module, digits: Data) -> None:
    digits_cnn.train()
    before = {name: tensor.clone() for name, tensor in digits_cnn.state_dict().items()}
    compress(digits_cnn, data=digits, target=HALF, recipe="uniform", seed=0, options=quick(finetune_epochs=1))
    assert digits_cnn.training
    for name, tensor in digits_cnn.state_dict().items():
        torch.testing.assert_close(tensor, before[name], rtol=0, atol=0)


def test_the_result_can_be_trained_further_by_a_plain_loop(run: Result, digits: Data) -> None:
    model = run.model.train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images, labels = next(iter(digits.train.source.batches(64)))
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(images), labels)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    run.model.eval()
    assert losses[-1] < losses[0]


@pytest.mark.slow
def test_a_run_that_was_interrupted_ends_like_one_that_was_not(
    run: Result, tmp_path: Path, digits_cnn: nn.Module, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tersenet.evaluators import FreshEvaluator

    original, calls = FreshEvaluator.evaluate, []

    def interrupted(self: FreshEvaluator, policy: Policy, *, hopeless_below: float | None = None) -> object:
        calls.append(policy)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return original(self, policy, hopeless_below=hopeless_below)

    with monkeypatch.context() as patch:
        patch.setattr(FreshEvaluator, "evaluate", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compress(digits_cnn, data=digits, target=HALF, seed=0, options=quick(tmp_path))
    again = compress(digits_cnn, data=digits, target=HALF, seed=0, options=quick(tmp_path))
    assert again.policy == run.policy
    assert [point.reward for point in again.run.trials] == [point.reward for point in run.run.trials]
    assert again.run.compressed.top1 == run.run.compressed.top1


@contextmanager
def other_threads() -> Iterator[int]:
    """Another number of threads than before, as on another machine."""
    before = torch.get_num_threads()
    other = 1 if before > 1 else 2
    torch.set_num_threads(other)
    try:
        yield other
    finally:
        torch.set_num_threads(before)


def test_a_search_that_is_done_can_be_tuned_on_another_machine(
    run: Result, tmp_path: Path, digits_cnn: nn.Module, digits: Data
) -> None:
    shutil.copytree(run.folder, tmp_path / "run")
    before = str(torch.get_num_threads())
    with other_threads() as now:
        options = quick(tmp_path / "run", finetune_epochs=1)
        again = compress(digits_cnn, data=digits, target=HALF, seed=0, options=options)
    assert again.policy == run.policy
    assert again.run.trials == run.run.trials
    assert len(again.run.epochs) == 1
    facts = again.run.provenance
    assert (facts["trials_threads"], facts["threads"]) == (before, str(now))


def test_a_search_that_is_not_done_is_refused_on_another_machine(
    tmp_path: Path, digits_cnn: nn.Module, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tersenet.evaluators import FreshEvaluator

    def interrupted(self: FreshEvaluator, policy: Policy) -> object:
        raise KeyboardInterrupt

    options = quick(tmp_path, trials=2, finetune_epochs=0)
    with monkeypatch.context() as patch:
        patch.setattr(FreshEvaluator, "confirm", interrupted)
        with pytest.raises(KeyboardInterrupt):
            compress(digits_cnn, data=digits, target=HALF, seed=0, options=options)
    with other_threads() as now, pytest.raises(StudyError, match=rf"threads: \d there, {now} now"):
        compress(digits_cnn, data=digits, target=HALF, seed=0, options=options)


def test_another_run_in_the_same_folder_is_refused(run: Result, digits_cnn: nn.Module, digits: Data) -> None:
    with pytest.raises(StudyError, match="seed: 0 there, 1 now"):
        compress(digits_cnn, data=digits, target=HALF, seed=1, options=quick(run.folder))


@pytest.mark.slow
def test_a_bound_on_bytes_holds_for_the_file(digits_cnn: nn.Module, digits: Data) -> None:
    found = compress(
        digits_cnn,
        data=digits,
        target=Target(max_size_bytes=60_000),
        recipe="uniform",
        seed=0,
        options=quick(finetune_epochs=1),
    )
    size = (found.folder / "model.tersenet").stat().st_size
    assert 0.9 * 60_000 < size <= 60_000
    assert found.target_reached


@pytest.mark.slow
def test_a_policy_by_hand_is_applied_exactly(digits_cnn: nn.Module, digits: Data, run: Result) -> None:
    group = next(row for row in run.run.groups if row.prunable and not row.reason)
    keep = tuple(range(0, group.num_channels, 2))
    found = apply(
        digits_cnn,
        Policy(channels={group.group_id: ChannelDecision(keep=keep)}),
        data=digits,
        seed=0,
        options=quick(finetune_epochs=0),
    )
    weight = dict(found.model.named_parameters())[f"{group.producers[0]}.weight"]
    original = dict(digits_cnn.named_parameters())[f"{group.producers[0]}.weight"]
    torch.testing.assert_close(weight, original[list(keep)].half().float(), rtol=0, atol=0)
    assert found.run.trials == ()


@pytest.mark.slow
def test_the_drop_loosens_the_budget_until_it_holds(digits_cnn: nn.Module, digits: Data) -> None:
    found = compress(
        digits_cnn,
        data=digits,
        target=Target(max_macs_ratio=0.3, max_top1_drop=0.1),
        recipe="uniform",
        seed=0,
        options=quick(finetune_epochs=1, weights_saw_search=False),
    )
    dense, small = found.run.dense.macs, found.run.compressed.macs
    assert dense is not None
    assert small is not None
    assert small / dense > 0.3
    assert not found.target_reached
    assert any("The target allows" in caveat for caveat in found.run.caveats)
    assert found.run.tuned_search is not None


@pytest.mark.slow
def test_weights_that_half_precision_would_spoil_are_stored_whole(
    digits_cnn: nn.Module, digits: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spoiled(model: nn.Module, **_: object) -> nn.Module:
        copied = copy.deepcopy(model)
        with torch.no_grad():
            next(copied.parameters()).zero_()
        return copied

    monkeypatch.setattr("tersenet.pack.as_stored", spoiled)
    found = apply(digits_cnn, Policy(), data=digits, seed=0, options=quick(finetune_epochs=0))
    weight = next(iter(found.model.parameters()))
    torch.testing.assert_close(weight, next(iter(digits_cnn.parameters())), rtol=0, atol=0)  # fp32, bit for bit
    assert found.policy.storage == {}
    assert any("stored as fp32" in caveat for caveat in found.run.caveats)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"recipe": "he2081"}, UnknownNameError, "Did you mean 'he2018'"),
        ({"target": Target(max_macs_ratio=0.001)}, TargetError, "cannot be reached"),
        ({"target": Target(max_macs_ratio=0.5, max_top1_drop=1.0)}, TargetError, "reference_top1"),
        ({"options": quick(recipe_options={"criterion": "geometric_mean"})}, UnknownNameError, "geometric_median"),
        ({"options": quick(recipe_options={"criterio": "l1"})}, UnknownNameError, "Did you mean 'criterion'"),
        ({"options": quick(controls=("uniforn",))}, UnknownNameError, "Did you mean 'uniform'"),
        ({"options": quick(trials=0)}, SearchError, "trials=0"),
    ],
)
def test_bad_requests_are_refused_before_anything_runs(
    arguments: dict[str, object], error: type[Exception], message: str, digits_cnn: nn.Module, digits: Data
) -> None:
    given: dict[str, object] = {"data": digits, "target": HALF, "seed": 0, "options": quick()} | arguments
    with pytest.raises(error, match=message):
        compress(digits_cnn, **given)  # type: ignore[arg-type]


def test_weights_that_are_not_numbers_are_refused(digits_cnn: nn.Module, digits: Data) -> None:
    with torch.no_grad():
        next(digits_cnn.parameters())[0] = float("nan")
    with pytest.raises(ModelError, match="NaN"):
        compress(digits_cnn, data=digits, target=HALF, seed=0, options=quick())


def test_a_network_without_anything_to_cut_is_refused(digits: Data) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(ModelError, match=r"[Nn]o channel group"):
        compress(model, data=digits, target=HALF, seed=0, options=quick())


def test_a_policy_of_another_network_is_refused(digits_cnn: nn.Module, digits: Data) -> None:
    policy = Policy(channels={"nowhere": ChannelDecision(pruning_ratio=0.5)})
    with pytest.raises(PolicyError, match="nowhere"):
        apply(digits_cnn, policy, data=digits, seed=0, options=quick())


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"trials": 5}, UnknownNameError, "No option of apply is called 'trials'"),
        ({"asignments": "fixed"}, UnknownNameError, "Did you mean 'assignments'"),
        ({"distill_weight": 2.0}, SearchError, r"distill_weight=2.0 of apply: .* Options: assignments, criterion"),
    ],
)
def test_a_setting_that_building_a_policy_does_not_have_is_refused_as_its_own(
    settings: dict[str, object], error: type[Exception], message: str, digits_cnn: nn.Module, digits: Data
) -> None:
    with pytest.raises(error, match=message):
        apply(digits_cnn, Policy(), data=digits, seed=0, options=quick(recipe_options=settings))


def test_a_number_of_epochs_out_of_range_is_not_said_to_be_a_recipes(digits_cnn: nn.Module, digits: Data) -> None:
    with pytest.raises(SearchError, match="finetune_epochs=-1 of apply"):
        apply(digits_cnn, Policy(), data=digits, seed=0, options=quick(finetune_epochs=-1))


@pytest.mark.slow
def test_fine_tuning_that_does_harm_is_not_delivered(digits_cnn: nn.Module, digits: Data) -> None:
    bias = dict(digits_cnn.named_parameters())["linear.bias"].detach().clone()

    def nearness(model: nn.Module, batches: object) -> float:  # best before any training
        return -float((dict(model.named_parameters())["linear.bias"] - bias).abs().sum())

    task = Task(metric=nearness, metric_name="nearness")
    options = quick(trials=1, finetune_epochs=1, controls=(), task=task, recipe_options={"storage": "fp32"})
    found = compress(digits_cnn, data=digits, target=HALF, recipe="uniform", seed=0, options=options)
    assert found.run.epochs[0].quality < 0.0
    assert found.run.compressed.score == 0.0
    assert any(caveat.startswith("No epoch of fine-tuning") for caveat in found.run.caveats)


def test_evaluate_takes_the_packed_file_alone(run: Result, tmp_path: Path, digits_cnn: nn.Module, digits: Data) -> None:
    alone = tmp_path / "model.tersenet"
    alone.write_bytes((run.folder / "model.tersenet").read_bytes())
    found = evaluate(alone, digits_cnn, data=digits)
    assert found.metrics.top1 == run.run.compressed.top1
    assert found.onnx is None
