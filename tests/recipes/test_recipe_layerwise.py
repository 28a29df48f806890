"""The recipe of whole plans: who proposes its trials, where it begins, and that it gains on its beginning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from early_layers import EarlyLayersMatter, digits_graph, half_macs

from tersenet import recipes
from tersenet.core.progress import Silent
from tersenet.errors import SearchError
from tersenet.graph import ModelGraph
from tersenet.search import Study, Trial, run_method


@pytest.fixture(scope="module")
def graph() -> ModelGraph:
    return digits_graph()


def searched(graph: ModelGraph, path: Path, **options: object) -> list[Trial]:
    recipe = recipes.get(str(options.pop("recipe", "layerwise")))
    config = recipe.configure(dict(options))
    problem = half_macs(graph, config)
    method = recipe.build(problem, config)
    with Study(path, identity={}) as study:
        return run_method(method, study, EarlyLayersMatter(problem), seed=0, progress=Silent())


@pytest.mark.slow
def test_at_least_half_of_the_trials_are_proposed_by_what_was_learnt(graph: ModelGraph, tmp_path: Path) -> None:
    phases = [trial.phase for trial in searched(graph, tmp_path / "s.sqlite", trials=25)]
    assert phases == ["warmup"] * 10 + ["learned"] * 15


@pytest.mark.parametrize(("trials", "warmup"), [(5, 5), (20, 10), (100, 20), (200, 40), (300, 40)])
def test_warm_up_is_a_fifth_from_10_to_40(trials: int, warmup: int) -> None:
    assert recipes.layerwise.num_warmup_of(trials) == warmup


@pytest.mark.slow
def test_the_first_trial_is_the_uniform_control(graph: ModelGraph, tmp_path: Path) -> None:
    own = searched(graph, tmp_path / "own.sqlite", trials=10, round_to=1)
    (uniform,) = searched(graph, tmp_path / "uniform.sqlite", recipe="uniform", round_to=1)
    assert own[0].policy == uniform.policy


@pytest.mark.slow
def test_what_is_learnt_is_better_than_the_warm_up(graph: ModelGraph, tmp_path: Path) -> None:
    rewards = np.array([trial.reward for trial in searched(graph, tmp_path / "s.sqlite", trials=40)])
    assert np.median(rewards[-10:]) > rewards[:10].max()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_trials(graph: ModelGraph, tmp_path: Path) -> None:
    runs = [searched(graph, tmp_path / f"{run}.sqlite", trials=13) for run in range(2)]
    assert [trial.policy for trial in runs[0]] == [trial.policy for trial in runs[1]]


def test_unknown_parts_are_refused() -> None:
    with pytest.raises(SearchError, match="critic"):
        recipes.get("layerwise").configure({"critic": "sum"})
