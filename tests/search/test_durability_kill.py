"""A run that is killed at any moment goes on, and ends as if nothing had happened."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from durable_runs import TRIALS, Stored, command, num_evaluations, outcome, stored
from forked_runs import Launcher

from tersenet.core.files import remove_leftovers, write_whole

MOMENTS = (
    [("", 0.5)]
    + [("search random: started", 0.5)] * 4
    + [("search he2018: started", 0.5)] * 6
    + [("search he2018: done", 0.6)] * 3
    + [("fine-tune: started", 0.3)] * 3
    + [("fine-tune: done", 0.8)] * 3
)
"""A line on stderr, and how many seconds after it the latest kill comes."""


@pytest.mark.slow
def test_a_run_that_is_killed_twenty_times_ends_as_one_that_was_not(two_folders: Path, launcher: Launcher) -> None:
    arguments = command("../weights.safetensors")
    whole, troubled = two_folders / "whole", two_folders / "troubled"
    assert launcher.start(arguments, whole).wait() == 0
    random = np.random.default_rng(3)
    num_killed, attempt = 0, 0
    before = Stored({}, 0, 0)
    while num_killed < 20:
        line, longest = MOMENTS[num_killed]
        run = launcher.start(arguments, troubled, env={"ATTEMPT": str(attempt)})
        run.wait_for(line)
        time.sleep(float(random.uniform(0.0, longest)))
        run.signal(signal.SIGKILL)
        status = run.wait()
        assert status in (0, -signal.SIGKILL), run.stderr.read_text()
        num_killed += status == -signal.SIGKILL
        after = stored(troubled)
        _check_nothing_lost(before, after)
        # whatever was begun and is not in the study was in flight, and only one can have been
        begun = num_evaluations(troubled)[str(attempt)]
        assert begun - (after.num_measured - before.num_measured) <= 1
        before, attempt = after, attempt + 1
        assert attempt < 40, "runs end before they can be killed"
    last = [sys.executable, "-m", "tersenet", *arguments]
    subprocess.run(last, cwd=troubled, check=True, capture_output=True, env=_one_thread())
    expected = outcome(whole)
    assert len(expected["trials"]) == 2 * TRIALS
    assert outcome(troubled) == expected
    assert list((troubled / "out").rglob(".*")) == []


def _check_nothing_lost(before: Stored, after: Stored) -> None:
    assert before.rewards.items() <= after.rewards.items()
    assert before.num_facts <= after.num_facts
    assert after.num_asked - len(after.rewards) <= 1


def _one_thread() -> dict[str, str]:
    return os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.mark.slow
def test_a_second_process_is_refused_while_the_first_searches_and_while_it_tunes(
    two_folders: Path, launcher: Launcher
) -> None:
    arguments = command("../weights.safetensors")
    whole, troubled = two_folders / "whole", two_folders / "troubled"
    first = launcher.start(arguments, troubled)
    for line in ("search random: started", "fine-tune: started"):
        assert first.wait_for(line)
        first.signal(signal.SIGSTOP)  # so that it cannot end before the second one has tried
        second = launcher.start([*arguments[:-3], "--out", "../troubled/out"], whole)
        assert second.wait() == 2
        (complaint,) = [line for line in second.stderr.read_text().splitlines() if line.startswith("tersenet: ")]
        assert "in use by another process" in complaint
        assert second.stderr.read_text().count("\n") == 1
        first.signal(signal.SIGCONT)
    first.signal(signal.SIGKILL)
    assert len(stored(troubled).rewards) == 2 * TRIALS


def test_what_a_killed_process_had_begun_to_write_is_removed_and_nothing_else(tmp_path: Path) -> None:
    for name in (".model.onnx.0123456789ab.tmp", ".model.onnx.tmp", "notes.tmp", ".gitignore"):
        (tmp_path / name).write_text("x")
    write_whole(tmp_path / "model.onnx", b"whole")
    remove_leftovers(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".model.onnx.tmp", "notes.tmp", ".gitignore", "model.onnx"}
    remove_leftovers(tmp_path / "nowhere")
