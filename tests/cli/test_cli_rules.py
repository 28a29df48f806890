"""Rules from a file, criteria of the user's own, and formats to export: from the command line to the api."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_runs import FACTORY, Calls, FakeResult, small_inspection, small_run
from typer.testing import CliRunner, Result

from tersenet import api, criteria
from tersenet.cli.main import app
from tersenet.core.rules import ChannelRule, ChannelRules

RULES = ChannelRules(
    everything=ChannelRule(round_to=8),
    by_type={"linear": ChannelRule(lower_bound=0.5)},
    by_name={"head.*": None, "body": ChannelRule(pruning_ratio=0.25, criterion="l2")},
)
TOML = """
everything = {round_to = 8}

[by_type]
linear = {lower_bound = 0.5}

[by_name]
"head.*" = false
body = {pruning_ratio = 0.25, criterion = "l2"}
"""


@pytest.fixture(autouse=True)
def _place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(FACTORY)
    (tmp_path / "rules.toml").write_text(TOML)
    (tmp_path / "rules.json").write_text(RULES.model_dump_json())


def _run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("file", ["rules.toml", "rules.json"])
def test_rules_are_read_from_toml_and_json(monkeypatch: pytest.MonkeyPatch, file: str) -> None:
    calls = Calls(small_inspection())
    monkeypatch.setattr(api, "inspect", calls.function)
    result = _run("inspect", "net.py:make", "--input-shape", "1,8,8", "--rules", file)
    assert result.exit_code == 0, result.output
    assert calls.only["options"].rules == RULES


def test_rules_and_formats_reach_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    compress, inspect = Calls(FakeResult(small_run())), Calls(small_inspection())
    monkeypatch.setattr(api, "compress", compress.function)
    monkeypatch.setattr(api, "inspect", inspect.function)
    result = _run(
        "compress", "net.py:make", "--max-macs-ratio", "0.5", "--rules", "rules.toml", "--export", "int8, int8"
    )
    assert result.exit_code == 0, result.output
    for call in (compress.only, inspect.only):
        assert call["options"].rules == RULES
    assert compress.only["options"].export == ("int8",)


@pytest.mark.parametrize(
    ("content", "name", "said"),
    [
        ("by_name = {head = {round = 8}}", "bad.toml", "by_name.head.round: Extra inputs"),
        ("by_type = {relu = {round_to = 8}}", "bad.toml", "'conv', 'conv_transpose' or 'linear'"),
        ("by_name = {", "bad.toml", "is not TOML"),
        ('{"by_name": ', "bad.json", "is not JSON"),
        ('{"by_name": {"head": {"lower_bound": 0}}}', "bad.json", "by_name.head.lower_bound"),
    ],
)
def test_a_bad_rule_file_is_refused_in_one_line(content: str, name: str, said: str) -> None:
    Path(name).write_text(content)
    result = _run("inspect", "net.py:make", "--input-shape", "1,8,8", "--rules", name)
    assert result.exit_code == 2
    assert result.stderr.count("\n") == 1
    assert said in result.stderr
    assert f"--rules {name}" in result.stderr


def test_a_rule_file_that_is_not_there_and_a_format_that_is_unknown_are_refused() -> None:
    missing = _run("inspect", "net.py:make", "--input-shape", "1,8,8", "--rules", "none.toml")
    assert (missing.exit_code, "there is no file none.toml" in missing.stderr) == (2, True)
    unknown = _run("compress", "net.py:make", "--max-macs-ratio", "0.5", "--export", "int4")
    assert (unknown.exit_code, "Did you mean 'int8'" in unknown.stderr) == (2, True)


def test_a_criterion_from_a_file_is_known_where_a_policy_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("mine.py").write_text("def score(weight):\n    return weight.sum(dim=1)\n")
    Path("p.json").write_text(json.dumps({"channels": {"0": {"pruning_ratio": 0.5, "criterion": "mine.py:score"}}}))
    calls = Calls(FakeResult(small_run()))
    monkeypatch.setattr(api, "apply", calls.function)
    result = _run("apply", "p.json", "net.py:make", "--criterion", "mine.py:score", "--export", "int8")
    assert result.exit_code == 0, result.output
    assert calls.only["options"].export == ("int8",)
    assert "mine.py:score" in criteria.own()


def test_inspect_lists_bytes_and_the_counts_of_every_group(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = small_inspection()
    free = seen.groups[0].model_copy(update={"reason": "", "min_kept": 2, "max_kept": 4, "round_to": 1})
    monkeypatch.setattr(api, "inspect", Calls(seen.model_copy(update={"groups": (free,)})).function)
    text = _run("inspect", "net.py:make", "--input-shape", "1,8,8").stdout
    lines = [line.split() for line in text.splitlines()]
    # 40 parameters of 4 bytes
    assert ["conv", "1,000", "100.0", "%", "40", "40.0", "%", "160", "conv", "4x1x3x3"] in lines
    assert ["conv", "4", "2", "4", "1", "conv"] in lines
