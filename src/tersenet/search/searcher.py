"""Ask and tell: an agent's walk through an environment, or a proposer's whole vector, becomes a trial; a measurement
becomes what it learns from.

With a window of N, N trials are in flight: trial t is asked for after exactly trial t - N was told, and trials are told
in the order asked. What an agent proposes thus depends on the window and never on which trial was measured first.

Source: the ask/tell interface of pyribs and Optuna. The costly measurement sits outside; searcher, environment and
agent are exactly resumable: an agent's state is saved with the trial it learned from. By then the N - 1 trials after
that one were asked for, and stand in the study; the next one is the same walk again.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from tersenet.core.metrics import Evaluation
from tersenet.core.policy import Policy
from tersenet.core.protocols import Agent, Env, FloatArray, Proposer, Transition
from tersenet.errors import SearchError, StudyError
from tersenet.search.study import Study, Trial

PROBE = "probe"
"""Phase of a trial that only measures and does not keep the budget."""

Reward = Callable[[Evaluation, Policy], float]
"""What a measured policy is worth; higher is better."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """The parts of one way to search, put together by a recipe."""

    name: str
    """Recipe name, as it stands in the study."""

    env: Env
    agent: Agent | Proposer
    reward: Reward
    num_trials: int

    num_warmup: int
    """Trials at the beginning whose proposals are not learned."""

    is_control: bool = False
    """Whether the method stands beside the agents for comparison; no network proposes its trials."""

    num_probes: int = 0
    """Trials at the beginning that only measure, outside the budget; never chosen."""

    probe_env: Env | None = None
    """What decodes these: the decisions of ``env`` without its budget."""

    sequential: bool = False
    """Whether the agent must be told of a trial before it can be asked for the next. Its trials then run one at a time,
    however many workers there are."""

    is_live: bool = False
    """Whether each trial changes the network that the next one is measured on: nothing is looked up then, and trials
    run one at a time."""

    def env_of(self, number: int) -> Env:
        """The environment that trial ``number`` is decoded by."""
        if number >= self.num_probes:
            return self.env
        assert self.probe_env is not None, "probes need an environment without a budget"
        return self.probe_env

    def window(self, workers: int) -> int:
        """Trials that may be in flight at once."""
        return 1 if self.sequential or self.is_live else workers

    def phase_of(self, number: int, *, num_told: int) -> str:
        """The phase of trial ``number``, asked for when ``num_told`` trials were told, see ``Trial``."""
        if number < self.num_probes:
            return PROBE
        if num_told < self.num_warmup:
            return "warmup"
        return "control" if self.is_control else "learned"


def candidates(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that may be chosen: not probes, which do not keep the budget, nor trials that were stopped early."""
    return [trial for trial in trials if trial.phase != PROBE and not _stopped_early(trial)]


def _stopped_early(trial: Trial) -> bool:
    return trial.evaluation is not None and trial.evaluation.stopped_early


@dataclass(frozen=True)
class _Asked:
    """A trial in flight, and what only its own walk could tell."""

    trial: Trial
    transitions: list[Transition]
    at: float
    """When it was asked for, seconds of ``perf_counter``."""


