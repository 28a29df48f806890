"""``round_to="auto"``: probed once per run, kept with the run, and told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from tersenet import Target, recipes
from tersenet.api import CompressOptions, compress, inspect
from tersenet.cli.main import app
from tersenet.core.staircase import Probed, Staircase
from tersenet.data import Data
from tersenet.errors import SearchError, StudyError
from tersenet.graph import ModelGraph, trace
from tersenet.recipes import ChannelConfig
from tersenet.search import Study, kept_fact

HALF = Target(max_macs_ratio=0.5)
AUTO = {"round_to": "auto", "round_from": 1}


class Probes:
    """Answers every probe with another block."""

    def __init__(self, *blocks: int) -> None:
        self.left = list(blocks)

    def __call__(self, graph: ModelGraph) -> Staircase:
        probed = Probed(kernel_size=(3, 3), positions=(8, 8), times_ms={64: 1.0, 63: 2.0})
        return Staircase(round_to=self.left.pop(0), runtime="onnxruntime", probed=(probed,))


def probing(monkeypatch: pytest.MonkeyPatch, *blocks: int) -> Probes:
    probes = Probes(*blocks)
    monkeypatch.setattr("tersenet.api.prepare.probe_staircase", probes)
    return probes


@pytest.mark.slow
def test_inspection_shows_the_block_and_what_it_comes_from(
    digits_cnn: nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    probing(monkeypatch, 4)
    options = CompressOptions(recipe_options=AUTO)
    seen = inspect(digits_cnn, example_inputs=(torch.randn(2, 1, 8, 8),), target=HALF, options=options)
    assert {row.round_to for row in seen.groups if row.min_kept is not None} == {4}
    assert seen.staircase is not None
    assert any("blocks of 4" in note for note in seen.notes)


def test_nothing_is_probed_where_a_number_is_given(digits_cnn: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    probing(monkeypatch)
    seen = inspect(digits_cnn, example_inputs=(torch.randn(2, 1, 8, 8),))
    assert seen.staircase is None
    assert ChannelConfig().round_to == 8


def test_a_space_of_its_own_needs_a_number(digits_cnn: nn.Module) -> None:
    with pytest.raises(SearchError, match="needs a number"):
        recipes.make_space(trace(digits_cnn, torch.randn(2, 1, 8, 8)), ChannelConfig(round_to="auto"))


@pytest.mark.slow
def test_a_run_that_goes_on_uses_the_block_it_began_with(
    digits_cnn: nn.Module, digits: Data, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    probes = probing(monkeypatch, 4, 2)
    options = CompressOptions(
        recipe_options=AUTO, out=tmp_path, finetune_epochs=0, controls=(), weights_saw_search=False
    )

    first = compress(digits_cnn, data=digits, target=HALF, recipe="uniform", seed=0, options=options)
    again = compress(digits_cnn, data=digits, target=HALF, recipe="uniform", seed=0, options=options)
    seen = inspect(digits_cnn, data=digits, recipe="uniform", options=options)
    assert probes.left == [2]
    assert seen.staircase == first.run.staircase
    assert first.policy == again.policy
    for run in (first.run, again.run):
        assert run.recipe_config["round_to"] == 4
        assert run.staircase is not None
        assert run.staircase.round_to == 4
        assert any("blocks of 4" in caveat for caveat in run.caveats)
        assert all(row.num_kept % 4 == 0 for row in run.groups if row.min_kept is not None)
    assert "blocks of 4" in (tmp_path / "report.html").read_text()
    # a number in place of auto, or auto in place of a number, is another run
    with pytest.raises(StudyError, match="round_to"):
        compress(
            digits_cnn,
            data=digits,
            target=HALF,
            recipe="uniform",
            seed=0,
            options=CompressOptions(
                recipe_options=AUTO | {"round_to": 4},
                out=tmp_path,
                finetune_epochs=0,
                controls=(),
                weights_saw_search=False,
            ),
        )


@pytest.mark.slow
def test_what_a_study_keeps_is_read_before_it_is_opened(tmp_path: Path) -> None:
    path = tmp_path / "study.sqlite"
    assert kept_fact(path, "staircase") is None
    assert not path.exists()
    with Study(path, identity={"seed": "0"}) as study:
        study.set_fact("staircase", {"found": 1})
        with pytest.raises(StudyError, match="in use by another process"):
            kept_fact(path, "staircase")
    assert kept_fact(path, "staircase") == {"found": 1}
    assert kept_fact(path, "other") is None
    path.write_text("something else, longer than the header of a database " * 10)
    with pytest.raises(StudyError, match="not a study"):
        kept_fact(path, "staircase")


@pytest.mark.parametrize("value", [0, "many", 2.5, True])
def test_other_values_are_refused_in_one_line(value: object) -> None:
    with pytest.raises(SearchError, match=r"round_to=.*whole number of at least 1, or 'auto'"):
        recipes.get("he2018").configure({"round_to": value})


def test_rounds_of_single_channels_take_no_blocks() -> None:
    with pytest.raises(SearchError, match="round_to"):
        recipes.get("khatri2020").configure({"round_to": "auto"})


def test_the_command_line_takes_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    probing(monkeypatch, 2, 2)
    command = ["inspect", "digits_cnn", "--input-shape", "1,8,8", "--set", "round_to=auto"]
    shown = CliRunner().invoke(app, command)
    assert shown.exit_code == 0, shown.output
    assert "blocks of 2" in shown.stdout
    as_json = CliRunner().invoke(app, [*command, "--json"])
    assert json.loads(as_json.stdout)["staircase"]["round_to"] == 2
