"""GNN-RL: few steps of whole vectors, every sample encoded as its network then is, runs fixed by their seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from early_layers import EarlyLayersMatter, digits_graph, half_macs

from tersenet import recipes
from tersenet.core.progress import Silent
from tersenet.graph import ModelGraph
from tersenet.recipes import Problem
from tersenet.search import Method, Searcher, Study, Trial, run_method

pytest.importorskip("torch_geometric", exc_type=ImportError)


@pytest.fixture(scope="module")
def graph() -> ModelGraph:
    return digits_graph()


def a_problem(graph: ModelGraph, *, seed: int = 0) -> Problem:
    return half_macs(graph, recipes.get("gnnrl2022").configure({"round_to": 1}), seed=seed)


def a_method(graph: ModelGraph, *, seed: int = 0, **options: object) -> Method:
    recipe = recipes.get("gnnrl2022")
    return recipe.build(a_problem(graph, seed=seed), recipe.configure({"pretrain_steps": 2, **options}))


def searched(graph: ModelGraph, path: Path, *, seed: int = 0, **options: object) -> list[Trial]:
    with Study(path, identity={}) as study:
        method = a_method(graph, seed=seed, **options)
        return run_method(method, study, EarlyLayersMatter(a_problem(graph)), seed=seed, progress=Silent())


def test_a_trial_is_a_few_steps_of_whole_vectors(graph: ModelGraph, tmp_path: Path) -> None:
    trials = searched(graph, tmp_path / "s", trials=2, steps=4)
    assert [trial.proposals.shape for trial in trials] == [(4, 4)] * 2
    assert [trial.phase for trial in trials] == ["learned"] * 2


@pytest.mark.slow
def test_the_same_seed_gives_the_same_trials_and_an_interrupted_search_ends_the_same(
    graph: ModelGraph, tmp_path: Path
) -> None:
    through = [trial.policy for trial in searched(graph, tmp_path / "through", trials=13)]
    evaluator = EarlyLayersMatter(a_problem(graph))
    with Study(tmp_path / "parts", identity={}) as study:
        searcher = Searcher(a_method(graph, trials=13), study, seed=0)
        for _ in range(11):
            trial = searcher.ask()
            searcher.tell(trial, evaluator.evaluate(trial.policy))
    assert [trial.policy for trial in searched(graph, tmp_path / "parts", trials=13)] == through
    assert [trial.policy for trial in searched(graph, tmp_path / "other", trials=13, seed=1)] != through


def test_what_an_agent_proposes_next_depends_on_what_it_cut_before(graph: ModelGraph) -> None:
    agent = a_method(graph).agent
    state = agent.state_dict()
    proposals = []
    for left in (1.0, 0.3):
        agent.load_state_dict(state)  # the same noise
        proposals.append(agent.act(np.array([left, 1.0, 1.0, 1.0, 0.0])))  # type: ignore[union-attr]
    assert (proposals[0] != proposals[1]).all()  # every layer sees the first one's cut


@pytest.mark.slow
@pytest.mark.parametrize("state", ["learned", "hand_made"])
def test_what_is_learnt_is_better_than_the_beginning(graph: ModelGraph, tmp_path: Path, state: str) -> None:
    gains = []
    for seed in range(2):
        trials = searched(graph, tmp_path / f"{seed}", seed=seed, trials=200, state=state, pretrain_steps=50)
        rewards = np.array([trial.reward for trial in trials], dtype=float)
        gains.append((rewards[-20:].mean() - rewards[:20].mean()) / rewards[:20].std())
    assert min(gains) > 0.5
