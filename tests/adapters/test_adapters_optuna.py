"""Optuna's samplers: their contract, exact restoring, silence."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from tersenet.adapters import optuna
from tersenet.adapters.optuna import OptunaProposer
from tersenet.core.protocols import Box
from tersenet.errors import MissingExtraError, SearchError, StudyError
from tersenet.testing.contracts import check_proposer

library = pytest.importorskip("optuna")

BOX = Box(low=np.array([0.2, -3.0]), high=np.array([1.0, 5.0]))


def a_tpe(seed: int = 0) -> OptunaProposer:
    return optuna.tpe(num_decisions=3, action_space=BOX, num_startup=4, seed=seed)


def a_cmaes(seed: int = 0) -> OptunaProposer:
    return optuna.cmaes(num_decisions=3, action_space=BOX, seed=seed)


samplers = pytest.mark.parametrize("make", [a_tpe, a_cmaes])


@samplers
def test_it_keeps_its_contract(make: Callable[[int], OptunaProposer]) -> None:
    # long enough for the second generation of CMA-ES and for TPE after its random start, before and after restoring
    check_proposer(make, num_decisions=3, action_space=BOX, num_episodes=16)


@samplers
def test_the_sampler_learns(make: Callable[[int], OptunaProposer]) -> None:
    proposer = make(0)
    goal = np.array([0.8, -1.0])
    misses = []
    for _ in range(60):
        misses.append(float(np.abs((proposer.propose() - goal) / (BOX.high - BOX.low)).mean()))
        proposer.observe([], reward=-misses[-1])
    # uniform vectors miss these goals by 0.31 of the box on average
    assert np.mean(misses[:5]) > 0.2
    assert np.mean(misses[-15:]) < 0.6 * np.mean(misses[:15])


def test_a_state_that_does_not_come_out_again_is_refused() -> None:
    proposer = a_tpe()
    for reward in (0.1, 0.2):
        proposer.propose()
        proposer.observe([], reward=reward)
    with pytest.raises(StudyError, match="Trial 0 does not come out"):
        a_tpe(seed=1).load_state_dict(proposer.state_dict())


def test_a_reward_without_a_vector_is_refused() -> None:
    with pytest.raises(SearchError, match="Call propose"):
        a_tpe().observe([], reward=1.0)


def test_a_single_decision_can_be_searched() -> None:
    unit = Box(low=np.zeros(1), high=np.ones(1))
    for proposer in (
        optuna.tpe(num_decisions=1, action_space=unit, num_startup=2, seed=0),
        optuna.cmaes(num_decisions=1, action_space=unit, seed=0),
    ):
        for _ in range(5):
            assert 0.0 <= proposer.propose()[0, 0] <= 1.0
            proposer.observe([], reward=0.0)


@samplers
def test_nothing_is_printed_and_optunas_log_is_left_as_it_was(
    make: Callable[[int], OptunaProposer], capfd: pytest.CaptureFixture[str]
) -> None:
    before = library.logging.get_verbosity()
    library.logging.set_verbosity(library.logging.DEBUG)
    try:
        proposer = make(0)
        for reward in range(4):
            proposer.propose()
            proposer.observe([], reward=float(reward))
        make(0).load_state_dict(proposer.state_dict())
        assert library.logging.get_verbosity() == library.logging.DEBUG
    finally:
        library.logging.set_verbosity(before)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("missing", ["optuna", "cmaes"])
def test_what_is_not_installed_is_named_with_its_extra(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tersenet.adapters.optuna.find_spec", lambda name: None if name == missing else object())
    with pytest.raises(MissingExtraError, match=r"tersenet\[optuna\]"):
        a_tpe()


@pytest.mark.slow
def test_optuna_is_imported_only_when_it_is_used() -> None:
    code = "import sys, tersenet.recipes; sys.exit('optuna' in sys.modules or 'cmaes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
