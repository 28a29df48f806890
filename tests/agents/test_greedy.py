"""Greedy search: its probes, its moves, its end, each by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tersenet.agents import Greedy, GreedyConfig
from tersenet.core.protocols import Box, FloatArray, Transition
from tersenet.errors import StudyError
from tersenet.testing.contracts import check_proposer

BOX = Box(low=np.array([0.2]), high=np.array([1.0]))


class Allotted:
    """Keeps what it was called with and always answers the same."""

    def __init__(self, answer: tuple[float, ...]) -> None:
        self.answer = np.array(answer)
        self.ratios = np.zeros(0)
        self.losses = np.zeros(0)

    def __call__(self, ratios: FloatArray, losses: FloatArray) -> FloatArray:
        self.ratios, self.losses = ratios, losses
        return self.answer.copy()


def unbounded(ratios: FloatArray) -> FloatArray:
    return ratios


def a_search(allot: Allotted, *, num_trials: int = 20, config: GreedyConfig | None = None) -> Greedy:
    return Greedy(
        config or GreedyConfig(max_levels=2),
        num_trials=num_trials,
        num_decisions=2,
        lowest=0.2,
        allot=allot,
        execute=unbounded,
    )


def tell(search: Greedy, reward: float, taken: FloatArray | None = None) -> list[float]:
    """Ask, tell, and return what was proposed."""
    proposed = search.propose()
    executed = proposed if taken is None else taken
    search.observe(
        [
            Transition(
                observation=np.zeros(1),
                action_proposed=one,
                action_taken=np.atleast_1d(other),
                next_observation=np.zeros(1),
                done=False,
            )
            for one, other in zip(proposed, executed, strict=True)
        ],
        reward=reward,
    )
    search.learn()
    return [round(float(ratio), 9) for ratio in proposed[:, 0]]


def without_probes(*start: float) -> Greedy:
    """A search that has just begun at ``start`` with reward 0."""
    search = a_search(Allotted((0.0, 0.0)), config=GreedyConfig(probe_share=0.0))
    assert tell(search, 0.0, np.array(start)) == [1.0, 1.0]
    return search


def test_it_keeps_its_contract() -> None:
    check_proposer(
        lambda seed: Greedy(
            GreedyConfig(),
            num_trials=30,
            num_decisions=2,
            lowest=0.2,
            allot=Allotted((0.5, 0.5)),
            execute=lambda ratios: np.round(ratios, 1),
        ),
        num_decisions=2,
        action_space=BOX,
        is_random=False,
    )


def test_every_decision_is_probed_alone_at_even_ratios() -> None:
    search = a_search(Allotted((0.4, 0.7)))
    # 0.3 of 20 trials are 6: one of everything whole leaves two ratios for each of two decisions
    assert search.num_probes == 5
    assert [tell(search, 0.0) for _ in range(5)] == [[1, 1], [0.6, 1], [0.2, 1], [1, 0.6], [1, 0.2]]
    assert tell(search, 0.0) == [0.4, 0.7]


def test_the_budget_is_allotted_by_executed_ratios_and_what_was_lost() -> None:
    allotted = Allotted((0.4, 0.7))
    search = a_search(allotted)
    taken = ([1, 1], [0.62, 1], [0.25, 1], [1, 0.58], [1, 0.25])
    for executed, reward in zip(taken, (0.9, 0.8, 0.5, 0.95, 0.7), strict=True):
        tell(search, reward, np.array(executed, dtype=float))
    search.propose()
    np.testing.assert_allclose(allotted.ratios, [[0.62, 0.25], [0.58, 0.25]])
    np.testing.assert_allclose(allotted.losses, [[0.1, 0.4], [-0.05, 0.2]])


def test_a_probe_with_a_high_reward_is_never_where_moves_begin() -> None:
    search = a_search(Allotted((0.4, 0.7)))
    for _ in range(5):
        tell(search, 99.0)
    tell(search, 0.1)
    assert tell(search, 0.0) == [0.6, 0.7]  # the allotted vector and one step up


def test_moves_go_up_and_down_one_by_one_and_are_repeated_while_they_help() -> None:
    search = without_probes(0.5, 0.5)
    assert tell(search, -1.0) == [0.7, 0.5]
    assert tell(search, 1.0) == [0.3, 0.5]  # helps
    assert tell(search, 0.5) == [0.2, 0.5]  # again, cut to the box; does not help
    assert tell(search, 0.5) == [0.3, 0.7]
    assert tell(search, 0.5) == [0.3, 0.3]


def test_the_step_is_halved_when_no_move_helps_and_old_vectors_are_not_asked_again() -> None:
    search = without_probes(0.5, 0.5)
    assert [tell(search, -1.0) for _ in range(4)] == [[0.7, 0.5], [0.3, 0.5], [0.5, 0.7], [0.5, 0.3]]
    assert tell(search, 1.0) == [0.6, 0.5]  # half the step, and it helps
    # one more up is 0.7, 0.5, which was measured before; so down, which is where it came from; so the second
    assert tell(search, 0.0) == [0.6, 0.6]


def test_with_nothing_left_to_try_the_best_is_proposed_again() -> None:
    search = a_search(Allotted((0.0, 0.0)), config=GreedyConfig(probe_share=0.0, step_start=0.2, step_floor=0.15))
    tell(search, 0.0, np.array([0.5, 0.5]))
    for _ in range(4):
        tell(search, -1.0)
    assert [tell(search, 0.0) for _ in range(3)] == [[0.5, 0.5]] * 3


def test_a_state_of_another_search_is_refused() -> None:
    other = Greedy(GreedyConfig(), num_trials=9, num_decisions=3, lowest=0.2, allot=Allotted((0.5,)), execute=unbounded)
    with pytest.raises(StudyError, match=r"shape \(3,\), this search decides \(2,\)"):
        without_probes(0.5, 0.5).load_state_dict(other.state_dict())
