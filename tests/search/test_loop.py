"""The loop of one method: what is looked up, what may stop early, and that a resumed run goes the same way."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tersenet.core.metrics import Evaluation, Metrics
from tersenet.core.policy import ChannelDecision, Policy, ratio_for
from tersenet.core.progress import Silent
from tersenet.core.protocols import Box, FloatArray, State, Transition
from tersenet.search import Method, Study, Trial, candidates, run_method

UNIT = Box(low=np.zeros(1), high=np.ones(1))


class OneStepEnv:
    """One decision: how many of a hundred channels stay."""

    observation_space = UNIT
    action_space = UNIT
    num_decisions = 1

    def __init__(self) -> None:
        self.kept = 0

    def reset(self, *, seed: int) -> FloatArray:
        return np.zeros(1)

    def step(self, proposal: FloatArray) -> tuple[FloatArray, bool]:
        self.kept = round(float(proposal[0]) * 100)
        return np.zeros(1), True

    def decode(self, proposals: FloatArray | None = None) -> Policy:
        return Policy(channels={"g": ChannelDecision(pruning_ratio=ratio_for(self.kept, 100))})

    def transitions(self) -> list[Transition]:
        action = np.array([self.kept / 100])
        return [
            Transition(
                observation=np.zeros(1),
                action_proposed=action,
                action_taken=action,
                next_observation=np.zeros(1),
                done=True,
            )
        ]


class ScriptedAgent:
    """Proposes a given list of counts, and goes on where it was saved."""

    def __init__(self, counts: list[int]) -> None:
        self.counts = counts
        self.told = 0
        self.rewards: list[float] = []

    def act(self, observation: FloatArray) -> FloatArray:
        return np.array([self.counts[self.told] / 100])

    def observe(self, transitions: list[Transition], *, reward: float) -> None:
        self.told += 1
        self.rewards.append(reward)

    def learn(self) -> None:
        pass

    def state_dict(self) -> State:
        return {"told": np.array([self.told])}

    def load_state_dict(self, state: State) -> None:
        self.told = int(state["told"][0])


class RacingEvaluator:
    """Top-1 is the number of kept channels; whatever is below the threshold stops with one point less."""

    signature: dict[str, str] = {}  # noqa: RUF012

    def __init__(self, *, interrupted_at: int | None = None) -> None:
        self.interrupted_at = interrupted_at
        self.asked: list[tuple[int, float | None]] = []

    def evaluate(self, policy: Policy, *, hopeless_below: float | None = None) -> Evaluation:
        if len(self.asked) == self.interrupted_at:
            raise KeyboardInterrupt
        kept = policy.channels["g"].num_kept(100)
        self.asked.append((kept, hopeless_below))
        if hopeless_below is not None and kept < hopeless_below:
            return Evaluation(metrics=Metrics(top1=kept - 1.0, num_samples=250), seconds=1.0, stopped_early=True)
        return Evaluation(metrics=Metrics(top1=float(kept), num_samples=1000), seconds=4.0)

    confirm = evaluate


def scripted(counts: list[int], *, name: str = "toy") -> Method:
    return Method(
        name=name,
        env=OneStepEnv(),
        agent=ScriptedAgent(counts),
        reward=lambda evaluation, _: evaluation.metrics.quality / 100,
        num_trials=len(counts),
        num_warmup=0,
    )


def run(
    folder: Path, counts: list[int], evaluator: RacingEvaluator, *, name: str = "toy", racing: bool = False
) -> list[Trial]:
    with Study(folder / "study.sqlite", identity={"recipe": "toy"}) as study:
        return run_method(scripted(counts, name=name), study, evaluator, seed=0, progress=Silent(), racing=racing)


def told(trials: list[Trial]) -> list[tuple[float | None, bool, bool]]:
    evaluations = [trial.evaluation for trial in trials if trial.evaluation is not None]
    return [(found.metrics.top1, found.stopped_early, found.looked_up) for found in evaluations]


def test_a_policy_seen_before_is_not_measured_again(tmp_path: Path) -> None:
    evaluator = RacingEvaluator()
    trials = run(tmp_path, [40, 50, 40, 40], evaluator)
    assert [kept for kept, _ in evaluator.asked] == [40, 50]
    assert told(trials) == [(40.0, False, False), (50.0, False, False), (40.0, False, True), (40.0, False, True)]
    assert [trial.evaluation.seconds for trial in trials if trial.evaluation] == [4.0, 4.0, 0.0, 0.0]
    assert [trial.reward for trial in trials] == [0.4, 0.5, 0.4, 0.4]


def test_what_another_method_of_the_study_measured_is_looked_up_as_well(tmp_path: Path) -> None:
    run(tmp_path, [40, 50], RacingEvaluator(), name="control")
    evaluator = RacingEvaluator()
    trials = run(tmp_path, [50, 60], evaluator, name="agent")
    assert [kept for kept, _ in evaluator.asked] == [60]
    assert told(trials) == [(50.0, False, True), (60.0, False, False)]


COUNTS = [*range(50, 60), 30, 70, 30, 50, 51, 52]
"""Ten trials set the threshold, 50; 30 is hopeless twice; after 70 it is 51."""


def test_without_racing_every_trial_is_measured_to_its_end(tmp_path: Path) -> None:
    evaluator = RacingEvaluator()
    run(tmp_path, COUNTS, evaluator)
    assert {threshold for _, threshold in evaluator.asked} == {None}


def test_the_threshold_is_the_tenth_best_trial_that_was_measured_to_its_end(tmp_path: Path) -> None:
    evaluator = RacingEvaluator()
    run(tmp_path, COUNTS, evaluator, racing=True)
    first_ten = [(kept, None) for kept in range(50, 60)]
    # a stopped trial is not among the best, and is measured again, since another threshold may let it go on
    assert evaluator.asked == [*first_ten, (30, 50.0), (70, 50.0), (30, 51.0)]


def test_a_stopped_trial_tells_its_partial_accuracy_and_cannot_be_chosen(tmp_path: Path) -> None:
    trials = run(tmp_path, COUNTS, RacingEvaluator(), racing=True)
    stopped = [trial for trial in trials if trial.evaluation and trial.evaluation.stopped_early]
    assert [trial.number for trial in stopped] == [10, 12]
    assert [trial.reward for trial in stopped] == [0.29, 0.29]
    assert [trial.evaluation.metrics.num_samples for trial in stopped if trial.evaluation] == [250, 250]
    assert {10, 12}.isdisjoint(trial.number for trial in candidates(trials))
    assert len(candidates(trials)) == len(COUNTS) - 2


@pytest.mark.parametrize("interrupted_at", [4, 11, 12])
def test_a_resumed_run_looks_up_and_stops_the_same_trials(tmp_path: Path, interrupted_at: int) -> None:
    for folder in ("whole", "cut"):
        (tmp_path / folder).mkdir()
    whole = run(tmp_path / "whole", COUNTS, RacingEvaluator(), racing=True)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "cut", COUNTS, RacingEvaluator(interrupted_at=interrupted_at), racing=True)
    cut = run(tmp_path / "cut", COUNTS, RacingEvaluator(), racing=True)
    assert told(cut) == told(whole)
