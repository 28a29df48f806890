"""Optuna's samplers as proposers: every action of a vector is one parameter, a trial here is a trial there.

A sampler's inner state (random generators, CMA-ES's matrices inside trial attributes) cannot be read as arrays. What
is saved is what it was told, and restoring tells it all again in the same order: since samplers are seeded, the same
questions and answers end in the same state. Every vector that comes out on the way is compared with the saved one.

Optuna's log is turned down and its warnings about experimental features are held back only while it is called.

Source: Akiba et al. 2019 (Optuna), arXiv:1907.10902; Bergstra et al. 2011, "Algorithms for hyper-parameter
optimization" (TPE); Hansen 2016, arXiv:1604.00772 (CMA-ES).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from tersenet.agents.random import check_reward
from tersenet.core.protocols import Box, FloatArray, State, Transition
from tersenet.errors import MissingExtraError, SearchError, StudyError

if TYPE_CHECKING:
    from optuna import Study, Trial
    from optuna.distributions import BaseDistribution
    from optuna.samplers import BaseSampler

EXTRA = "optuna"
"""Name of the extra that installs what is needed."""

LIBRARIES = ("optuna", "cmaes")
"""What that extra installs and this file needs."""


class OptunaProposer:
    """A sampler of Optuna asked for whole vectors; implements ``core.protocols.Proposer``.

    Made by :func:`tpe` and :func:`cmaes`.
    """

    def __init__(self, make_sampler: Callable[[], BaseSampler], *, num_decisions: int, action_space: Box) -> None:
        """Begin an empty study in memory.

        Args:
            make_sampler: makes the sampler, seeded, always the same.
            num_decisions: actions per vector.
            action_space: box of one action.
        """
        from optuna.distributions import FloatDistribution

        self._make_sampler = make_sampler
        self._shape = (num_decisions, action_space.size)
        low, high = (np.tile(end, num_decisions) for end in (action_space.low, action_space.high))
        self._parameters: dict[str, BaseDistribution] = {
            f"x{number:04d}": FloatDistribution(float(least), float(most))
            for number, (least, most) in enumerate(zip(low, high, strict=True))
        }
        self._study = self._empty_study()
        self._asked: Trial | None = None
        self._told: list[tuple[FloatArray, float]] = []

    def propose(self) -> FloatArray:
        """The sampler's next vector, shape (num_decisions, action size); the same until a reward is told."""
        if self._asked is None:
            with _quiet():
                self._asked = self._study.ask(self._parameters)
        values = [self._asked.params[name] for name in self._parameters]
        return np.array(values, dtype=np.float64).reshape(self._shape)

    def observe(self, transitions: list[Transition], *, reward: float) -> None:
        """Tell the sampler what its vector is worth; what was executed follows from it, so it is not told.

        Raises:
            SearchError: the reward is not a finite number, or nothing was proposed.
        """
        check_reward(reward)
        if self._asked is None:
            raise SearchError("observe was called before propose. Call propose for the vector that the reward is for.")
        proposed = self.propose()
        with _quiet():
            self._study.tell(self._asked, float(reward))
        self._told.append((proposed, float(reward)))
        self._asked = None

    def learn(self) -> None:
        """The sampler learns when it is asked."""

    def state_dict(self) -> State:
        """Everything that was proposed, shape (told, num_decisions, action size), and its rewards, shape (told,)."""
        proposals = [proposed for proposed, _ in self._told]
        return {
            "proposals": np.stack(proposals) if proposals else np.zeros((0, *self._shape)),
            "rewards": np.array([reward for _, reward in self._told], dtype=np.float64),
        }

    def load_state_dict(self, state: State) -> None:
        """Ask and tell a fresh sampler all that is saved.

        Raises:
            StudyError: other vectors come out than the saved ones: another version of Optuna, or other settings.
        """
        self._study, self._asked, self._told = self._empty_study(), None, []
        for number, (saved, reward) in enumerate(zip(state["proposals"], state["rewards"], strict=True)):
            if not np.array_equal(self.propose(), saved):
                raise StudyError(
                    f"Trial {number} does not come out of Optuna's sampler as it was saved: it was made by another "
                    "version of optuna, cmaes or numpy, or with other settings. Choose another --out."
                )
            self.observe([], reward=float(reward))

    def _empty_study(self) -> Study:
        import optuna

        with _quiet():
            return optuna.create_study(direction="maximize", sampler=self._make_sampler())


def tpe(*, num_decisions: int, action_space: Box, num_startup: int, seed: int) -> OptunaProposer:
    """The tree-structured Parzen estimator over all actions together.

    Args:
        num_decisions: actions per vector.
        action_space: box of one action.
        num_startup: random vectors at the beginning.
        seed: fixes all draws.

    Raises:
        MissingExtraError: Optuna is not installed.
    """
    _require_installed()
    from optuna.samplers import TPESampler

    def make() -> BaseSampler:
        return TPESampler(seed=seed, multivariate=True, n_startup_trials=num_startup)

    return OptunaProposer(make, num_decisions=num_decisions, action_space=action_space)


def cmaes(*, num_decisions: int, action_space: Box, seed: int) -> OptunaProposer:
    """CMA-ES from the middle of the box, a sixth of it wide; its first vector is random, as Optuna has it.

    Args:
        num_decisions: actions per vector.
        action_space: box of one action.
        seed: fixes all draws.

    Raises:
        MissingExtraError: Optuna or cmaes is not installed.
    """
    _require_installed()
    from optuna.samplers import CmaEsSampler

    def make() -> BaseSampler:
        return CmaEsSampler(seed=seed, warn_independent_sampling=False)

    return OptunaProposer(make, num_decisions=num_decisions, action_space=action_space)


def _require_installed() -> None:
    if any(find_spec(library) is None for library in LIBRARIES):
        raise MissingExtraError(" and ".join(LIBRARIES), EXTRA)


@contextmanager
def _quiet() -> Iterator[None]:
    """Optuna without its log and its warnings about experimental features; everything is put back after."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