class Searcher:
    """Asks a method for policies and tells it what they measured; continues what the study already holds."""

    def __init__(self, method: Method, study: Study, *, seed: int, workers: int = 1) -> None:
        """Read what the study holds and put the agent's state back.

        Args:
            workers: trials in flight at once, where the method allows it; the same for the whole life of the study.
        """
        self._method = method
        self._study = study
        self._seed = seed
        self._window = method.window(workers)
        self._in_flight: deque[_Asked] = deque()
        self._told_at = -math.inf
        stored = study.trials(method.name)
        self._told = [trial for trial in stored if trial.evaluation is not None]
        self._asked_before = {trial.number: trial for trial in stored if trial.evaluation is None}
        self._num_drawn = 0
        """Trials that the agent has been asked for in the state that was put back."""
        state = study.agent_state(method.name)
        if state is not None:
            method.agent.load_state_dict(state)
            self._num_drawn = min(len(self._told) + self._window - 1, method.num_trials)

    @property
    def told(self) -> list[Trial]:
        """Every finished trial, in order."""
        return list(self._told)

    @property
    def is_done(self) -> bool:
        """Whether all trials of the method are told."""
        return len(self._told) >= self._method.num_trials

    @property
    def can_ask(self) -> bool:
        """Whether the next call is ``ask``; it is ``tell`` otherwise, or all is done."""
        return len(self._in_flight) < min(self._window, self._method.num_trials - len(self._told))

    def told_before(self, trial: Trial) -> list[Trial]:
        """The trials that had been told when this one was asked for, however often the run was interrupted since."""
        return self._told[: max(0, trial.number + 1 - self._window)]

    def ask(self) -> Trial:
        """The next policy to evaluate.

        Raises:
            SearchError: as many trials as may be in flight were not told yet, or all trials are done.
        """
        if len(self._in_flight) >= self._window:
            raise SearchError(
                f"Trial {self._in_flight[0].trial.number} was asked for and not told yet. Call tell first."
            )
        if not self.can_ask:
            raise SearchError(f"All {self._method.num_trials} trials of {self._method.name!r} are done or in flight.")
        asked_at = time.perf_counter()
        number = len(self._told) + len(self._in_flight)
        trial = self._again(number) if number < self._num_drawn else self._new(number)
        transitions = self._method.env_of(number).transitions()
        self._in_flight.append(_Asked(trial, transitions, asked_at))
        return trial

    def _again(self, number: int) -> Trial:
        """A trial that was in flight when the state was saved: the agent has proposed it already."""
        before = self._asked_before.pop(number, None)
        if before is None or self._method.env_of(number).decode(before.proposals) != before.policy:
            raise self._not_the_same(number)
        return before

    def _new(self, number: int) -> Trial:
        trial = self._next(number)
        before = self._asked_before.pop(number, None)
        if before is None:
            self._study.record_asked(trial)
        elif not np.array_equal(before.proposals, trial.proposals):
            raise self._not_the_same(number)
        return trial

    def _not_the_same(self, number: int) -> StudyError:
        return StudyError(
            f"Trial {number} of {self._method.name!r} was interrupted and does not come out the same again: "
            f"the study {self._study.path} was made by another version or processor. Choose another --out."
        )

    def _next(self, number: int) -> Trial:
        method, env = self._method, self._method.env_of(number)
        seed = self._seed * 1_000_003 + number
        if isinstance(method.agent, Proposer):
            proposals = np.asarray(method.agent.propose(), dtype=np.float64)
            policy = env.decode(proposals)
        else:
            proposals = _walk(env, method.agent, seed)
            policy = env.decode()
        return Trial(
            method=method.name,
            number=number,
            phase=method.phase_of(number, num_told=len(self._told)),
            seed=seed,
            policy=policy,
            proposals=proposals,
        )

    def tell(self, trial: Trial, evaluation: Evaluation) -> float:
        """Take in what a trial measured; returns its reward.

        Raises:
            SearchError: the trial is not the oldest in flight, others must be asked for first, or its reward is not a
                finite number.
        """
        if not self._in_flight or trial.number != self._in_flight[0].trial.number:
            raise SearchError(
                f"Trial {trial.number} was not asked for, or was told already, or one before it was not told yet. "
                "Call ask first, and tell in the order asked."
            )
        if self.can_ask:
            raise SearchError(
                f"Trial {trial.number} is told too early: {self._window} trials must be in flight, so that what is "
                "asked for does not depend on time. Call ask first."
            )
        reward = self._method.reward(evaluation, trial.policy)
        if not math.isfinite(reward):
            raise SearchError(
                f"Trial {trial.number} of {self._method.name!r} has the reward {reward}, from a measured quality of "
                f"{evaluation.metrics.quality}. Check the metric, the data and the weights for NaN."
            )
        asked = self._in_flight.popleft()
        self._method.agent.observe(asked.transitions, reward=reward)
        self._method.agent.learn()
        now = time.perf_counter()
        told = replace(trial, evaluation=evaluation, reward=reward, seconds=now - max(asked.at, self._told_at))
        self._study.record_told(told, transitions=asked.transitions, agent=self._method.agent.state_dict())
        self._told.append(told)
        self._told_at = now
        return reward


def _walk(env: Env, agent: Agent, seed: int) -> FloatArray:
    observation = env.reset(seed=seed)
    proposals, done = [], False
    while not done:
        proposals.append(np.asarray(agent.act(observation), dtype=np.float64))
        observation, done = env.step(proposals[-1])
    return np.stack(proposals)
