"""The durable record of a run: one SQLite file with every policy that was asked for and what came of it.

``tell`` writes evaluation, reward, transitions and the agent's state in one transaction, so that a run killed at any
moment goes on from the last told trial. The file is locked for as long as the study is open: a second process is
refused instead of mixing two runs. A file that was deleted or moved meanwhile is noticed at the next transaction, since
SQLite itself would go on writing into a file that nobody can open any more. Nothing is pickled: arrays are safetensors,
the rest is JSON.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import numpy as np
from pydantic import JsonValue
from safetensors.numpy import load as load_arrays
from safetensors.numpy import save as save_arrays

from tersenet.core.metrics import Evaluation
from tersenet.core.policy import Policy
from tersenet.core.protocols import FloatArray, State, Transition
from tersenet.errors import StudyError

_SCHEMA = """
CREATE TABLE IF NOT EXISTS facts (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS trials (
    method TEXT NOT NULL, number INTEGER NOT NULL, phase TEXT NOT NULL, seed INTEGER NOT NULL,
    policy TEXT NOT NULL, proposals BLOB NOT NULL,
    evaluation TEXT, reward REAL, seconds REAL, transitions BLOB,
    PRIMARY KEY (method, number));
CREATE TABLE IF NOT EXISTS agents (method TEXT PRIMARY KEY, state BLOB NOT NULL);
"""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A policy that was asked for, and what was told of it so far."""

    method: str
    number: int
    """From 0, per method."""

    phase: str
    """``warmup``, ``learned``, ``control`` or ``probe`` (only measures, does not keep the budget)."""

    seed: int
    policy: Policy
    proposals: FloatArray
    """What the agent proposed, shape (num_decisions, action size), before the budget was applied."""

    evaluation: Evaluation | None = None
    reward: float | None = None

    seconds: float | None = None
    """Wall-clock seconds from ask, or from the end of the trial before where several are in flight, to the end of
    learning: over all trials they add up to what the search took."""


class Study:
    """One open study; close it, or use it as a context manager.

    Args:
        path: the SQLite file; its folder must exist. A file that exists is continued.
        identity: what makes two runs the same (recipe, configuration, seed, hashes). Kept in a new file; an
            existing file must agree on every entry.

    Raises:
        StudyError: the file belongs to another run (the message names what differs), is in use by another process,
            or is not a study.
    """

    def __init__(self, path: Path, *, identity: Mapping[str, str]) -> None:
        self.path = path
        try:
            self._db = sqlite3.connect(path, isolation_level=None, timeout=0.5)
        except sqlite3.Error as error:
            raise StudyError(
                f"The study {path} cannot be opened: {error}. Check that its folder can be written."
            ) from None
        try:
            self._file = _file_id(path)
            with self._errors():
                self._db.execute("PRAGMA locking_mode=EXCLUSIVE")
                self._db.execute("BEGIN EXCLUSIVE")
                self._db.execute("COMMIT")
                self._db.executescript(_SCHEMA)
            self.agree("identity", identity)
        except BaseException:
            self._db.close()
            raise

    def __enter__(self) -> Study:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Release the file."""
        self._db.close()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise StudyError(
                    f"The study {self.path} is in use by another process. Wait for it, or choose another --out."
                ) from None
            self.check_in_place()  # SQLite's own words for a file that went away meanwhile speak of permissions
            raise StudyError(
                f"The study {self.path} cannot be written: {error}. What was told before is intact; free some space or "
                "check the folder, then run the same command again."
            ) from None
        except sqlite3.DatabaseError as error:
            raise _not_a_study(self.path, error) from None

    def check_in_place(self) -> None:
        """Make sure that what is written can be found again.

        Raises:
            StudyError: the file was deleted, moved or replaced since it was opened.
        """
        if self._file is None or _file_id(self.path) != self._file:
            raise StudyError(
                f"The study {self.path} was deleted, moved or replaced while the run was going on. Put it back and run "
                "the same command again to go on with it, or run the command to start anew."
            )

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self.check_in_place()
        with self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # after a failed write SQLite has often rolled back by itself, and says so with a second error
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    def agree(self, key: str, facts: Mapping[str, str]) -> None:
        """Keep facts under ``key`` the first time, and refuse others later.

        Raises:
            StudyError: an entry differs from what was kept; the message names it.
        """
        stored = self.fact(key)
        if stored is None:
            self.set_fact(key, dict(facts))
            return
        assert isinstance(stored, dict)
        different = sorted(name for name in stored.keys() | facts.keys() if stored.get(name) != facts.get(name))
        if different:
            shown = "; ".join(f"{name}: {stored.get(name)} there, {facts.get(name)} now" for name in different[:4])
            raise StudyError(
                f"The study {self.path} belongs to another run ({shown}). Results of the two would not be comparable: "
                "choose another --out, or repeat the old settings to go on with it."
            )

    def fact(self, key: str) -> JsonValue:
        """What was kept under ``key``; None if nothing was."""
        text = self._fact_text(key)
        if text is None:
            return None
        value: JsonValue = json.loads(text)
        return value

    def set_fact(self, key: str, value: object) -> None:
        """Keep a JSON value under ``key``, replacing what was there; the same value is not written again."""
        text = json.dumps(value)
        if self._fact_text(key) != text:
            with self._transaction():
                self._db.execute("INSERT OR REPLACE INTO facts VALUES (?, ?)", (key, text))

    def _fact_text(self, key: str) -> str | None:
        with self._errors():
            row = self._db.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
        return None if row is None else str(row[0])

    def record_asked(self, trial: Trial) -> None:
        """Keep a policy before it is evaluated."""
        row = (
            trial.method,
            trial.number,
            trial.phase,
            trial.seed,
            trial.policy.model_dump_json(),
            save_arrays({"proposals": trial.proposals}),
        )
        with self._transaction():
            self._db.execute(
                "INSERT INTO trials (method, number, phase, seed, policy, proposals) VALUES (?, ?, ?, ?, ?, ?)", row
            )

    def record_told(self, trial: Trial, *, transitions: list[Transition], agent: State) -> None:
        """Keep what a trial measured, together with the state of the agent that has learned from it.

        Args:
            trial: with its evaluation, reward and seconds.
        """
        assert trial.evaluation is not None
        told = (trial.evaluation.model_dump_json(), trial.reward, trial.seconds, _pack(transitions))
        with self._transaction():
            changed = self._db.execute(
                "UPDATE trials SET evaluation = ?, reward = ?, seconds = ?, transitions = ? "
                "WHERE method = ? AND number = ?",
                (*told, trial.method, trial.number),
            ).rowcount
            if changed != 1:
                raise StudyError(f"Trial {trial.number} of {trial.method!r} was told before it was asked for.")
            self._db.execute(
                "INSERT OR REPLACE INTO agents VALUES (?, ?)",
                (trial.method, save_arrays({name: np.asarray(value, order="C") for name, value in agent.items()})),
            )

    def trials(self, method: str) -> list[Trial]:
        """All trials of one method in order, told and not yet told."""
        with self._errors():
            rows = self._db.execute(
                "SELECT number, phase, seed, policy, proposals, evaluation, reward, seconds FROM trials "
                "WHERE method = ? ORDER BY number",
                (method,),
            ).fetchall()
        return [
            Trial(
                method=method,
                number=number,
                phase=phase,
                seed=seed,
                policy=Policy.model_validate_json(policy),
                proposals=load_arrays(proposals)["proposals"],
                evaluation=None if evaluation is None else Evaluation.model_validate_json(evaluation),
                reward=reward,
                seconds=seconds,
            )
            for number, phase, seed, policy, proposals, evaluation, reward, seconds in rows
        ]

    def methods(self) -> list[str]:
        """Names of the methods that have asked, sorted."""
        with self._errors():
            rows = self._db.execute("SELECT DISTINCT method FROM trials ORDER BY method").fetchall()
        return [name for (name,) in rows]

    def agent_state(self, method: str) -> State | None:
        """State of the method's agent after the last told trial; None before the first."""
        with self._errors():
            row = self._db.execute("SELECT state FROM agents WHERE method = ?", (method,)).fetchone()
        return None if row is None else dict(load_arrays(row[0]))


def kept_fact(path: Path, key: str) -> JsonValue:
    """What the study in a file keeps under ``key``, before its run goes on; None if there is no such file or entry.

    Raises:
        StudyError: the file is in use by another process, or is not a study.
    """
    if not path.exists():
        return None
    try:
        with closing(sqlite3.connect(path, timeout=0.5)) as db:
            row = db.execute("SELECT value FROM facts WHERE key = ?", (key,)).fetchone()
    except sqlite3.OperationalError as error:
        if "no such table" in str(error):  # stopped before anything was kept
            return None
        raise StudyError(
            f"The study {path} is in use by another process, or cannot be opened: {error}. Wait for it, or choose "
            "another --out."
        ) from None
    except sqlite3.DatabaseError as error:
        raise _not_a_study(path, error) from None
    value: JsonValue = None if row is None else json.loads(row[0])
    return value


def _not_a_study(path: Path, error: sqlite3.DatabaseError) -> StudyError:
    return StudyError(f"{path} is not a study, or is damaged: {error}. Choose another --out.")


def _file_id(path: Path) -> tuple[int, int] | None:
    """What tells a file from another one that has its name; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _pack(transitions: list[Transition]) -> bytes:
    if not transitions:
        return save_arrays({})
    return save_arrays(
        {
            "observation": np.stack([t.observation for t in transitions]),
            "action_proposed": np.stack([t.action_proposed for t in transitions]),
            "action_taken": np.stack([t.action_taken for t in transitions]),
            "next_observation": np.stack([t.next_observation for t in transitions]),
            "done": np.array([t.done for t in transitions]),
        }
    )
