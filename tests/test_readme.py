"""What the README shows: its commands parse, its Python runs, its links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import torch
from docs_pages import PAGES, ROOT, blocks, commands, headings, links, parsed, rows, sections, shown, text_of
from torch import nn

import tersenet as tn
from tersenet import models, recipes
from tersenet.api import CompressOptions, Result, compress
from tersenet.data import Data

README, CHINESE = text_of("README.md"), text_of("README.zh-CN.md")


@pytest.mark.parametrize("line", dict.fromkeys(line for page in PAGES for line in shown(page)))
def test_a_command_of_the_documentation_parses(line: str) -> None:
    assert parsed(line).command.name in line


def test_the_readme_shows_the_commands_that_matter() -> None:
    assert {shlex.split(line)[1] for line in shown("README.md")} >= {"compress", "apply", "evaluate", "inspect"}


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


@pytest.mark.parametrize("page", [*PAGES, "docs/design.md", "docs/torch-pruning.md"])
def test_links_lead_to_files(page: str) -> None:
    inside = [link for link in links(text_of(page)) if ":" not in link]
    assert [link for link in inside if not ((ROOT / page).parent / link).exists()] == []


def test_the_chinese_readme_says_the_same_with_the_same_code_numbers_and_links() -> None:
    assert headings(CHINESE) == headings(README)
    assert [_without_comments(block) for block in blocks(CHINESE)] == [
        _without_comments(block) for block in blocks(README)
    ]
    assert [_numbers(row) for row in rows(CHINESE)] == [_numbers(row) for row in rows(README)]
    other = {"README.md": "README.zh-CN.md", "README.zh-CN.md": "README.md"}
    assert sorted(other.get(link, link) for link in links(CHINESE)) == sorted(links(README))


@pytest.mark.parametrize("text", [README, CHINESE])
def test_each_readme_leads_to_the_other(text: str) -> None:
    assert len({"README.md", "README.zh-CN.md"} & set(links(text))) == 1


def _without_comments(block: tuple[str, str]) -> tuple[str, str]:
    language, code = block
    return language, "\n".join(re.sub(r"\s*#.*", "", line) for line in code.splitlines())


def _numbers(row: list[str]) -> list[list[str]]:
    """Cell by cell: numbers, and names in code, in any order."""
    return [sorted(re.findall(r"`[^`]*`|\d[\d,.]*\d|\d", cell)) for cell in row]


def test_every_recipe_is_in_the_table_and_every_name_of_the_table_is_a_recipe() -> None:
    firsts = [row[0] for row in rows(sections(README)["Recipes"])]
    assert {name for cell in firsts for name in re.findall(r"`(\w+)`", cell)} == set(recipes.names())


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
    (block,) = [block for language, block in blocks(README) if language == "python"]
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
