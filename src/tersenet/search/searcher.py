"""Ask and tell: an agent's walk through an environment, or a proposer's whole vector, becomes a trial; a measurement
becomes what it learns from.

Source: the ask/tell interface of pyribs and Optuna. The costly measurement sits outside; searcher, environment and
agent are exactly resumable, because an agent's state is saved with the trial it learned from and a trial that was
asked but not told is the same walk again.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np

from tersenet.core.metrics import Evaluation
from tersenet.core.policy import Policy
from tersenet.core.protocols import Agent, Env, FloatArray, Proposer
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

    def env_of(self, number: int) -> Env:
        """The environment that trial ``number`` is decoded by."""
        if number >= self.num_probes:
            return self.env
        assert self.probe_env is not None, "probes need an environment without a budget"
        return self.probe_env

    def phase_of(self, number: int) -> str:
        """The phase of trial ``number``, see ``Trial``."""
        if number < self.num_probes:
            return PROBE
        if number < self.num_warmup:
            return "warmup"
        return "control" if self.is_control else "learned"


def candidates(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that may be chosen: not probes, which do not keep the budget, nor trials that were stopped early."""
    return [trial for trial in trials if trial.phase != PROBE and not _stopped_early(trial)]


def _stopped_early(trial: Trial) -> bool:
    return trial.evaluation is not None and trial.evaluation.stopped_early


class Searcher:
    """Asks a method for policies and tells it what they measured; continues what the study already holds."""

    def __init__(self, method: Method, study: Study, *, seed: int) -> None:
        self._method = method
        self._study = study
        self._seed = seed
        self._pending: Trial | None = None
        self._asked_at = 0.0
        stored = study.trials(method.name)
        self._told = [trial for trial in stored if trial.evaluation is not None]
        self._asked_before = {trial.number: trial for trial in stored if trial.evaluation is None}
        state = study.agent_state(method.name)
        if state is not None:
            method.agent.load_state_dict(state)

    @property
    def told(self) -> list[Trial]:
        """Every finished trial, in order."""
        return list(self._told)

    @property
    def is_done(self) -> bool:
        """Whether all trials of the method are told."""
        return len(self._told) >= self._method.num_trials

    def ask(self) -> Trial:
        """The next policy to evaluate.

        Raises:
            SearchError: the trial before was not told yet, or all trials are done.
        """
        if self._pending is not None:
            raise SearchError(f"Trial {self._pending.number} was asked for and not told yet. Call tell first.")
        if self.is_done:
            raise SearchError(f"All {self._method.num_trials} trials of {self._method.name!r} are done.")
        self._asked_at = time.perf_counter()
        number = len(self._told)
        trial = self._next(number)
        before = self._asked_before.pop(number, None)
        if before is None:
            self._study.record_asked(trial)
        elif not np.array_equal(before.proposals, trial.proposals):
            raise StudyError(
                f"Trial {number} of {self._method.name!r} was interrupted and does not come out the same again: "
                f"the study {self._study.path} was made by another version or processor. Choose another --out."
            )
        self._pending = trial
        return trial

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
            phase=method.phase_of(number),
            seed=seed,
            policy=policy,
            proposals=proposals,
        )

    def tell(self, trial: Trial, evaluation: Evaluation) -> float:
        """Take in what a trial measured; returns its reward.

        Raises:
            SearchError: the trial is not the one asked for, or its reward is not a finite number.
        """
        if self._pending is None or trial.number != self._pending.number:
            raise SearchError(f"Trial {trial.number} was not asked for, or was told already. Call ask first.")
        reward = self._method.reward(evaluation, trial.policy)
        if not math.isfinite(reward):
            raise SearchError(
                f"Trial {trial.number} of {self._method.name!r} has the reward {reward}, from a measured quality of "
                f"{evaluation.metrics.quality}. Check the metric, the data and the weights for NaN."
            )
        transitions = self._method.env_of(trial.number).transitions()
        self._method.agent.observe(transitions, reward=reward)
        self._method.agent.learn()
        seconds = time.perf_counter() - self._asked_at
        told = replace(trial, evaluation=evaluation, reward=reward, seconds=seconds)
        self._study.record_told(told, transitions=transitions, agent=self._method.agent.state_dict())
        self._told.append(told)
        self._pending = None
        return reward


def _walk(env: Env, agent: Agent, seed: int) -> FloatArray:
    observation = env.reset(seed=seed)
    proposals, done = [], False
    while not done:
        proposals.append(np.asarray(agent.act(observation), dtype=np.float64))
        observation, done = env.step(proposals[-1])
    return np.stack(proposals)
