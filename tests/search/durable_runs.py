"""A small run whose evaluations are counted from outside, and what its study and its files hold."""

from __future__ import annotations

import json
import shutil
import sqlite3
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tersenet.core.summary import RunSummary
from tersenet.report import read_summary

TRIALS = 16
EPOCHS = 2
TRIAL_SAMPLES, CONFIRM_SAMPLES = 148, 149
"""Half of the 297 search images of the digits each."""

USER_CODE = '''
"""A user's data, metric and loss, which fail where fail.json says so."""
import json, os
from pathlib import Path
import torch
from tersenet.data import digits

calls = {}

def trouble(what):
    calls[what] = calls.get(what, 0) + 1
    wanted = json.loads(os.environ.get("TROUBLE", "{}"))
    return wanted.get("what") == what and calls[what] > wanted["after"]

def accuracy(model, batches):
    batches = list(batches)
    with open("evaluations.log", "a") as log:
        log.write(os.environ.get("ATTEMPT", "0") + " " + str(sum(len(targets) for _, targets in batches)) + "\\n")
    if trouble("metric"):
        raise RuntimeError("the sensor is lost")
    if trouble("nan metric"):
        return float("nan")
    right = sum(int((model(inputs).argmax(1) == targets).sum()) for inputs, targets in batches)
    return 100.0 * right / sum(len(targets) for _, targets in batches)

def loss(outputs, targets):
    value = torch.nn.functional.cross_entropy(outputs, targets)
    is_second_epoch = any(Path("out/checkpoints").glob("finetune-*"))
    return value * float("nan") if is_second_epoch and trouble("nan loss") else value

class Batches:
    def __init__(self, source, name):
        self.kept, self.name = list(source.batches(99)), name
    def __iter__(self):
        # trials measure on what was read in the beginning; after that, the next to walk over search data confirms
        if calls.get("metric") and trouble(self.name + " data"):
            raise ConnectionError("the file server is gone")
        return iter(self.kept)

def data():
    d = digits()
    return [Batches(part.source, name) for part, name in ((d.train, "train"), (d.search, "search"), (d.test, "test"))]
'''


def command(weights: str, *more: str) -> list[str]:
    """Arguments of the run that all tests make, in a folder with ``user.py``."""
    return [
        "compress", "digits_cnn", "--weights", weights, "--metric", "user.py:accuracy", "--max-macs-ratio", "0.5",
        "--trials", str(TRIALS), "--finetune-epochs", str(EPOCHS), "--controls", "random", "--seed", "5",
        "--out", "out", "--json", *more,
    ]  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """What a study holds, read from a copy so that the run finds the file, journal included, as it was left."""

    rewards: dict[tuple[str, int], float]
    """Of all told trials, by method and number."""

    num_asked: int
    num_facts: int
    """Measurements of whole networks: baseline, dense, confirmed policies."""

    @property
    def num_measured(self) -> int:
        """Evaluations that will not be repeated."""
        return len(self.rewards) + self.num_facts


def stored(folder: Path) -> Stored:
    """What the study of the run in ``folder`` holds; nothing if there is none yet."""
    with tempfile.TemporaryDirectory() as scratch:
        for file in (folder / "out").glob("study.sqlite*"):
            shutil.copy(file, scratch)
        with sqlite3.connect(Path(scratch) / "study.sqlite") as db:
            if not db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
                return Stored({}, 0, 0)
            assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            rows = db.execute("SELECT method, number, reward FROM trials").fetchall()
            facts = db.execute("SELECT count(*) FROM facts WHERE key != 'identity'").fetchone()[0]
        db.close()
    rewards = {(method, number): reward for method, number, reward in rows if reward is not None}
    return Stored(rewards, len(rows), facts)


def num_evaluations(folder: Path) -> Counter[str]:
    """Evaluations that were begun before fine-tuning, by the value of ``ATTEMPT`` they ran under."""
    log = folder / "evaluations.log"
    lines = [line.split() for line in log.read_text().splitlines()] if log.exists() else []
    return Counter(attempt for attempt, num in lines if int(num) in (TRIAL_SAMPLES, CONFIRM_SAMPLES))


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that a run found out, without what was measured with a clock."""
    run: RunSummary = read_summary(folder / "out")
    found = run.model_dump(mode="json", exclude={"seconds", "files"})
    for entry in [*found["trials"], *found["epochs"], *found["rounds"]]:
        del entry["seconds"]
    for metrics in (found["dense"], found["compressed"]):
        del metrics["latency"]
    found["packed"] = (folder / "out" / "model.tersenet").read_bytes()
    found["policy.json"] = json.loads((folder / "out" / "policy.json").read_text())
    return found
