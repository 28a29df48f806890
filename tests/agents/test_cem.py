"""The cross-entropy method: its contract, and one generation by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from tersenet.agents import CEM, CEMConfig
from tersenet.core.protocols import Box, FloatArray, Transition
from tersenet.errors import StudyError
from tersenet.testing.contracts import check_proposer

BOX = Box(low=np.array([0.2, -3.0]), high=np.array([1.0, 5.0]))
UNIT = Box(low=np.zeros(1), high=np.ones(1))
SMALL = CEMConfig(generation_size=4, elite_share=0.5, smoothing=0.5, sigma_start=0.25, sigma_floor=0.01)


def episode(*actions: float) -> list[Transition]:
    """An episode that proposed these actions and executed others."""
    return [
        Transition(
            observation=np.zeros(1),
            action_proposed=np.array([action]),
            action_taken=np.array([0.9]),
            next_observation=np.zeros(1),
            done=False,
        )
        for action in actions
    ]


def a_search(config: CEMConfig = SMALL, *, num_decisions: int = 2, seed: int = 0) -> CEM:
    return CEM(config, num_decisions=num_decisions, action_space=UNIT, seed=seed)


def test_it_keeps_its_contract() -> None:
    config = SMALL.model_copy(update={"generation_size": 5})  # restoring falls into the middle of a generation
    check_proposer(
        lambda seed: CEM(config, num_decisions=3, action_space=BOX, seed=seed), num_decisions=3, action_space=BOX
    )


def test_a_generation_moves_means_and_widths_half_way_to_the_two_best() -> None:
    search = a_search()
    for actions, reward in (((0.1, 0.9), 0.0), ((0.2, 0.4), 2.0), ((0.6, 0.6), 3.0), ((0.9, 0.1), 1.0)):
        search.observe(episode(*actions), reward=reward)
        search.learn()
    state = search.state_dict()
    # the two best have means 0.4, 0.5 and widths 0.2, 0.1; before, means were 0.5 and widths 0.25
    np.testing.assert_allclose(state["mean"].astype(float)[:, 0], [0.45, 0.5])
    np.testing.assert_allclose(state["sigma"].astype(float)[:, 0], [0.225, 0.175])
    assert len(state["rewards"]) == 0


def test_nothing_moves_before_a_generation_is_complete() -> None:
    search = a_search()
    before = search.state_dict()
    for reward in range(3):
        search.observe(episode(0.1, 0.2), reward=float(reward))
        search.learn()
    after = search.state_dict()
    assert np.array_equal(before["mean"], after["mean"])
    assert np.array_equal(before["sigma"], after["sigma"])
    assert after["drawn"].shape == (3, 2, 1)


def test_widths_stop_at_their_floor() -> None:
    search = a_search(SMALL.model_copy(update={"smoothing": 1.0}))
    for _ in range(4):
        search.observe(episode(0.3, 0.3), reward=1.0)
        search.learn()
    np.testing.assert_allclose(search.state_dict()["sigma"].astype(float), 0.01)
    assert abs(float(search.propose()[0, 0]) - 0.3) < 0.06


def test_draws_follow_a_normal_distribution_cut_to_the_box() -> None:
    search = a_search(CEMConfig(sigma_start=0.4), num_decisions=3000)
    drawn: FloatArray = search.propose()[:, 0]
    expected = stats.truncnorm(-0.5 / 0.4, 0.5 / 0.4, loc=0.5, scale=0.4)
    assert stats.kstest(drawn, expected.cdf).pvalue > 0.01


def test_a_state_of_another_search_is_refused() -> None:
    with pytest.raises(StudyError, match=r"\(2, 1\), this search decides \(3, 1\)"):
        a_search(num_decisions=3).load_state_dict(a_search().state_dict())
