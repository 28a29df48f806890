"""From words to objects: data names, settings, progress lines."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from tersenet.cli.inputs import resolve_data
from tersenet.cli.options import parse_settings
from tersenet.cli.progress import BarProgress, LineProgress


def test_bare_names_are_looked_for_in_the_folder_of_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERSENET_DATA", "/data")
    assert resolve_data("cifar10") == "cifar10:/data/cifar10"
    assert resolve_data("mnist") == "mnist:/data/mnist"
    assert resolve_data("mnist:/else") == "mnist:/else"
    assert resolve_data("digits") == "digits"


def test_bare_names_stay_as_they_are_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TERSENET_DATA", raising=False)
    assert resolve_data("cifar10") == "cifar10"


def test_settings_are_json_where_they_can_be() -> None:
    settings = ["trials=50", "lower-bound=0.25", "bootstrap=false", "criterion=l2", "name=a=b", "list=[1, 2]"]
    assert parse_settings(settings) == {
        "trials": 50,
        "lower_bound": 0.25,
        "bootstrap": False,
        "criterion": "l2",
        "name": "a=b",
        "list": [1, 2],
    }


def test_a_log_gets_one_line_when_a_stage_starts_and_one_when_it_ends(capsys: pytest.CaptureFixture[str]) -> None:
    progress = LineProgress()
    progress.start("search", 200, done=40)
    for done in range(41, 201):
        progress.update("search", done, {"best": f"{done}.00", "control": "51.50"})
    progress.note("conv1 was locked")
    progress.finish("search")
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = printed.err.splitlines()
    assert lines[0] == "search: started, 40 of 200 were done before"
    assert lines[1] == "note: conv1 was locked"
    assert lines[2].startswith("search: done in ")
    assert lines[2].endswith("best 200.00, control 51.50")
    assert len(lines) == 3


def test_a_terminal_gets_a_bar_with_counts_and_facts_and_user_text_is_no_markup() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=120, color_system=None, markup=False, highlight=False)
    progress = BarProgress(console)
    progress.start("search", 20, done=5)
    progress.update("search", 12, {"best": "[bold]64.10"})
    progress.note("[red]group")
    progress.finish("search")
    progress.start("fine-tune", 50_000)
    progress.update("fine-tune", 12_500, {"loss": "0.31"})
    progress.close()
    text = screen.getvalue()
    assert "12/20" in text
    assert "best [bold]64.10" in text
    assert "note: [red]group" in text
    assert "25 %" in text
    assert "loss 0.31" in text


def test_updates_of_a_stage_that_never_started_are_harmless() -> None:
    progress = BarProgress(Console(file=io.StringIO()))
    progress.update("search", 1, {})
    progress.finish("search")
    progress.close()
