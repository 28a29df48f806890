"""The durable study: identity, lock, one transaction per trial."""

from __future__ import annotations

import sqlite3
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tersenet.core.metrics import Evaluation, Metrics
from tersenet.core.policy import ChannelDecision, Policy
from tersenet.core.protocols import Transition
from tersenet.errors import StudyError
from tersenet.search import Study, Trial

IDENTITY = {"recipe": "he2018", "seed": "0"}


def a_trial(number: int = 0) -> Trial:
    policy = Policy(channels={"conv1": ChannelDecision(pruning_ratio=0.25)})
    return Trial(
        method="he2018", number=number, phase="warmup", seed=7, policy=policy, proposals=np.array([[0.5], [0.75]])
    )


def an_evaluation(top1: float = 61.5) -> Evaluation:
    return Evaluation(metrics=Metrics(top1=top1, num_samples=200, split="search"), seconds=0.25)


def told_trial(reward: float) -> Trial:
    return replace(a_trial(), evaluation=an_evaluation(), reward=reward, seconds=1.5)


def a_transition() -> Transition:
    return Transition(
        observation=np.array([0.0, 0.5]),
        action_proposed=np.array([0.9]),
        action_taken=np.array([0.8]),
        next_observation=np.array([0.1, 0.5]),
        done=True,
    )


def test_what_was_told_is_there_after_opening_again(tmp_path: Path) -> None:
    with Study(tmp_path / "s.sqlite", identity=IDENTITY) as study:
        study.record_asked(a_trial())
        study.record_told(told_trial(0.615), transitions=[a_transition()], agent={"w": np.array([1.0, -2.0])})
        study.record_asked(a_trial(1))
    with Study(tmp_path / "s.sqlite", identity=IDENTITY) as study:
        told, asked = study.trials("he2018")
        assert told.reward == 0.615
        assert told.seconds == 1.5
        assert told.evaluation == an_evaluation()
        assert told.policy == a_trial().policy
        np.testing.assert_array_equal(told.proposals, [[0.5], [0.75]])
        assert asked.evaluation is None
        state = study.agent_state("he2018")
        assert state is not None
        np.testing.assert_array_equal(state["w"], [1.0, -2.0])
        assert study.agent_state("random") is None


def test_another_run_is_refused_and_the_difference_named(tmp_path: Path) -> None:
    Study(tmp_path / "s.sqlite", identity=IDENTITY).close()
    with pytest.raises(StudyError, match="seed: 0 there, 1 now"):
        Study(tmp_path / "s.sqlite", identity={"recipe": "he2018", "seed": "1"})


@pytest.mark.slow
def test_a_study_in_use_is_refused(tmp_path: Path) -> None:
    with (
        Study(tmp_path / "s.sqlite", identity=IDENTITY),
        pytest.raises(StudyError, match="in use by another process"),
    ):
        Study(tmp_path / "s.sqlite", identity=IDENTITY)


def test_a_file_that_is_no_study_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(StudyError, match="not a study"):
        Study(path, identity=IDENTITY)
    assert path.read_bytes() == b"this is not a database" * 100


def test_a_trial_told_before_it_was_asked_changes_nothing(tmp_path: Path) -> None:
    with Study(tmp_path / "s.sqlite", identity=IDENTITY) as study:
        with pytest.raises(StudyError, match="before it was asked"):
            study.record_told(told_trial(0.1), transitions=[], agent={"w": np.zeros(1)})
        assert study.trials("he2018") == []
        assert study.agent_state("he2018") is None


def test_evaluation_and_agent_are_written_together_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "s.sqlite"
    with Study(path, identity=IDENTITY) as study:
        study.record_asked(a_trial())
    with sqlite3.connect(path) as raw:
        raw.execute("CREATE TRIGGER full BEFORE INSERT ON agents BEGIN SELECT RAISE(ABORT, 'disk full'); END")
    raw.close()
    with Study(path, identity=IDENTITY) as study:
        with pytest.raises(StudyError):
            study.record_told(told_trial(0.1), transitions=[], agent={"w": np.zeros(1)})
        assert study.trials("he2018")[0].evaluation is None


def test_facts_are_kept_and_replaced(tmp_path: Path) -> None:
    with Study(tmp_path / "s.sqlite", identity=IDENTITY) as study:
        assert study.fact("baseline") is None
        study.set_fact("baseline", {"top1": 91.5})
        study.set_fact("baseline", {"top1": 91.7})
        assert study.fact("baseline") == {"top1": 91.7}


def test_a_folder_that_does_not_exist_is_said(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="cannot be opened"):
        Study(tmp_path / "nowhere" / "s.sqlite", identity=IDENTITY)


def test_the_shapes_of_an_agents_arrays_are_kept(tmp_path: Path) -> None:
    state = {"scalar": np.array(3.0), "strided": np.arange(6.0).reshape(2, 3).T}
    with Study(tmp_path / "s.sqlite", identity=IDENTITY) as study:
        study.record_asked(a_trial())
        study.record_told(told_trial(0.1), transitions=[], agent=state)
        stored = study.agent_state("he2018")
    assert stored is not None
    assert stored["scalar"].shape == ()
    np.testing.assert_array_equal(stored["strided"], [[0.0, 3.0], [1.0, 4.0], [2.0, 5.0]])
