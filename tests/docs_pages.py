"""The pages of the documentation, taken apart: blocks of code, commands, links, headings, tables."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import typer

from tersenet.cli.main import app

ROOT = Path(__file__).parents[1]
GUIDES = ("your-own-network", "reading-the-report", "methods", "vocabulary")
"""Pages for users, in ``docs``."""

PAGES = ("README.md", "README.zh-CN.md", *(f"docs/{name}.md" for name in GUIDES))
"""Pages whose commands, code and links are tested, by their path."""


def text_of(page: str) -> str:
    """What a page says."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of every block of code."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands(text: str) -> list[str]:
    """The lines that start the program, those that a backslash continues as one."""
    lines = text.replace("\\\n", " ").splitlines()
    return [line.strip() for line in lines if re.match(r"\s*(\$\(BIN\)/)?tersenet ", line)]


def shown(page: str) -> list[str]:
    """The commands in the blocks of a page."""
    return [line for language, block in blocks(text_of(page)) if language != "python" for line in commands(block)]


def parsed(line: str) -> Any:
    """The context of a line's command: its options are read and checked, but it is not run.

    Any, since typer keeps its copy of click to itself.
    """
    words = shlex.split(line, comments=True)[1:]
    group: Any = typer.main.get_command(app)
    with group.make_context("tersenet", ["recipes"]) as root:
        name, command, rest = group.resolve_command(root, words)
        return command.make_context(name, rest, parent=root)


def links(text: str) -> list[str]:
    """Where links lead, in order, without the parts after ``#``."""
    return [link for link in re.findall(r"\]\(([^)#]+)", text) if link]


def sections(text: str) -> dict[str, str]:
    """Heading of the second level to what stands below it."""
    parts = re.split(r"^## (.*)$", _without_code(text), flags=re.MULTILINE)
    return {name.strip(): body for name, body in zip(parts[1::2], parts[2::2], strict=True)}


def headings(text: str) -> list[int]:
    """The levels of all headings, in order."""
    return [len(mark) for mark in re.findall(r"^(#+) ", _without_code(text), flags=re.MULTILINE)]


def rows(text: str) -> list[list[str]]:
    """Cells of all rows of tables."""
    lines = [line for line in _without_code(text).splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def _without_code(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
