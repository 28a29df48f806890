"""Agents that leave one run as a file and begin another one."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from tersenet import Target, api, recipes
from tersenet.agents import write_agent
from tersenet.api import CompressOptions, compress
from tersenet.api.prepare import known_agent
from tersenet.cli.main import app
from tersenet.data import Data
from tersenet.errors import NotFoundError, SearchError, StudyError

pytest.importorskip("torch_geometric", exc_type=ImportError)

HALF = Target(max_macs_ratio=0.5)


def test_recipes_whose_agents_fit_no_other_network_refuse_one(tmp_path: Path) -> None:
    options = CompressOptions(agent=tmp_path / "a")
    with pytest.raises(SearchError, match=r"'he2018' learns does not fit .*: gnnrl2022, yu2021"):
        known_agent(recipes.get("he2018"), options)
    with pytest.raises(NotFoundError, match="is no file"):
        known_agent(recipes.get("yu2021"), options)
    assert known_agent(recipes.get("he2018"), CompressOptions()) is None


def test_an_agent_of_another_recipe_is_refused_with_the_one_it_fits(tmp_path: Path) -> None:
    write_agent(tmp_path / "a", {"actor.x": np.zeros(1)}, recipe="gnnrl2022", network="resnet56")
    with pytest.raises(SearchError, match=r"trained by recipe 'gnnrl2022'.* Choose recipe 'gnnrl2022'"):
        known_agent(recipes.get("yu2021"), CompressOptions(agent=tmp_path / "a"))


def test_the_command_line_refuses_an_agent_before_anything_is_trained(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def never(*arguments: object, **named: object) -> None:
        raise AssertionError("trained")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(api, "train", never)
    words = ["compress", "digits_cnn", "--train-epochs", "1", "--max-macs-ratio", "0.5", "--agent", "a"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 2
    assert "agent='a': what recipe 'he2018' learns does not fit" in " ".join(result.output.split())


@pytest.mark.slow
def test_what_one_run_learned_begins_the_next(digits: Data, digits_cnn: nn.Module, tmp_path: Path) -> None:
    plain = {"finetune_epochs": 0, "controls": (), "recipe_options": {"pretrain_steps": 5}}
    fields: dict[str, object] = {**plain, "trials": 12, "out": tmp_path / "one"}
    first = compress(
        digits_cnn,
        data=digits,
        target=HALF,
        recipe="yu2021",
        seed=0,
        options=CompressOptions(**fields),  # type: ignore[arg-type]
    )
    assert "agent.safetensors" in first.save(tmp_path / "saved")
    other = copy.deepcopy(digits_cnn)
    with torch.no_grad():
        next(other.parameters()).mul_(1.01)
    policies = []
    for seed in (0, 1):
        fields = {**plain, "trials": 1, "agent": tmp_path / "saved" / "agent.safetensors", "out": tmp_path / f"{seed}"}
        options = CompressOptions(**fields)  # type: ignore[arg-type]
        result = compress(other, data=digits, target=HALF, recipe="yu2021", seed=seed, options=options)
        assert [(point.phase, point.method) for point in result.run.trials] == [("learned", "yu2021")]
        assert result.target_reached
        policies.append(result.policy.channels)
    assert policies[0] == policies[1]  # unseen, and without chance
    again = CompressOptions(**{**plain, "trials": 1, "out": tmp_path / "1"})  # type: ignore[arg-type]
    with pytest.raises(StudyError, match=r"agent: .* there, None now"):
        compress(other, data=digits, target=HALF, recipe="yu2021", seed=1, options=again)
