"""Ask and tell: order, resumption, rewards."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tersenet.core.metrics import Evaluation, Metrics
from tersenet.core.policy import ChannelDecision, Policy, ratio_for
from tersenet.core.progress import Silent
from tersenet.core.protocols import Box, FloatArray, State, Transition
from tersenet.errors import SearchError, StudyError
from tersenet.search import Method, Searcher, Study, run_method

UNIT = Box(low=np.zeros(1), high=np.ones(1))


class TwoStepEnv:
    """Two decisions; an action is the share of ten channels that stays."""

    observation_space = UNIT
    action_space = UNIT
    num_decisions = 2

    def __init__(self) -> None:
        self.actions: list[float] = []

    def reset(self, *, seed: int) -> FloatArray:
        self.actions = []
        return np.zeros(1)

    def step(self, proposal: FloatArray) -> tuple[FloatArray, bool]:
        self.actions.append(max(1, round(float(proposal[0]) * 10)) / 10)
        return np.ones(1), len(self.actions) == 2

    def decode(self, proposals: FloatArray | None = None) -> Policy:
        return Policy(
            channels={
                f"g{i}": ChannelDecision(pruning_ratio=ratio_for(round(a * 10), 10)) for i, a in enumerate(self.actions)
            }
        )

    def transitions(self) -> list[Transition]:
        return [
            Transition(
                observation=np.zeros(1),
                action_proposed=np.array([a]),
                action_taken=np.array([a]),
                next_observation=np.zeros(1),
                done=i == 1,
            )
            for i, a in enumerate(self.actions)
        ]


class CountingAgent:
    """Proposes from its own random state and remembers the sum of rewards."""

    def __init__(self) -> None:
        self.generator = np.random.default_rng(3)
        self.total = 0.0
        self.learned = 0

    def act(self, observation: FloatArray) -> FloatArray:
        return self.generator.random(1)

    def observe(self, transitions: list[Transition], *, reward: float) -> None:
        self.total += reward

    def learn(self) -> None:
        self.learned += 1

    def state_dict(self) -> State:
        words = self.generator.bit_generator.state["state"]
        text = f"{words['state']},{words['inc']}"
        return {"total": np.array([self.total]), "random": np.frombuffer(text.encode(), dtype=np.uint8)}

    def load_state_dict(self, state: State) -> None:
        self.total = float(state["total"][0])
        position, increment = state["random"].tobytes().decode().split(",")
        full = dict(self.generator.bit_generator.state)
        full["state"] = {"state": int(position), "inc": int(increment)}
        self.generator.bit_generator.state = full


class FakeEvaluator:
    """Accuracy falls with what is pruned; can be told to be interrupted at one trial."""

    signature: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, *, stop_at: int | None = None) -> None:
        self.stop_at = stop_at
        self.num_evaluations = 0

    def evaluate(self, policy: Policy, *, hopeless_below: float | None = None) -> Evaluation:
        if self.num_evaluations == self.stop_at:
            raise KeyboardInterrupt
        self.num_evaluations += 1
        pruned = sum(decision.pruning_ratio or 0.0 for decision in policy.channels.values())
        return Evaluation(metrics=Metrics(top1=100.0 - 10.0 * pruned), seconds=0.0)

    confirm = evaluate


def a_method(num_trials: int = 6) -> Method:
    return Method(
        name="toy",
        env=TwoStepEnv(),
        agent=CountingAgent(),
        reward=lambda evaluation, _: evaluation.metrics.quality / 100,
        num_trials=num_trials,
        num_warmup=2,
    )


def open_study(path: Path) -> Study:
    return Study(path, identity={"recipe": "toy"})


def test_an_interrupted_search_ends_like_an_uninterrupted_one(tmp_path: Path) -> None:
    with open_study(tmp_path / "whole.sqlite") as study:
        whole = run_method(a_method(), study, FakeEvaluator(), seed=0, progress=Silent())
    with open_study(tmp_path / "cut.sqlite") as study, pytest.raises(KeyboardInterrupt):
        run_method(a_method(), study, FakeEvaluator(stop_at=3), seed=0, progress=Silent())
    evaluator = FakeEvaluator()
    with open_study(tmp_path / "cut.sqlite") as study:
        cut = run_method(a_method(), study, evaluator, seed=0, progress=Silent())
    assert [trial.policy for trial in cut] == [trial.policy for trial in whole]
    assert [trial.reward for trial in cut] == [trial.reward for trial in whole]
    assert evaluator.num_evaluations == 3  # three were told before, three remain


def test_trials_differ_and_the_first_are_warmup(tmp_path: Path) -> None:
    with open_study(tmp_path / "s.sqlite") as study:
        trials = run_method(a_method(), study, FakeEvaluator(), seed=0, progress=Silent())
    assert [trial.phase for trial in trials] == ["warmup"] * 2 + ["learned"] * 4
    assert len({trial.policy.digest() for trial in trials}) > 1


def test_every_reward_reaches_the_agent_once(tmp_path: Path) -> None:
    method = a_method()
    with open_study(tmp_path / "s.sqlite") as study:
        trials = run_method(method, study, FakeEvaluator(), seed=0, progress=Silent())
    agent = method.agent
    assert isinstance(agent, CountingAgent)
    assert agent.total == pytest.approx(sum(trial.reward or 0.0 for trial in trials))
    assert agent.learned == 6


def test_asking_twice_without_telling_is_refused(tmp_path: Path) -> None:
    with open_study(tmp_path / "s.sqlite") as study:
        searcher = Searcher(a_method(), study, seed=0)
        searcher.ask()
        with pytest.raises(SearchError, match="not told yet"):
            searcher.ask()


def test_telling_twice_is_refused(tmp_path: Path) -> None:
    with open_study(tmp_path / "s.sqlite") as study:
        searcher = Searcher(a_method(), study, seed=0)
        trial = searcher.ask()
        searcher.tell(trial, FakeEvaluator().evaluate(trial.policy))
        with pytest.raises(SearchError, match="told already"):
            searcher.tell(trial, FakeEvaluator().evaluate(trial.policy))


def test_asking_after_the_last_trial_is_refused(tmp_path: Path) -> None:
    with open_study(tmp_path / "s.sqlite") as study:
        run_method(a_method(num_trials=1), study, FakeEvaluator(), seed=0, progress=Silent())
        with pytest.raises(SearchError, match="are done"):
            Searcher(a_method(num_trials=1), study, seed=0).ask()


def test_a_reward_that_is_not_a_number_is_refused_and_not_stored(tmp_path: Path) -> None:
    with open_study(tmp_path / "s.sqlite") as study:
        searcher = Searcher(a_method(), study, seed=0)
        trial = searcher.ask()
        with pytest.raises(SearchError, match="reward nan"):
            searcher.tell(trial, Evaluation(metrics=Metrics(top1=float("nan")), seconds=0.0))
        assert study.trials("toy")[0].evaluation is None


def test_a_study_of_another_random_stream_is_noticed(tmp_path: Path) -> None:
    with open_study(tmp_path / "s.sqlite") as study:
        Searcher(a_method(), study, seed=0).ask()
        method = a_method()
        assert isinstance(method.agent, CountingAgent)
        method.agent.generator = np.random.default_rng(99)
        with pytest.raises(StudyError, match="does not come out the same"):
            Searcher(method, study, seed=0).ask()
