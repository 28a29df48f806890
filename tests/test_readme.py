"""What the README shows: its commands parse, its Python runs, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import typer
from torch import nn

import tersenet as tn
from tersenet import models, recipes
from tersenet.api import CompressOptions, Result, compress
from tersenet.cli.main import app
from tersenet.data import Data

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """The lines that start the program, those that a backslash continues as one."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if re.match(r"\s*(\$\(BIN\)/)?tersenet ", line)]


def parsed(line: str) -> Any:
    """The context of a line's command: its options are read and checked, but it is not run.

    Any, since typer keeps its copy of click to itself.
    """
    words = shlex.split(line, comments=True)[1:]
    group: Any = typer.main.get_command(app)
    with group.make_context("tersenet", ["recipes"]) as root:
        name, command, rest = group.resolve_command(root, words)
        return command.make_context(name, rest, parent=root)


SHOWN = [line for language, block in BLOCKS if language != "python" for line in commands(block)]


@pytest.mark.parametrize("line", SHOWN)
def test_a_command_of_the_readme_parses(line: str) -> None:
    assert parsed(line).command.name in line


def test_the_readme_shows_the_commands_that_matter() -> None:
    assert {shlex.split(line)[1] for line in SHOWN} >= {"compress", "apply", "evaluate", "inspect"}


def test_a_command_with_a_wrong_option_would_be_noticed() -> None:
    with pytest.raises(Exception, match="No such option"):
        parsed("tersenet compress resnet20 --max-mac-ratio 0.5")
    with pytest.raises(Exception, match="No such command"):
        parsed("tersenet compres resnet20")


def test_the_demo_of_the_makefile_parses_and_writes_where_the_readme_says() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (line,) = commands(makefile)
    assert f"{parsed(line).params['out']}/report.html" in README


@pytest.mark.parametrize("target", re.findall(r"^make (\w+)", README, flags=re.MULTILINE))
def test_a_make_target_of_the_readme_exists(target: str) -> None:
    assert f"\n{target}: " in (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("link", re.findall(r"\]\(([^)#:]+)\)", README))
def test_a_link_leads_to_a_file(link: str) -> None:
    assert (ROOT / link).exists()


def test_every_recipe_is_in_the_table_and_every_name_of_the_table_is_a_recipe() -> None:
    section = README.split("## Recipes")[1].split("\n\nDesign:")[0]
    rows = [row.split("|")[1] for row in section.splitlines() if row.startswith("| `")]
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == set(recipes.names())


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(128, 3)
    )


def few_images() -> Data:
    generator = torch.Generator().manual_seed(0)
    batches = [(torch.randn(16, 1, 6, 6, generator=generator), torch.arange(16) % 3) for _ in range(2)]
    return tn.data.from_batches(batches, batches, batches)


@pytest.mark.slow
def test_the_python_of_the_readme_runs(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Line by line as it stands; network, weights and data are small stand-ins, and the search is short."""

    def quick(model: nn.Module, **given: object) -> Result:
        options = CompressOptions(trials=2, finetune_epochs=1, controls=())
        return compress(model, options=options, **given)  # type: ignore[arg-type]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(models, "build", lambda name: small_net())
    monkeypatch.setattr(models, "load_weights", lambda model, path: None)
    monkeypatch.setattr(tn.data, "cifar10", lambda path: few_images())
    monkeypatch.setattr(tn, "compress", quick)
    (block,) = [block for language, block in BLOCKS if language == "python"]
    found: dict[str, object] = {}
    exec(compile(block, "README.md", "exec"), found)
    assert "MACs" in capsys.readouterr().out
    delivered, loaded = found["result"], found["small"]
    assert isinstance(delivered, Result)
    assert isinstance(loaded, nn.Module)
    images = few_images().example_inputs()[0]
    with torch.no_grad():
        torch.testing.assert_close(loaded.eval()(images), delivered.model(images), rtol=0, atol=0)
    assert {path.name for path in (tmp_path / "runs" / "r20").iterdir()} >= {
        "model.tersenet",
        "model.onnx",
        "report.html",
    }
