"""AGMC: every part is trained, runs are fixed by their seed, and the same agent runs on AMC's features."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from early_layers import EarlyLayersMatter, digits_graph, half_macs

from tersenet import recipes
from tersenet.agents import DDPG
from tersenet.core.progress import Silent
from tersenet.errors import SearchError
from tersenet.graph import ModelGraph
from tersenet.recipes import Problem
from tersenet.search import Method, Searcher, Study, Trial, run_method

pytest.importorskip("torch_geometric", exc_type=ImportError)


@pytest.fixture(scope="module")
def graph() -> ModelGraph:
    return digits_graph()


def a_problem(graph: ModelGraph, *, seed: int = 0) -> Problem:
    return half_macs(graph, recipes.get("yu2021").configure({"round_to": 1}), seed=seed)


def a_method(graph: ModelGraph, *, seed: int = 0, **options: object) -> Method:
    recipe = recipes.get("yu2021")
    return recipe.build(a_problem(graph, seed=seed), recipe.configure({"pretrain_steps": 2, **options}))


def searched(graph: ModelGraph, path: Path, *, seed: int = 0, **options: object) -> list[Trial]:
    with Study(path, identity={}) as study:
        method = a_method(graph, seed=seed, **options)
        return run_method(method, study, EarlyLayersMatter(a_problem(graph)), seed=seed, progress=Silent())


def test_every_parameter_of_encoder_and_decoder_moves_in_one_call_of_learn(graph: ModelGraph) -> None:
    method = a_method(graph, trials=11, updates=1)
    agent, env, rng = method.agent, method.env, np.random.default_rng(0)
    assert isinstance(agent, DDPG)
    rewards = rng.random(10)
    for reward in rewards:  # the warm-up
        env.decode(rng.uniform(0.2, 1.0, size=(4, 1)))
        agent.observe(env.transitions(), reward=float(reward))
        agent.learn()
    before = agent.state_dict()
    env.decode(rng.uniform(0.2, 1.0, size=(4, 1)))
    agent.observe(env.transitions(), reward=0.5)
    agent.learn()
    after = agent.state_dict()
    names = [name for name in before if name.startswith("encoder.")]
    assert {name.split(".")[1] for name in names} == {"encoder", "decoder"}
    assert any("lstm" in name for name in names)
    unmoved = [name for name in names if np.array_equal(before[name], after[name])]
    assert unmoved == []


@pytest.mark.slow
def test_the_same_seed_gives_the_same_trials_and_another_one_others(graph: ModelGraph, tmp_path: Path) -> None:
    runs = [
        [trial.policy.digest() for trial in searched(graph, tmp_path / f"{run}", seed=seed, trials=13, updates=2)]
        for run, seed in enumerate((0, 0, 1))
    ]
    assert runs[0] == runs[1]
    assert runs[0] != runs[2]


@pytest.mark.slow
def test_a_search_that_is_interrupted_ends_the_same(graph: ModelGraph, tmp_path: Path) -> None:
    through = searched(graph, tmp_path / "through", trials=14, updates=2)
    evaluator = EarlyLayersMatter(a_problem(graph))
    with Study(tmp_path / "parts", identity={}) as study:
        searcher = Searcher(a_method(graph, trials=14, updates=2), study, seed=0)
        for _ in range(12):
            trial = searcher.ask()
            searcher.tell(trial, evaluator.evaluate(trial.policy))
    again = searched(graph, tmp_path / "parts", trials=14, updates=2)
    assert [trial.policy for trial in again] == [trial.policy for trial in through]


def test_hand_made_states_are_one_option_with_the_same_agent_and_schedule(graph: ModelGraph, tmp_path: Path) -> None:
    learned = a_method(graph, trials=40)
    hand_made = a_method(graph, trials=40, state="hand_made")
    assert learned.num_warmup == hand_made.num_warmup == 10
    sizes = [method.env.observation_space.size for method in (learned, hand_made)]
    assert sizes == [1 + 3, 11 + 3]  # a number in place of eleven features; saved, left and last stay
    assert not any(name.startswith("encoder") for name in hand_made.agent.state_dict())
    phases = [trial.phase for trial in searched(graph, tmp_path / "s", trials=12, updates=2, state="hand_made")]
    assert phases == ["warmup"] * 10 + ["learned"] * 2


def test_unknown_states_are_refused() -> None:
    with pytest.raises(SearchError, match="state"):
        recipes.get("yu2021").configure({"state": "random"})


@pytest.mark.slow
@pytest.mark.parametrize("state", ["learned", "hand_made"])
def test_what_is_learnt_is_better_than_random(graph: ModelGraph, tmp_path: Path, state: str) -> None:
    gains = []
    for seed in range(2):
        rewards = [
            t.reward
            for t in searched(graph, tmp_path / f"{seed}", seed=seed, trials=80, state=state, pretrain_steps=100)
        ]
        warmup, last = np.array(rewards[:20], dtype=float), np.array(rewards[-10:], dtype=float)
        gains.append((last.mean() - warmup.mean()) / warmup.std())
    assert min(gains) > 0.5
