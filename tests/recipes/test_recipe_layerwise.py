"""The recipe of whole plans: who proposes its trials, where it begins, and that it gains on its beginning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tersenet import recipes
from tersenet.core.metrics import Evaluation, Metrics
from tersenet.core.policy import Policy
from tersenet.core.progress import Silent
from tersenet.envs import Budget, ChannelSpace, Limit
from tersenet.errors import SearchError
from tersenet.graph import ModelGraph, cost_table, trace
from tersenet.models import build
from tersenet.recipes import Problem
from tersenet.search import Study, Trial, run_method


class EarlyLayersMatter:
    """Every cut channel costs points, those of the first group most; costs nothing to ask."""

    signature: dict[str, str] = {}  # noqa: RUF012
    weights = (60.0, 20.0, 5.0, 1.0)

    def __init__(self, graph: ModelGraph, problem: Problem) -> None:
        assert isinstance(problem.space, ChannelSpace)
        self._ids = [graph.channel_groups[int(index)].group_id for index in problem.space.indices]

    def evaluate(self, policy: Policy, *, hopeless_below: float | None = None) -> Evaluation:
        removed = [policy.channels[name].pruning_ratio or 0.0 if name in policy.channels else 0.0 for name in self._ids]
        lost = sum(weight * share**2 for weight, share in zip(self.weights, removed, strict=True))
        return Evaluation(metrics=Metrics(top1=100.0 - lost), seconds=0.0)

    confirm = evaluate


@pytest.fixture(scope="module")
def graph() -> ModelGraph:
    torch.manual_seed(0)
    return trace(build("digits_cnn"), torch.randn(2, 1, 8, 8))


def searched(graph: ModelGraph, path: Path, **options: object) -> list[Trial]:
    recipe = recipes.get(str(options.pop("recipe", "layerwise")))
    config = recipe.configure(dict(options))
    limit = Limit(kind="macs", table=cost_table(graph, "macs"), maximum=0.5 * graph.macs, original=float(graph.macs))
    problem = Problem(graph=graph, space=recipes.make_space(graph, config), budget=Budget(limits=(limit,)), seed=0)
    method = recipe.build(problem, config)
    with Study(path, identity={}) as study:
        return run_method(method, study, EarlyLayersMatter(graph, problem), seed=0, progress=Silent())


@pytest.mark.slow
def test_at_least_half_of_the_trials_are_proposed_by_what_was_learnt(graph: ModelGraph, tmp_path: Path) -> None:
    phases = [trial.phase for trial in searched(graph, tmp_path / "s.sqlite", trials=25)]
    assert phases == ["warmup"] * 10 + ["learned"] * 15


@pytest.mark.parametrize(("trials", "warmup"), [(5, 5), (20, 10), (100, 20), (200, 40), (300, 40)])
def test_warm_up_is_a_fifth_from_10_to_40(trials: int, warmup: int) -> None:
    assert recipes.layerwise.num_warmup_of(trials) == warmup


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
