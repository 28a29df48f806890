"""Whatever goes wrong in the middle of a run ends it with one clear line, and the same command goes on."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from durable_runs import TRIALS, command, outcome, stored
from forked_runs import ForkedRun, Launcher

from tersenet.core.metrics import Evaluation, Metrics
from tersenet.core.policy import Policy
from tersenet.errors import StudyError
from tersenet.search import Study, Trial

OWN = ("--data", "user.py:data", "--loss", "user.py:loss")


def _trouble(what: str, after: int) -> dict[str, str]:
    """Environment in which the user's code fails at the call after so many."""
    return {"TROUBLE": json.dumps({"what": what, "after": after})}


def _complaint(run: ForkedRun) -> str:
    """The one line that a run ended with."""
    assert run.wait() == 2, run.stderr.read_text()
    lines = run.stderr.read_text().splitlines()
    assert lines[-1].startswith("tersenet: "), lines
    assert sum(line.startswith("tersenet: ") for line in lines) == 1, lines
    assert not any("Traceback" in line for line in lines), lines
    return lines[-1]


@pytest.mark.slow
def test_a_run_goes_on_after_every_trouble_and_ends_as_one_without_any(two_folders: Path, launcher: Launcher) -> None:
    arguments = command("../weights.safetensors", *OWN)
    whole, troubled = two_folders / "whole", two_folders / "troubled"
    assert launcher.start(arguments, whole).wait() == 0

    # calls of the metric: one for the baseline, then one per trial
    failed = launcher.start(arguments, troubled, env=_trouble("metric", 4))
    assert "The metric accuracy failed with RuntimeError: the sensor is lost" in _complaint(failed)
    assert set(stored(troubled).rewards) == {("random", number) for number in range(3)}

    failed = launcher.start(arguments, troubled, env=_trouble("nan metric", 3))
    assert "The metric accuracy returned nan" in _complaint(failed)
    assert len(stored(troubled).rewards) == 6

    # the agent's state is 1 MB and more, and all before it needs less
    failed = launcher.start(arguments, troubled, limit_bytes=300_000)
    complaint = _complaint(failed)
    assert "study.sqlite cannot be written: " in complaint
    assert "free some space" in complaint
    kept = stored(troubled).rewards
    assert 6 < len(kept) < 2 * TRIALS

    moved = launcher.start(arguments, troubled)
    assert moved.wait_for("search he2018: started")
    (troubled / "out").rename(troubled / "elsewhere")
    assert "deleted, moved or replaced" in _complaint(moved)
    assert not (troubled / "out").exists()
    (troubled / "elsewhere").rename(troubled / "out")
    assert kept.items() <= stored(troubled).rewards.items()

    failed = launcher.start(arguments, troubled, env=_trouble("search data", 0))
    complaint = _complaint(failed)
    assert "search, batch 0 could not be read: ConnectionError: the file server is gone" in complaint
    assert len(stored(troubled).rewards) == 2 * TRIALS

    failed = launcher.start(arguments, troubled, env=_trouble("nan loss", 0))
    complaint = _complaint(failed)
    assert "The loss became nan in epoch 2" in complaint
    assert "finetune_learning_rate" in complaint

    failed = launcher.start(arguments, troubled, limit_bytes=20_000)
    assert "could not be written: " in _complaint(failed)
    assert list((troubled / "out" / "checkpoints").rglob(".*")) == []

    finished = launcher.start(arguments, troubled)
    assert finished.wait() == 0, finished.stderr.read_text()
    assert f"{TRIALS} of {TRIALS} were done before" in finished.stderr.read_text()
    assert outcome(troubled) == outcome(whole)


def _trial(number: int) -> Trial:
    return Trial(
        method="random", number=number, phase="control", seed=1, policy=Policy(), proposals=np.array([[0.5]]),
        evaluation=Evaluation(metrics=Metrics(top1=50.0), seconds=0.1), reward=0.5, seconds=0.2,
    )  # fmt: skip


def _tell(study: Study, number: int) -> None:
    study.record_asked(_trial(number))
    study.record_told(_trial(number), transitions=[], agent={"weights": np.full(20_000, float(number))})


def test_a_full_disk_is_said_and_what_was_told_before_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "study.sqlite"
    connect = sqlite3.connect

    def with_a_small_disk(*arguments: object, **options: object) -> sqlite3.Connection:
        connection = connect(*arguments, **options)  # type: ignore[call-overload]
        connection.execute("PRAGMA max_page_count = 50")  # of 4 kB; two states of an agent need 80
        return connection  # type: ignore[no-any-return]

    with monkeypatch.context() as patched:
        patched.setattr(sqlite3, "connect", with_a_small_disk)
        with Study(path, identity={}) as study:
            _tell(study, 0)
            study.record_asked(_trial(1))
            with pytest.raises(StudyError, match=r"cannot be written: database or disk is full.*free some space"):
                study.record_told(_trial(1), transitions=[], agent={"weights": np.zeros(60_000)})
            assert [trial.reward for trial in study.trials("random")] == [0.5, None]
    with Study(path, identity={}) as study:
        state = study.agent_state("random")
        assert state is not None
        np.testing.assert_array_equal(state["weights"], np.zeros(20_000))
        study.record_told(_trial(1), transitions=[], agent={"weights": np.ones(60_000)})
        assert [trial.reward for trial in study.trials("random")] == [0.5, 0.5]


@pytest.mark.parametrize("replaced", [False, True])
def test_a_study_that_is_deleted_while_open_is_noticed_at_the_next_trial(tmp_path: Path, replaced: bool) -> None:
    path = tmp_path / "study.sqlite"
    with Study(path, identity={}) as study:
        _tell(study, 0)
        path.rename(tmp_path / "moved.sqlite")
        if replaced:
            path.write_bytes(b"")
        with pytest.raises(StudyError, match="deleted, moved or replaced"):
            study.record_asked(_trial(1))
    path.unlink(missing_ok=True)
    (tmp_path / "moved.sqlite").rename(path)
    with Study(path, identity={}) as study:
        assert [trial.number for trial in study.trials("random")] == [0]
