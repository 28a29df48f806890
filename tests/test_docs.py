"""What the guides show: their programs run, their commands are read or run, what they say of recipes is true."""

from __future__ import annotations

import importlib.util
import json
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
import torch
from docs_pages import GUIDES, ROOT, blocks, links, parsed, rows, sections, shown, text_of
from torch import nn
from typer.testing import CliRunner

from tersenet import recipes
from tersenet.cli.main import app
from tersenet.core.rules import ChannelRules
from tersenet.recipes.recipe import ChannelConfig, StorageConfig

METHODS = text_of("docs/methods.md")


@pytest.mark.parametrize(
    "guide",
    [
        pytest.param("your-own-network", marks=pytest.mark.slow),
        pytest.param("reading-the-report", marks=pytest.mark.slow),
        "methods",
        "vocabulary",
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_python_of_a_guide_runs_from_top_to_bottom(
    guide: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    program = "\n".join(block for language, block in blocks(text_of(f"docs/{guide}.md")) if language == "python")
    assert program
    exec(compile(program, f"docs/{guide}.md", "exec"), {"__name__": "guide"})


def test_every_guide_is_linked_from_both_readmes() -> None:
    for readme in ("README.md", "README.zh-CN.md"):
        assert {f"docs/{guide}.md" for guide in (*GUIDES, "torch-pruning")} <= set(links(text_of(readme)))


@pytest.mark.parametrize(
    "line",
    [line for guide in GUIDES for line in shown(f"docs/{guide}.md") if "--input-shape" in line or "recipes" in line],
)
def test_a_command_that_needs_no_data_runs(line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = CliRunner().invoke(app, [word.strip() for word in line.split()[1:]])
    assert found.exit_code == 0, found.output


def test_the_rule_file_says_what_the_python_beside_it_says() -> None:
    page = text_of("docs/your-own-network.md")
    (file,) = [block for language, block in blocks(page) if language == "toml"]
    (program,) = [block for language, block in blocks(page) if language == "python" and "rules = " in block]
    found: dict[str, object] = {}
    exec(program[: program.index("for group")], found)
    assert ChannelRules.model_validate(tomllib.loads(file)) == found["rules"]


def test_every_recipe_has_a_section_of_its_own() -> None:
    assert set(recipes.names()) <= set(sections(METHODS))


@pytest.mark.parametrize("name", recipes.names())
def test_the_options_of_a_recipe_are_all_there_with_their_defaults(name: str) -> None:
    config = recipes.get(name).config_type
    told = {row[0].strip("`"): row[1].strip("`") for row in rows(sections(METHODS)[name]) if row[0].startswith("`")}
    defaults = config().model_dump(mode="json")
    shared = {field for field in ChannelConfig.model_fields if defaults[field] == ChannelConfig().model_dump()[field]}
    stored = {"pruning_ratio", "fewest", "most", "powers_of_two"} & set(StorageConfig.model_fields)
    own = set(config.model_fields) - shared
    assert set(told) <= set(config.model_fields)
    assert own - stored <= set(told)
    for option, default in told.items():
        assert default == _shown(defaults[option]), option


def test_the_options_of_every_recipe_are_told_once() -> None:
    table = rows(sections(METHODS)["What all share"])
    told = {row[0].strip("`"): row[1].strip("`") for row in table if row[0].startswith("`")}
    assert told == {field: _shown(default) for field, default in ChannelConfig().model_dump(mode="json").items()}


def test_reasons_for_locks_are_those_of_the_source() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "src/tersenet").rglob("*.py"))
    section = sections(text_of("docs/your-own-network.md"))["What is locked, and how to unlock it"]
    told = [reason for row in rows(section) for reason in re.findall(r"`([^`]+)`", row[0])]
    assert len(told) >= 8
    for reason in told:
        assert all(part.strip(" :") in source for part in reason.split("...")), reason


def test_a_misspelt_option_in_a_guide_would_be_noticed() -> None:
    line = next(line for line in shown("docs/methods.md") if "--recipe" in line)
    assert parsed(line).params["recipe"] == "layerwise"
    with pytest.raises(Exception, match="No such option"):
        parsed(line.replace("--recipe", "--recipee"))


@pytest.fixture(scope="module")
def beside() -> ModuleType:
    """The benchmark that makes docs/torch-pruning.md; importing it does not need that library."""
    spec = importlib.util.spec_from_file_location(
        "against_torch_pruning", ROOT / "benchmarks" / "against_torch_pruning.py"
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_beside_torch_pruning_is_made_of_the_results(beside: ModuleType) -> None:
    stored = json.loads((ROOT / "benchmarks" / "results" / "torch_pruning.json").read_text())
    assert beside.PAGE.read_text() == beside.page(stored["rows"], command=stored["command"])
    networks = {(row["suite"], row["network"]) for row in stored["rows"]}
    assert ("cifar", "resnet20_option_a") in networks
    assert len(stored["rows"]) == 2 * len(networks)  # both libraries on each


def test_zeroed_is_what_is_not_left_of_a_network_that_was_cut(beside: ModuleType) -> None:
    torch.manual_seed(0)
    first, second = nn.Linear(3, 4), nn.Linear(4, 2)
    positions = beside.numbered(nn.Sequential(first, second))
    positions[0].weight = nn.Parameter(positions[0].weight[[0, 2]])
    positions[0].bias = nn.Parameter(positions[0].bias[[0, 2]])
    positions[1].weight = nn.Parameter(positions[1].weight[:, [0, 2]])
    found = beside.zeroed(nn.Sequential(first, second), positions)
    stays = torch.tensor([1.0, 0.0, 1.0, 0.0])  # channels 1 and 3 went
    assert torch.equal(found[0].weight, first.weight * stays[:, None])
    assert torch.equal(found[0].bias, first.bias * stays)
    assert torch.equal(found[1].weight, second.weight * stays)
    assert torch.equal(found[1].bias, second.bias)


def _shown(default: object) -> str:
    return default if isinstance(default, str) else json.dumps(default)
