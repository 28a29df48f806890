"""``tersenet compress``: what is typed reaches the api, and what comes back reaches the right stream."""

from __future__ import annotations

import json
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from cli_runs import FACTORY, Calls, FakeResult, small_inspection, small_run
from typer.testing import CliRunner, Result

from tersenet import api
from tersenet.cli.main import app
from tersenet.core.summary import Inspection, RunSummary
from tersenet.core.target import Target
from tersenet.models import load_model, save_weights


@dataclass
class Stage:
    """The command line with a replaced api, in an empty folder."""

    compress: Calls
    inspect: Calls

    def run(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, ["compress", *arguments])

    @property
    def options(self) -> Any:
        return self.compress.only["options"]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Stage:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(FACTORY)
    stage = Stage(compress=Calls(FakeResult(small_run())), inspect=Calls(small_inspection()))
    monkeypatch.setattr(api, "compress", stage.compress.function)
    monkeypatch.setattr(api, "inspect", stage.inspect.function)
    return stage


def test_bounds_become_the_target_and_the_rest_becomes_options(stage: Stage) -> None:
    result = stage.run(
        "net.py:make", "--max-macs-ratio", "0.5", "--max-size-bytes", "9000", "--max-top1-drop", "1.5", "--minimize",
        "params", "--trials", "7", "--finetune-epochs", "0", "--seed", "3", "--out", "here", "--reference-top1", "91.5",
        "--set", "criterion=l2", "--set", "lower_bound=0.3", "--set", "prune-residual=true",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    call = stage.compress.only
    assert call["target"] == Target(max_macs_ratio=0.5, max_size_bytes=9000, max_top1_drop=1.5, minimize="params")
    assert (call["recipe"], call["seed"], call["data"].name) == ("he2018", 3, "digits")
    assert (stage.options.trials, stage.options.finetune_epochs) == (7, 0)
    assert stage.options.recipe_options == {"criterion": "l2", "lower_bound": 0.3, "prune_residual": True}
    assert (stage.options.out, stage.options.reference_top1) == (Path("here"), 91.5)
    assert stage.options.model_name == "make"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], ("uniform",)),
        (["--controls", "none"], ()),
        (["--controls", "random, uniform,random"], ("random", "uniform")),
    ],
)
def test_controls_are_names_or_none(stage: Stage, given: list[str], expected: tuple[str, ...]) -> None:
    stage.run("net.py:make", "--max-macs-ratio", "0.5", *given)
    assert stage.options.controls == expected


def test_all_controls_are_all_that_are_controls_but_the_one_searched_with(stage: Stage) -> None:
    stage.run("net.py:make", "--max-macs-ratio", "0.5", "--recipe", "random", "--controls", "all")
    assert stage.options.controls == ("cem", "cmaes", "greedy", "tpe", "uniform")


