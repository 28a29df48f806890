"""The ring of past steps: what it holds, what it draws, and that it goes on exactly after loading."""

from __future__ import annotations

import numpy as np
import pytest

from tersenet.agents.replay import Batch, ReplayBuffer
from tersenet.errors import StudyError


def _buffer(capacity: int = 4, *, seed: int = 0) -> ReplayBuffer:
    return ReplayBuffer(capacity, observation_size=2, action_size=1, seed=seed)


def _steps(*numbers: int) -> Batch:
    """Steps that can be told apart: everything in step ``n`` is n."""
    column = np.array(numbers, dtype=np.float32)
    return Batch(
        observations=np.stack([column, column], axis=1),
        actions=column[:, None],
        rewards=column,
        next_observations=np.stack([column, column], axis=1),
        done=column % 2 == 1,
    )


def test_every_stored_step_is_drawn_about_equally_often() -> None:
    buffer = _buffer()
    buffer.add(_steps(0, 1, 2))
    drawn = buffer.sample(3000).rewards
    counts = [int((drawn == step).sum()) for step in range(3)]
    # 1000 expected each, standard deviation 26
    assert all(870 < count < 1130 for count in counts)
    assert len(buffer) == 3


def test_the_oldest_steps_make_room_for_the_latest() -> None:
    buffer = _buffer()
    buffer.add(_steps(0, 1, 2))
    buffer.add(_steps(3, 4, 5))
    assert len(buffer) == 4
    assert set(buffer.sample(500).rewards.tolist()) == {2.0, 3.0, 4.0, 5.0}


def test_the_parts_of_a_step_stay_together() -> None:
    buffer = _buffer()
    buffer.add(_steps(4, 5, 6, 7, 8))
    batch = buffer.sample(50)
    np.testing.assert_array_equal(batch.observations[:, 1], batch.rewards)
    np.testing.assert_array_equal(batch.actions[:, 0], batch.rewards)
    np.testing.assert_array_equal(batch.next_observations[:, 0], batch.rewards)
    np.testing.assert_array_equal(batch.done, batch.rewards % 2 == 1)


def test_an_episode_longer_than_the_ring_leaves_its_end() -> None:
    buffer = _buffer()
    buffer.add(_steps(*range(11)))
    assert set(buffer.sample(500).rewards.tolist()) == {7.0, 8.0, 9.0, 10.0}


def test_nothing_can_be_drawn_from_an_empty_ring() -> None:
    with pytest.raises(ValueError, match="empty"):
        _buffer().sample(1)


@pytest.mark.parametrize("before", [[1, 2], [1, 2, 3, 4, 5, 6]])
def test_a_restored_ring_goes_on_exactly(before: list[int]) -> None:
    buffer, restored = _buffer(), _buffer(seed=9)
    buffer.add(_steps(*before))
    buffer.sample(3)
    restored.load_state_dict(buffer.state_dict())
    for ring in (buffer, restored):
        ring.add(_steps(7, 8))
    np.testing.assert_array_equal(buffer.sample(20).rewards, restored.sample(20).rewards)


def test_a_state_of_another_size_is_refused() -> None:
    buffer = _buffer(8)
    buffer.add(_steps(*range(8)))
    with pytest.raises(StudyError, match="does not fit"):
        _buffer(4).load_state_dict(buffer.state_dict())
