"""The smaller commands: apply, train, inspect, recipes, evaluate, report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from cli_runs import FACTORY, Calls, FakeResult, small_inspection, small_run
from typer.testing import CliRunner, Result

from tersenet import api, recipes
from tersenet.cli.main import app
from tersenet.core.metrics import Metrics
from tersenet.core.policy import Policy
from tersenet.core.summary import Inspection
from tersenet.core.target import Target
from tersenet.report import to_json


@pytest.fixture(autouse=True)
def _folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(FACTORY)


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def _replace(monkeypatch: pytest.MonkeyPatch, name: str, answer: object) -> Calls:
    calls = Calls(answer)
    monkeypatch.setattr(api, name, calls.function)
    return calls


def test_apply_hands_on_the_policy_of_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    calls = _replace(monkeypatch, "apply", FakeResult(small_run()))
    (tmp_path / "p.json").write_text('{"channels": {"0": {"keep": [0, 2]}}}')
    result = _run(
        "apply",
        "p.json",
        "net.py:make",
        "--finetune-epochs",
        "3",
        "--set",
        "assignments=straight_through",
        "--out",
        "o",
    )
    assert result.exit_code == 0, result.output
    assert calls.only["positional"][1] == Policy.model_validate({"channels": {"0": {"keep": (0, 2)}}})
    assert calls.only["options"].finetune_epochs == 3
    assert calls.only["options"].recipe_options == {"assignments": "straight_through"}
    assert calls.only["options"].command.startswith("tersenet apply p.json net.py:make")
    assert "Measure them again" in result.stdout


@pytest.mark.parametrize("text", ["{", "[]", '{"channels": {"0": {"pruning_ratio": 1.5}}}', '{"chanels": {}}'])
def test_a_file_that_is_no_policy_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "p.json").write_text(text)
    result = _run("apply", "p.json", "net.py:make")
    assert result.exit_code == 2
    assert result.stderr.startswith("tersenet: p.json is not a policy: ")
    assert result.stderr.count("\n") == 1


def test_train_passes_only_what_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    trained = api.TrainResult(weights=Path("b/w.safetensors"), epochs=(), metrics=small_run().dense, seconds=2.0)
    calls = _replace(monkeypatch, "train", trained)
    result = _run("train", "net.py:make", "--epochs", "5", "--learning-rate", "0.02", "--out", "b")
    assert result.exit_code == 0, result.output
    options = calls.only["options"]
    assert (calls.only["epochs"], options.learning_rate) == (5, 0.02)
    assert options.batch_size == api.TrainOptions().batch_size
    assert "tersenet compress net.py:make --weights b/w.safetensors" in result.stdout
    facts = json.loads(_run("train", "net.py:make", "--epochs", "5", "--json").stdout)
    assert facts["metrics"]["top1"] == 90.0


def test_inspect_takes_shapes_instead_of_data(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = _replace(monkeypatch, "inspect", small_inspection())
    result = _run(
        "inspect", "net.py:make", "--input-shape", "1,8,8", "--input-shape", "3", "--max-params", "50", "--json"
    )
    assert Inspection.model_validate_json(result.stdout) == small_inspection()
    assert [tuple(tensor.shape) for tensor in calls.only["example_inputs"]] == [(2, 1, 8, 8), (2, 3)]
    assert calls.only["target"] == Target(max_params=50)
    assert calls.only["data"] is None


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "either --data SPEC or --input-shape"),
        (["--input-shape", "1,8,8", "--data", "digits"], "either --data SPEC or --input-shape"),
        (["--input-shape", "1,x,8"], "3,32,32"),
        (["--input-shape", "1,0,8"], "3,32,32"),
    ],
)
def test_inspect_says_how_inputs_are_given(arguments: list[str], said: str) -> None:
    result = _run("inspect", "net.py:make", *arguments)
    assert result.exit_code == 2
    assert said in result.stderr


def test_every_recipe_is_listed_with_source_and_defaults() -> None:
    text = _run("recipes").stdout
    facts = json.loads(_run("recipes", "--json").stdout)
    assert set(facts) == set(recipes.names())
    assert "arXiv:1802.03494" in text
    for name in recipes.names():
        assert name in text
    assert facts["he2018"]["defaults"]["criterion"] in text


def test_evaluate_shows_the_packed_and_the_onnx_file(monkeypatch: pytest.MonkeyPatch) -> None:
    found = api.EvaluateResult(
        metrics=Metrics(top1=88.4, num_samples=500, split="test"),
        size_bytes=12345,
        onnx=Metrics(top1=88.2, num_samples=500, split="test"),
    )
    calls = _replace(monkeypatch, "evaluate", found)
    result = _run("evaluate", "runs/r", "net.py:make", "--data", "digits")
    assert result.exit_code == 0, result.output
    assert calls.only["positional"][0] == Path("runs/r")
    for piece in ("88.40 %", "88.20 %", "12,345", "500 (test)"):
        assert piece in result.stdout
    facts: dict[str, Any] = json.loads(_run("evaluate", "runs/r", "net.py:make", "--json").stdout)
    assert facts["packed file"]["size_bytes"] == 12345


def test_report_draws_the_page_again(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text(to_json(small_run(model="my net")))
    assert _run("report", ".").exit_code == 0
    assert "my net keeps 40.0 % of its multiply-accumulates" in (tmp_path / "report.html").read_text()
    assert _run("report", "result.json", "--out", "other.html").stdout.strip() == "other.html"
    assert (tmp_path / "other.html").read_bytes() == (tmp_path / "report.html").read_bytes()


def test_a_damaged_result_is_refused_and_the_old_page_stays(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("old")
    (tmp_path / "result.json").write_text('{"version": ')
    result = _run("report", ".")
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert (tmp_path / "report.html").read_text() == "old"


@pytest.mark.slow
def test_a_first_minute_from_training_to_measuring_again(tmp_path: Path) -> None:
    fast = ["--trials", "3", "--finetune-epochs", "1", "--out", "r", "--json"]
    done = _run("compress", "digits_cnn", "--train-epochs", "2", "--max-macs-ratio", "0.5", *fast)
    assert done.exit_code == 0, done.output
    run = json.loads(done.stdout)
    assert run["compressed"]["macs"] <= 0.5 * run["dense"]["macs"]
    assert run["compressed"]["size_bytes"] == (tmp_path / "r" / "model.tersenet").stat().st_size
    again = json.loads(_run("evaluate", "r", "digits_cnn", "--data", "digits", "--json").stdout)
    assert again["packed file"]["top1"] == run["compressed"]["top1"]
    assert "<svg" in (tmp_path / "r" / "report.html").read_text()