def test_all_leaves_out_what_is_not_installed_with_a_note(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tersenet.recipes.recipe.find_spec", lambda library: None)
    done = stage.run("net.py:make", "--max-macs-ratio", "0.5", "--controls", "all")
    assert stage.options.controls == ("cem", "greedy", "random", "uniform")
    assert "note: the control tpe is skipped. This needs optuna and cmaes, which is not installed." in done.stderr
    assert "pip install 'tersenet[optuna]'" in done.stderr


def test_a_control_that_was_named_and_is_not_installed_is_refused(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tersenet.recipes.recipe.find_spec", lambda library: None)
    done = stage.run("net.py:make", "--max-macs-ratio", "0.5", "--controls", "uniform,tpe")
    assert done.exit_code == 2
    assert "pip install 'tersenet[optuna]'" in done.stderr


def test_weights_are_taken_to_have_seen_the_search_split_unless_said_otherwise(stage: Stage) -> None:
    stage.run("net.py:make", "--max-macs-ratio", "0.5")
    assert stage.options.weights_saw_search is True
    stage.compress.made.clear()
    stage.run("net.py:make", "--max-macs-ratio", "0.5", "--unseen-search-split")
    assert stage.options.weights_saw_search is False


def test_weights_of_a_file_are_loaded_before_anything_runs(stage: Stage, tmp_path: Path) -> None:
    model = load_model(f"{tmp_path / 'net.py'}:make")
    with torch.no_grad():
        next(model.parameters()).fill_(0.25)
    save_weights(model, tmp_path / "w.safetensors", metadata={"tersenet.trained_on_split": "train"})
    stage.run("net.py:make", "--weights", "w.safetensors", "--max-macs-ratio", "0.5")
    loaded = stage.compress.only["positional"][0]
    assert torch.equal(next(loaded.parameters()), torch.full((4, 1, 3, 3), 0.25))
    assert stage.options.weights_saw_search is False
    assert stage.options.weights.trained_on == "train"


def test_the_users_metric_and_loss_are_imported(stage: Stage, tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(
        "def recall(model, batches): return 0.5\ndef mse(outputs, targets): return outputs"
    )
    stage.run("net.py:make", "--max-macs-ratio", "0.5", "--metric", "task.py:recall", "--loss", "task.py:mse")
    assert stage.options.task.metric_name == "recall"
    assert stage.options.task.metric(None, []) == 0.5
    assert stage.options.task.loss(4, None) == 4


def test_the_recorded_command_is_the_one_that_was_typed_without_defaults(stage: Stage) -> None:
    stage.run(
        "--max-macs-ratio", "0.5", "net.py:make", "--unseen-search-split", "--set", "criterion=l2", "--out", "a b"
    )
    words = shlex.split(stage.options.command)
    assert words[:3] == ["tersenet", "compress", "net.py:make"]
    assert sorted(words[3:]) == sorted(
        ["--max-macs-ratio", "0.5", "--unseen-search-split", "--set", "criterion=l2", "--out", "a b"]
    )


def test_without_a_folder_each_request_has_its_own(stage: Stage) -> None:
    for ratio in ("0.5", "0.4"):
        stage.run("net.py:make", "--max-macs-ratio", ratio)
    folders = [call["options"].out for call in stage.compress.made]
    assert folders == [Path("runs/make_he2018_macs-ratio-0.5_seed-0"), Path("runs/make_he2018_macs-ratio-0.4_seed-0")]


def test_the_first_screen_comes_before_the_result_and_names_the_reason_of_a_lock(stage: Stage) -> None:
    output = stage.run("net.py:make", "--max-macs-ratio", "0.5").stdout
    first, last = output.index("50.0 % of MACs: reachable"), output.index("Measure them again with:")
    assert output.index("[feeds] the output") < first < last
    assert "predicted time: search 60 s, fine-tuning 5 min" in output
    assert "cut network equals zeroed network: 3e-07" in output
    assert "Search accuracies are optimistic." in output
    # 400 original bytes / 200 packed bytes
    assert "2.00x" in output


def test_a_dry_run_spends_nothing(stage: Stage) -> None:
    result = stage.run("digits_cnn", "--max-macs-ratio", "0.5", "--dry-run")
    assert result.exit_code == 0
    assert stage.compress.made == []
    assert "reachable" in result.stdout


def test_a_dry_run_of_an_unreachable_target_is_a_bad_request(stage: Stage) -> None:
    stage.inspect.answer = small_inspection(smallest=700.0)
    result = stage.run("digits_cnn", "--max-macs-ratio", "0.5", "--dry-run")
    assert result.exit_code == 2
    assert "smallest possible is 70.0 %" in result.stderr


def test_json_is_the_only_thing_on_stdout(stage: Stage) -> None:
    result = stage.run("net.py:make", "--max-macs-ratio", "0.5", "--json")
    assert RunSummary.model_validate_json(result.stdout) == small_run()
    assert stage.inspect.made == []
    dry = stage.run("net.py:make", "--max-macs-ratio", "0.5", "--json", "--dry-run")
    assert Inspection.model_validate_json(dry.stdout) == small_inspection()
    json.loads(dry.stdout)


def test_a_missed_target_ends_with_one(stage: Stage) -> None:
    stage.compress.answer = FakeResult(small_run(), target_reached=False)
    result = stage.run("net.py:make", "--max-macs-ratio", "0.5")
    assert result.exit_code == 1
    assert "not reached" in result.stderr
    assert "Measure them again" in result.stdout


def test_an_untrained_network_is_refused_before_it_is_looked_at(stage: Stage) -> None:
    result = stage.run("digits_cnn", "--max-macs-ratio", "0.5")
    assert result.exit_code == 2
    assert "--weights" in result.stderr
    assert "--train-epochs" in result.stderr
    assert stage.inspect.made == []


def test_a_base_can_be_trained_on_the_spot(stage: Stage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def train(model: Any, *, data: Any, seed: int, epochs: int, out: Path, options: Any) -> Any:
        assert (epochs, out) == (2, Path("o/base"))
        with torch.no_grad():
            next(model.parameters()).fill_(0.5)
        save_weights(model, out / "weights.safetensors", metadata={"tersenet.trained_on_split": "train"})
        return api.TrainResult(weights=out / "weights.safetensors", epochs=(), metrics=small_run().dense, seconds=1.0)

    monkeypatch.setattr(api, "train", train)
    result = stage.run("digits_cnn", "--max-macs-ratio", "0.5", "--train-epochs", "2", "--out", "o")
    assert result.exit_code == 0, result.output
    assert bool((next(stage.compress.only["positional"][0].parameters()) == 0.5).all())
    assert stage.options.weights_saw_search is False


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["net.py:make"], "at least one bound"),
        (["net.py:make", "--max-macs-ratio", "1.5"], "max_macs_ratio=1.5"),
        (["net.py:make", "--max-macs-ratio", "0.5", "--max-latency-ms", "3"], "max_latency_ms cannot be used yet"),
        (["net.py:make", "--max-macs-ratio", "0.5", "--recipe", "he2081"], "Did you mean 'he2018'"),
        (["net.py:make", "--max-macs-ratio", "0.5", "--controls", "unifrom"], "Did you mean 'uniform'"),
        (["net.py:make", "--max-macs-ratio", "0.5", "--set", "criterium=l2"], "criterium"),
        (["net.py:make", "--max-macs-ratio", "0.5", "--device", "tpu"], "tpu"),
        (["net.py:maker", "--max-macs-ratio", "0.5"], "Did you mean 'make'"),
        (["vgg_small_mnits", "--max-macs-ratio", "0.5"], "Did you mean 'vgg_small_mnist'"),
        (["net.py:make", "--max-macs-ratio", "0.5", "--data", "cifar10"], "TERSENET_DATA"),
        (["net.py:make", "--max-macs-ratio", "0.5", "--weights", "none.safetensors"], "none.safetensors"),
        (["net.py:make", "--max-macs-ratio", "0.5", "--metric", "net.py:nn"], "must be a function"),
    ],
)
def test_a_bad_request_is_one_line_and_ends_with_two(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, arguments: list[str], said: str
) -> None:
    monkeypatch.delenv("TERSENET_DATA", raising=False)
    result = stage.run(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stderr.startswith("tersenet: ")
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""
    assert stage.compress.made == []


@pytest.mark.parametrize(
    "arguments",
    [
        ["--set", "criterion"],
        ["--set", "=l2"],
        ["--trials", "0"],
        ["--train-epochs", "1", "--weights", "w"],
        ["--bogus"],
    ],
)
def test_a_usage_error_ends_with_two_as_well(stage: Stage, arguments: list[str]) -> None:
    result = stage.run("net.py:make", "--max-macs-ratio", "0.5", *arguments)
    assert result.exit_code == 2
    assert "Usage:" in result.stderr
    assert stage.compress.made == []
