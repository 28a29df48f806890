"""Methods that propose whole vectors: on the toy with known optimum, interrupted, and with probes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tersenet.adapters import optuna
from tersenet.agents import CEM, CEMConfig, Greedy, GreedyConfig
from tersenet.core.metrics import Evaluation, Metrics
from tersenet.core.policy import Policy
from tersenet.core.progress import Silent
from tersenet.core.protocols import FloatArray, Proposer
from tersenet.envs import Budget, ChannelDecisions, LayerwiseEnv, allot, level
from tersenet.search import Method, Searcher, Study, candidates, run_method
from tersenet.testing.toy_budget import BilinearCost, ToySearch, toy_budget, toy_space

WIDTH = 64
"""Channels of each layer of the toy."""


class ToyEvaluator:
    """Measures the toy's reward of a policy; can be told to be interrupted at one trial."""

    signature: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, toy: ToySearch, *, stop_at: int | None = None) -> None:
        self.toy = toy
        self.stop_at = stop_at
        self.num_evaluations = 0

    def evaluate(self, policy: Policy, *, hopeless_below: float | None = None) -> Evaluation:
        if self.num_evaluations == self.stop_at:
            raise KeyboardInterrupt
        self.num_evaluations += 1
        removed = 1.0 - self.toy.env.num_kept(policy) / WIDTH
        weights = self.toy.importance
        return Evaluation(metrics=Metrics(top1=float(100 * weights @ (1 - removed**2) / weights.sum())), seconds=0.0)

    confirm = evaluate


def a_method(name: str, toy: ToySearch, *, num_trials: int, seed: int = 0) -> Method:
    size, box = toy.env.num_decisions, toy.env.action_space
    common = {"name": name, "env": toy.env, "num_trials": num_trials, "num_warmup": 0, "is_control": True}

    def built(agent: object, **more: object) -> Method:
        return Method(agent=agent, reward=quality, **common, **more)  # type: ignore[arg-type]

    if name == "cem":
        return built(CEM(CEMConfig(generation_size=10), num_decisions=size, action_space=box, seed=seed))
    if name == "tpe":
        return built(optuna.tpe(num_decisions=size, action_space=box, num_startup=5, seed=seed))
    if name == "cmaes":
        return built(optuna.cmaes(num_decisions=size, action_space=box, seed=seed))
    space = toy_space([WIDTH] * size)
    budget = toy_budget(space, BilinearCost(0.0, np.ones(size), np.zeros((size, size))), 0.5)

    def execute(ratios: FloatArray) -> FloatArray:
        executed: FloatArray = level(space, budget, ratios) / WIDTH
        return executed

    greedy = Greedy(
        GreedyConfig(),
        num_trials=num_trials,
        num_decisions=size,
        lowest=0.2,
        allot=lambda ratios, losses: allot(space, budget, ratios, losses),
        execute=execute,
    )
    names = [f"layer{i}" for i in range(size)]
    free = LayerwiseEnv(
        space,
        Budget(limits=()),
        np.zeros((size, 1)),
        decisions=ChannelDecisions(names, space.num_channels, criterion="l1"),
        decoder="level",
    )
    return built(greedy, num_probes=greedy.num_probes, probe_env=free)


def quality(evaluation: Evaluation, policy: Policy) -> float:
    return evaluation.metrics.quality / 100.0


def rewards(name: str, *, num_trials: int, num_decisions: int, seed: int) -> FloatArray:
    """Rewards of the policies that keep the budget, without a study in between."""
    toy = ToySearch(num_decisions=num_decisions, decoder="level", seed=seed)
    method, evaluator = a_method(name, toy, num_trials=num_trials, seed=seed), ToyEvaluator(toy)
    assert isinstance(method.agent, Proposer)
    found = []
    for number in range(num_trials):
        env = method.env_of(number)
        found.append(quality(evaluator.evaluate(env.decode(method.agent.propose())), Policy()))
        method.agent.observe(env.transitions(), reward=found[-1])
        method.agent.learn()
    return np.array(found[method.num_probes :])


def random_rewards(*, num_trials: int, num_decisions: int, seed: int) -> FloatArray:
    """Rewards of as many random vectors."""
    toy = ToySearch(num_decisions=num_decisions, decoder="level", seed=seed)
    vectors = np.random.default_rng(seed + 100).uniform(0.2, 1.0, (num_trials, num_decisions, 1))
    return np.array([quality(ToyEvaluator(toy).evaluate(toy.env.decode(vector)), Policy()) for vector in vectors])


