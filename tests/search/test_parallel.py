"""Several trials in flight: when each is asked for, what it may depend on, and that interruptions change nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tersenet import recipes
from tersenet.core.metrics import Evaluation, Metrics
from tersenet.core.policy import ChannelDecision, Clusters, Policy, ratio_for
from tersenet.core.progress import Silent
from tersenet.core.protocols import Box, FloatArray, ParallelEvaluator, State, Transition
from tersenet.envs import Budget, Limit
from tersenet.errors import SearchError, StudyError
from tersenet.graph import ModelGraph, cost_table, trace
from tersenet.models import build
from tersenet.recipes import Problem
from tersenet.search import Method, Searcher, Study, Trial, run_method
from tersenet.testing.toy_storage import toy_storage_problem

UNIT = Box(low=np.zeros(1), high=np.ones(1))


class OneStepEnv:
    """One decision: how many of a hundred channels stay."""

    observation_space = UNIT
    action_space = UNIT
    num_decisions = 1

    def __init__(self) -> None:
        self.proposal = np.zeros(1)

    def reset(self, *, seed: int) -> FloatArray:
        return np.zeros(1)

    def step(self, proposal: FloatArray) -> tuple[FloatArray, bool]:
        self.proposal = proposal
        return np.zeros(1), True

    def decode(self, proposals: FloatArray | None = None) -> Policy:
        if proposals is not None:
            self.proposal = proposals[0]
        kept = round(100 * float(self.proposal[0]))
        return Policy(channels={"g": ChannelDecision(pruning_ratio=ratio_for(kept, 100))})

    def transitions(self) -> list[Transition]:
        zero, action = np.zeros(1), self.proposal
        return [
            Transition(observation=zero, action_proposed=action, action_taken=action, next_observation=zero, done=True)
        ]


class ScriptedAgent:
    """Proposes a list of counts one after the other and writes down what happens; its state is how many it proposed."""

    def __init__(self, counts: list[int]) -> None:
        self.counts = counts
        self.num_asked = self.num_told = 0
        self.events: list[str] = []
        self.learnt: list[tuple[int, float]] = []

    def act(self, observation: FloatArray) -> FloatArray:
        self.events.append(f"ask {self.num_asked}")
        self.num_asked += 1
        return np.array([self.counts[self.num_asked - 1] / 100])

    def observe(self, transitions: list[Transition], *, reward: float) -> None:
        self.events.append(f"tell {self.num_told}")
        self.num_told += 1
        self.learnt.append((round(100 * float(transitions[0].action_taken[0])), reward))

    def learn(self) -> None:
        pass

    def state_dict(self) -> State:
        return {"asked": np.array(self.num_asked), "told": np.array(self.num_told)}

    def load_state_dict(self, state: State) -> None:
        self.num_asked, self.num_told = int(state["asked"]), int(state["told"])


class InFlight:
    """Measures what was begun whenever somebody waits: all of it, the newest or the oldest first.

    Top-1 is what ``measure`` says; whatever is below the threshold stops with one point less. Can be interrupted at the
    n-th wait, or at the n-th beginning.
    """

    signature: dict[str, str] = {}  # noqa: RUF012

    def __init__(
        self,
        workers: int,
        measure: Callable[[Policy], float],
        *,
        newest_first: bool = False,
        stop_at_wait: int = -1,
        stop_at_begin: int = -1,
    ) -> None:
        self.workers = workers
        self.measure = measure
        self.newest_first = newest_first
        self.stop_at_wait, self.stop_at_begin = stop_at_wait, stop_at_begin
        self.num_waits = 0
        self.begun: list[tuple[Policy, float | None]] = []
        self.most_in_flight = 0
        self._open: list[int] = []
        self._found: dict[int, Evaluation] = {}

    def begin(
        self, policy: Policy, *, hopeless_below: float | None = None, confirm: bool = False
    ) -> Callable[[], Evaluation]:
        if len(self.begun) == self.stop_at_begin:
            raise KeyboardInterrupt
        number = len(self.begun)
        self.begun.append((policy, hopeless_below))
        self._open.append(number)
        self.most_in_flight = max(self.most_in_flight, len(self._open))
        return lambda: self._wait(number)

    def _wait(self, number: int) -> Evaluation:
        if self.num_waits == self.stop_at_wait:
            raise KeyboardInterrupt
        self.num_waits += 1
        for each in sorted(self._open, reverse=self.newest_first):
            self._found.setdefault(each, self._evaluation(*self.begun[each]))
        self._open.remove(number)
        return self._found[number]

    def _evaluation(self, policy: Policy, hopeless_below: float | None) -> Evaluation:
        top1 = self.measure(policy)
        if hopeless_below is not None and top1 < hopeless_below:
            return Evaluation(metrics=Metrics(top1=top1 - 1.0, num_samples=250), seconds=1.0, stopped_early=True)
        return Evaluation(metrics=Metrics(top1=top1, num_samples=1000), seconds=4.0)

    def evaluate(self, policy: Policy, *, hopeless_below: float | None = None) -> Evaluation:
        return self.begin(policy, hopeless_below=hopeless_below)()

    def confirm(self, policy: Policy) -> Evaluation:
        return self.begin(policy, confirm=True)()


def kept(policy: Policy) -> float:
    return float(policy.channels["g"].num_kept(100))


def scripted(counts: list[int], *, sequential: bool = False, num_warmup: int = 0) -> tuple[Method, ScriptedAgent]:
    agent = ScriptedAgent(counts)
    method = Method(
        name="toy",
        env=OneStepEnv(),
        agent=agent,
        reward=lambda evaluation, _: evaluation.metrics.quality,
        num_trials=len(counts),
        num_warmup=num_warmup,
        sequential=sequential,
    )
    return method, agent


def run(path: Path, method: Method, evaluator: InFlight, *, racing: bool = False) -> list[Trial]:
    with Study(path, identity={}) as study:
        return run_method(method, study, evaluator, seed=0, progress=Silent(), racing=racing)


def outcome(trials: list[Trial]) -> list[object]:
    """Everything of the trials that no clock measured."""
    return [
        (
            trial.number,
            trial.phase,
            trial.policy,
            trial.proposals.tolist(),
            trial.evaluation and (trial.evaluation.metrics, trial.evaluation.stopped_early, trial.evaluation.looked_up),
            trial.reward,
        )
        for trial in trials
    ]


def test_a_trial_is_asked_for_after_exactly_the_one_a_window_before_it_was_told(tmp_path: Path) -> None:
    method, agent = scripted([10, 20, 30, 40, 50, 60])
    run(tmp_path / "s.sqlite", method, InFlight(3, kept))
    # by hand, window 3: three ahead, then tell and ask in turn, at the end only tell
    assert agent.events == [
        "ask 0", "ask 1", "ask 2",
        "tell 0", "ask 3", "tell 1", "ask 4", "tell 2", "ask 5",
        "tell 3", "tell 4", "tell 5",
    ]  # fmt: skip


def test_an_agent_is_told_what_its_own_trial_executed_and_earned(tmp_path: Path) -> None:
    method, agent = scripted([10, 20, 30, 40, 50])
    run(tmp_path / "s.sqlite", method, InFlight(3, kept, newest_first=True))
    assert agent.learnt == [(10, 10.0), (20, 20.0), (30, 30.0), (40, 40.0), (50, 50.0)]


def test_fewer_trials_than_workers_are_all_in_flight_at_once(tmp_path: Path) -> None:
    method, agent = scripted([10, 20])
    run(tmp_path / "s.sqlite", method, InFlight(5, kept))
    assert agent.events == ["ask 0", "ask 1", "tell 0", "tell 1"]


def test_a_sequential_method_runs_one_at_a_time(tmp_path: Path) -> None:
    method, agent = scripted([10, 20, 30], sequential=True)
    evaluator = InFlight(3, kept)
    run(tmp_path / "s.sqlite", method, evaluator)
    assert agent.events == ["ask 0", "tell 0", "ask 1", "tell 1", "ask 2", "tell 2"]
    assert evaluator.most_in_flight == 1


def test_warm_up_lasts_until_its_trials_are_told(tmp_path: Path) -> None:
    method, _ = scripted([10, 20, 30, 40, 50, 60], num_warmup=2)
    trials = run(tmp_path / "s.sqlite", method, InFlight(3, kept))
    # trial 3 is asked for after one was told, trial 4 after two
    assert [trial.phase for trial in trials] == ["warmup"] * 4 + ["learned"] * 2


def test_a_policy_that_is_in_flight_is_measured_once_and_looked_up(tmp_path: Path) -> None:
    evaluator = InFlight(3, kept)
    method, _ = scripted([10, 10, 20, 10, 20])
    trials = run(tmp_path / "s.sqlite", method, evaluator)
    assert [kept(policy) for policy, _ in evaluator.begun] == [10.0, 20.0]
    assert [trial.evaluation.looked_up for trial in trials if trial.evaluation] == [False, True, False, True, True]
    assert [trial.reward for trial in trials] == [10.0, 10.0, 20.0, 10.0, 20.0]


RACED = [*range(50, 60), 70, 51, 30, 30, 71, 50]
"""Ten trials set the threshold, 50; 70 and 71 raise it by one each; 30 is hopeless and twice in flight."""


def test_racing_knows_what_was_told_before_a_trial_was_asked_for(tmp_path: Path) -> None:
    evaluator = InFlight(3, kept)
    method, _ = scripted(RACED)
    run(tmp_path / "s.sqlite", method, evaluator, racing=True)
    # Trial t knows of trials 0 to t - 3: there are ten of them from trial 12 on, trial 13 knows of trial 10, the 70.
    # Trial 13 is the second 30: the first was stopped, so it is measured after all, with the threshold of its own.
    # 51 and 50 (trials 11 and 15) were measured to their ends before and are looked up.
    first = [(float(count), None) for count in range(50, 60)]
    assert sorted((kept(policy), below) for policy, below in evaluator.begun[:10]) == first
    assert [(kept(policy), below) for policy, below in evaluator.begun[10:]] == [
        (70.0, None), (30.0, 50.0), (71.0, 51.0), (30.0, 51.0),
    ]  # fmt: skip


@pytest.mark.parametrize("racing", [False, True])
def test_the_order_in_which_trials_are_measured_changes_nothing(racing: bool, tmp_path: Path) -> None:
    oldest_first, newest_first = (
        run(tmp_path / f"{order}.sqlite", scripted(RACED)[0], InFlight(4, kept, newest_first=order), racing=racing)
        for order in (False, True)
    )
    assert outcome(oldest_first) == outcome(newest_first)


@pytest.mark.parametrize(
    "moment",
    [{"stop_at_wait": n} for n in (0, 3, 12)]
    + [pytest.param({"stop_at_wait": n}, marks=pytest.mark.slow) for n in (1, 2, *range(4, 12))]
    + [{"stop_at_begin": n} for n in (0, 2, 11)],
)
def test_a_run_interrupted_with_three_in_flight_ends_like_one_that_was_not(
    moment: dict[str, Any], tmp_path: Path
) -> None:
    whole = run(tmp_path / "whole.sqlite", scripted(RACED)[0], InFlight(3, kept), racing=True)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut.sqlite", scripted(RACED)[0], InFlight(3, kept, **moment), racing=True)
    method, agent = scripted(RACED)
    with Study(tmp_path / "cut.sqlite", identity={}) as study:
        before = study.trials("toy")
    num_told = sum(trial.evaluation is not None for trial in before)
    cut = run(tmp_path / "cut.sqlite", method, InFlight(3, kept), racing=True)
    assert outcome(cut) == outcome(whole)
    # whoever was in flight when the last trial was told is not asked for again
    first_asked = num_told + 2 if num_told else 0
    assert [event for event in agent.events if event.startswith("ask")] == [
        f"ask {number}" for number in range(first_asked, len(RACED))
    ]


def test_trials_are_told_in_order_and_only_when_all_that_may_be_are_in_flight(tmp_path: Path) -> None:
    evaluation = Evaluation(metrics=Metrics(top1=1.0), seconds=0.0)
    with Study(tmp_path / "s.sqlite", identity={}) as study:
        searcher = Searcher(scripted([10, 20, 30])[0], study, seed=0, workers=2)
        first = searcher.ask()
        with pytest.raises(SearchError, match="2 trials must be in flight"):
            searcher.tell(first, evaluation)
        second = searcher.ask()
        with pytest.raises(SearchError, match="Trial 0 was asked for and not told yet"):
            searcher.ask()
        with pytest.raises(SearchError, match="in the order asked"):
            searcher.tell(second, evaluation)
        searcher.tell(first, evaluation)
        searcher.ask()
        searcher.tell(second, evaluation)
        with pytest.raises(SearchError, match="are done or in flight"):
            searcher.ask()


def test_a_study_that_lacks_a_trial_in_flight_is_refused(tmp_path: Path) -> None:
    with Study(tmp_path / "s.sqlite", identity={}) as study:
        searcher = Searcher(scripted([10, 20, 30, 40])[0], study, seed=0, workers=1)
        searcher.tell(searcher.ask(), Evaluation(metrics=Metrics(top1=1.0), seconds=0.0))
        with pytest.raises(StudyError, match="does not come out the same"):
            Searcher(scripted([10, 20, 30, 40])[0], study, seed=0, workers=3).ask()


def test_the_seconds_of_trials_that_overlap_add_up_to_those_of_the_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    trials = run(tmp_path / "s.sqlite", scripted([10, 20, 30])[0], InFlight(2, kept))
    # asked at 0 and 1, told at 2, asked at 3, told at 4 and 5
    assert [trial.seconds for trial in trials] == [2.0, 2.0, 1.0]


@pytest.fixture(scope="module")
def graph() -> ModelGraph:
    torch.manual_seed(0)
    return trace(build("digits_cnn"), torch.randn(2, 1, 8, 8))


def searched(graph: ModelGraph, path: Path, recipe_name: str, evaluator: ParallelEvaluator) -> list[Trial]:
    recipe = recipes.get(recipe_name)
    config = recipe.configure({"trials": 14, "round_from": 1000})
    limit = Limit(kind="macs", table=cost_table(graph, "macs"), maximum=0.5 * graph.macs, original=float(graph.macs))
    problem = Problem(graph=graph, space=recipes.make_space(graph, config), budget=Budget(limits=(limit,)), seed=0)
    if recipe.decides[0] != "channels":
        assert recipe.decides[0] != "kernels"
        problem = toy_storage_problem(graph, kind=recipe.decides[0], max_ratio=0.12, seed=0)
    method = recipe.build(problem, config)
    with Study(path, identity={}) as study:
        return run_method(method, study, evaluator, seed=0, progress=Silent())


def some_quality(policy: Policy) -> float:
    """Later groups matter more."""
    lost = [decision.pruning_ratio or 0.0 for _, decision in sorted(policy.channels.items())]
    for _, form in sorted(policy.storage.items()):
        lost.append(1.0 / (form.n_clusters if isinstance(form, Clusters) else 2.0 ** getattr(form, "weight_bits", 8)))
    return 100.0 - sum((10.0 * rank + 5.0) * share**2 for rank, share in enumerate(lost))


TRAINED_LONG = ("gnnrl2022", "layerwise", "yu2021", "zhan2019")
ONE_AT_A_TIME = {"greedy", "tpe", "cmaes"}
"""Recipes whose next trial needs the last one's reward."""


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if name in TRAINED_LONG else ())
        for name in recipes.names()
        if not recipes.get(name).is_live
    ],
)
def test_every_recipe_interrupted_with_three_in_flight_ends_like_one_that_was_not(
    name: str, graph: ModelGraph, tmp_path: Path
) -> None:
    evaluator = InFlight(3, some_quality)
    whole = searched(graph, tmp_path / "whole.sqlite", name, evaluator)
    assert evaluator.most_in_flight == (1 if name in ONE_AT_A_TIME else min(3, len(whole)))
    for wait in (2, 9) if len(whole) > 1 else (0,):  # waits of each run, so among the first trials and among the last
        with pytest.raises(KeyboardInterrupt):
            searched(graph, tmp_path / "cut.sqlite", name, InFlight(3, some_quality, stop_at_wait=wait))
    cut = searched(graph, tmp_path / "cut.sqlite", name, InFlight(3, some_quality, newest_first=True))
    assert outcome(cut) == outcome(whole)
