"""A run on two worker processes that is killed and started again ends as one that was not."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from durable_runs import TRIALS, command, num_evaluations, outcome, stored
from forked_runs import Launcher

from tersenet.report import read_summary

pytest.importorskip("ray", reason="the extra ray is not installed")


@pytest.mark.slow
def test_a_run_on_two_workers_that_is_killed_ends_as_one_that_was_not(two_folders: Path, launcher: Launcher) -> None:
    arguments = command("../weights.safetensors", "--workers", "2")
    whole, troubled = two_folders / "whole", two_folders / "troubled"
    run = launcher.start(arguments, whole)
    assert run.wait() == 0, run.stderr.read_text()
    run = launcher.start(arguments, troubled)
    run.sleep_until(lambda: num_evaluations(troubled).total() >= TRIALS + 8 or run.has_ended())
    run.signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL, run.stderr.read_text()
    left = stored(troubled)
    assert left.num_asked - len(left.rewards) <= 2
    run = launcher.start(arguments, troubled)
    assert run.wait() == 0, run.stderr.read_text()
    assert outcome(troubled) == outcome(whole)
    assert num_evaluations(troubled).total() <= num_evaluations(whole).total() + 2  # those that were in flight
    assert _files(troubled) == _files(whole)
    found = read_summary(troubled / "out")
    assert (found.workers, found.provenance["workers"]) == (2, "2")
    run = launcher.start([*arguments[:-1], "1"], troubled)
    assert run.wait() == 2
    assert "workers: 2 there, 1 now" in run.stderr.read_text()


def _files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in (folder / "out").rglob("*")}