LEARNERS = ("cem", "tpe", "cmaes", "greedy")


@pytest.mark.parametrize("name", LEARNERS)
def test_its_last_trials_beat_random_vectors(name: str) -> None:
    found = rewards(name, num_trials=40, num_decisions=5, seed=0)
    random = random_rewards(num_trials=40, num_decisions=5, seed=0)
    assert found[-10:].mean() > random.mean() + random.std()


@pytest.mark.slow
@pytest.mark.parametrize("name", LEARNERS)
def test_over_three_seeds_it_beats_the_mean_and_the_best_of_as_many_random_vectors(name: str) -> None:
    for seed in range(3):
        found = rewards(name, num_trials=80, num_decisions=9, seed=seed)
        random = random_rewards(num_trials=80, num_decisions=9, seed=seed)
        assert found[-20:].mean() > random.mean() + random.std()
        assert random.max() < found.max()
        assert found.max() <= ToySearch(num_decisions=9, decoder="level", seed=seed).optimum() + 1e-9


@pytest.mark.parametrize("name", LEARNERS)
def test_an_interrupted_search_ends_like_an_uninterrupted_one(name: str, tmp_path: Path) -> None:
    toy = ToySearch(num_decisions=3, decoder="level", seed=1)
    whole_path, cut_path = tmp_path / "whole.sqlite", tmp_path / "cut.sqlite"
    with Study(whole_path, identity={}) as study:
        whole = run_method(a_method(name, toy, num_trials=18), study, ToyEvaluator(toy), seed=0, progress=Silent())
    for stop_at in (2, 10):  # in the first generation or among the probes; then later: 12 are told
        evaluator = ToyEvaluator(toy, stop_at=stop_at)
        with Study(cut_path, identity={}) as study, pytest.raises(KeyboardInterrupt):
            run_method(a_method(name, toy, num_trials=18), study, evaluator, seed=0, progress=Silent())
    with Study(cut_path, identity={}) as study:
        cut = run_method(a_method(name, toy, num_trials=18), study, ToyEvaluator(toy), seed=0, progress=Silent())
    for one, other in zip(whole, cut, strict=True):
        assert np.array_equal(one.proposals, other.proposals)
        assert (one.policy, one.reward, one.phase) == (other.policy, other.reward, other.phase)


def test_a_whole_vector_is_decoded_without_a_walk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy = ToySearch(num_decisions=3, decoder="level", seed=0)
    monkeypatch.setattr(toy.env, "step", _never)
    with Study(tmp_path / "s.sqlite", identity={}) as study:
        trial = Searcher(a_method("cem", toy, num_trials=2), study, seed=0).ask()
        assert study.trials("cem")[0].proposals.shape == (3, 1)
    assert trial.policy == toy.env.decode(trial.proposals)


def _never(proposal: FloatArray) -> tuple[FloatArray, bool]:
    raise AssertionError("a whole vector needs no step")


class Facts(Silent):
    """Keeps what was shown."""

    def __init__(self) -> None:
        self.shown: list[dict[str, str]] = []

    def update(self, stage: str, done: int, facts: dict[str, str]) -> None:
        self.shown.append(facts)


def test_probes_are_marked_leave_the_budget_and_cannot_be_chosen_nor_shown_as_best(tmp_path: Path) -> None:
    toy = ToySearch(num_decisions=3, decoder="level", seed=0)
    facts = Facts()
    with Study(tmp_path / "s.sqlite", identity={}) as study:
        method = a_method("greedy", toy, num_trials=20)
        trials = run_method(method, study, ToyEvaluator(toy), seed=0, progress=facts)
        again = study.trials("greedy")
    # 0.3 of 20 are 6: one of everything whole, and one ratio of each of three layers
    assert [trial.phase for trial in trials] == ["probe"] * 4 + ["control"] * 16
    assert [trial.phase for trial in again] == [trial.phase for trial in trials]
    shares = [float(toy.env.num_kept(trial.policy).sum() / (3 * WIDTH)) for trial in trials]
    assert shares[0] == 1.0
    assert all(share > 0.5 for share in shares[:4])
    assert all(0.49 < share <= 0.5 for share in shares[4:])
    assert candidates(trials) == trials[4:]
    assert [shown["best"] for shown in facts.shown[:4]] == ["-"] * 4
    assert facts.shown[0]["last"] == "100.00"
    assert facts.shown[-1]["best"] == f"{100 * max(trial.reward or 0.0 for trial in trials[4:]):.2f}"
