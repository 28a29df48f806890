"""The search over numbers of clusters: it begins at the Lagrangian allocation and learns where that is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tersenet import recipes
from tersenet.core.metrics import Evaluation, Metrics
from tersenet.core.policy import Policy
from tersenet.core.progress import Silent
from tersenet.core.protocols import IntArray
from tersenet.envs import StorageDecisions, StorageSpace, rate_distortion
from tersenet.errors import SearchError
from tersenet.graph import ModelGraph, trace
from tersenet.models import build
from tersenet.recipes import Problem
from tersenet.search import Study, Trial, run_method
from tersenet.testing.toy_storage import toy_storage_problem


class LateLayersMatter:
    """Quality falls with the errors of the layers, those of later layers more than their gradients say."""

    signature: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, problem: Problem) -> None:
        assert isinstance(problem.space, StorageSpace)
        assert problem.distortions is not None
        self._decisions = StorageDecisions(problem.layers, kind="clusters")
        self._counts = problem.space.counts(0)
        self._errors = [error * 4.0**place for place, error in enumerate(problem.distortions())]
        self._scale = sum(float(error[0]) for error in self._errors)

    def evaluate(self, policy: Policy, *, hopeless_below: float | None = None) -> Evaluation:
        places = np.searchsorted(self._counts, self._decisions.counts(policy))
        lost = sum(float(error[place]) for error, place in zip(self._errors, places, strict=True))
        return Evaluation(metrics=Metrics(top1=100.0 * (1.0 - lost / self._scale)), seconds=0.0)

    confirm = evaluate


@pytest.fixture(scope="module")
def graph() -> ModelGraph:
    torch.manual_seed(0)
    return trace(build("digits_cnn"), torch.randn(2, 1, 8, 8))


def searched(graph: ModelGraph, path: Path, **options: object) -> tuple[Problem, list[Trial]]:
    recipe = recipes.get(str(options.pop("recipe", "layerwise_clusters")))
    problem = toy_storage_problem(graph, kind="clusters", max_ratio=0.1, seed=0)
    method = recipe.build(problem, recipe.configure(dict(options)))
    with Study(path, identity={}) as study:
        return problem, run_method(method, study, LateLayersMatter(problem), seed=0, progress=Silent())


def counts_of(problem: Problem, trial: Trial) -> IntArray:
    return StorageDecisions(problem.layers, kind="clusters").counts(trial.policy)


@pytest.mark.slow
def test_the_first_trial_is_about_the_lagrangian_allocation(graph: ModelGraph, tmp_path: Path) -> None:
    problem, trials = searched(graph, tmp_path / "s.sqlite", trials=10)
    assert isinstance(problem.space, StorageSpace)
    assert problem.distortions is not None
    distortions = problem.distortions()
    allocated = rate_distortion(problem.space, problem.budget, distortions)
    first, uniform = counts_of(problem, trials[0]), np.full(len(problem.layers), 9)

    def total(counts: IntArray) -> float:
        return float(sum(one[int(count) - 2] for one, count in zip(distortions, counts, strict=True)))

    assert problem.budget.fits(uniform)  # 0.1 * 32 = 3.2 bits, and 2 ** 3.2 = 9.2
    assert total(first) < 1.1 * total(allocated) < total(uniform)


@pytest.mark.slow
def test_equal_bits_begin_at_the_uniform_control(graph: ModelGraph, tmp_path: Path) -> None:
    _, own = searched(graph, tmp_path / "own.sqlite", trials=10, scale="bits")
    _, (uniform,) = searched(graph, tmp_path / "uniform.sqlite", recipe="uniform")
    assert own[0].policy == uniform.policy


@pytest.mark.slow
def test_what_is_learnt_is_better_than_the_allocation_and_the_warm_up(graph: ModelGraph, tmp_path: Path) -> None:
    _, trials = searched(graph, tmp_path / "s.sqlite", trials=60)
    rewards = np.array([trial.reward for trial in trials])
    assert [trial.phase for trial in trials] == ["warmup"] * 12 + ["learned"] * 48
    assert np.median(rewards[-10:]) > rewards[:12].max()
    _, (allocation,) = searched(graph, tmp_path / "control.sqlite", recipe="rate_distortion")
    assert np.median(rewards[-10:]) > allocation.reward


def test_unknown_scales_are_refused() -> None:
    with pytest.raises(SearchError, match="scale"):
        recipes.get("layerwise_clusters").configure({"scale": "bytes"})
