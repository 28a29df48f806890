"""``tersenet recipes``: which methods there are, where they come from, and what can be set."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from tersenet.cli import options as given

if TYPE_CHECKING:
    from tersenet.recipes import Recipe


def recipes(as_json: given.AsJson = False) -> None:
    """List the methods with their sources and what `--set KEY=VALUE` can change."""
    import json

    from tersenet.recipes import get, names

    if as_json:
        typer.echo(json.dumps({name: _facts(get(name)) for name in names()}, indent=1))
        return
    for name in names():
        recipe = get(name)
        typer.echo(f"{recipe.name}: {recipe.summary}\n  source: {recipe.paper}")
        for field, default in _defaults(recipe).items():
            typer.echo(f"  --set {field}={default}")
        typer.echo()


def _facts(recipe: Recipe) -> dict[str, object]:
    return {"summary": recipe.summary, "paper": recipe.paper, "defaults": _defaults(recipe)}


def _defaults(recipe: Recipe) -> dict[str, object]:
    defaults: dict[str, object] = recipe.config_type().model_dump(mode="json")
    return defaults
