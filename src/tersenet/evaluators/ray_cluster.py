"""Trials on several worker processes of this machine, by Ray.

Every worker holds a copy of one evaluator, packed once (``parcel.py``), so that all of them measure on the same inputs
with the same number format; each gets its share of the threads. Which worker measures what changes nothing. A trial
whose worker dies is measured again by a new one; what goes wrong inside a trial is raised here as it would be without
workers.

The cluster is started by the first trial and belongs to this process: no dashboard, no statistics sent, its files in a
temporary folder that goes with it. One on this machine that the process is connected to already is used and left as it
is. Ray's servers listen on every network interface; who may talk to them is guarded by a token in recent versions.

Source: Moritz et al. 2018 (Ray), arXiv:1712.05889.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from tersenet.core.metrics import Evaluation
from tersenet.core.policy import Policy
from tersenet.core.protocols import Evaluator
from tersenet.errors import MissingExtraError, ModelError, SearchError
from tersenet.evaluators.parcel import Parcel, pack

EXTRA = "ray"
"""Name of the extra, and of the library that it installs."""

MAX_ATTEMPTS = 3
"""Times that a trial is begun; a worker that dies ends one of them."""


_SETTINGS = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_worker_niceness": "0",  # 15 by default: measurements would wait for whatever else runs on the machine
}


def check_workers(workers: int, device: str) -> None:
    """Refuse at once a number of workers that cannot run later.

    Raises:
        SearchError: there are fewer than 1, or several on a device that is not the CPU.
        MissingExtraError: there are several, and Ray is not installed.
    """
    if workers < 1:
        raise SearchError(f"workers={workers} must be at least 1.")
    if workers == 1:
        return
    if device != "cpu":
        raise SearchError(f"workers={workers} share the processor's cores, but device={device!r}. Set workers to 1.")
    if find_spec(EXTRA) is None:
        raise MissingExtraError("ray", EXTRA)


def threads_of(workers: int) -> int:
    """Threads of each worker: those that torch would use here, divided."""
    return max(1, torch.get_num_threads() // workers)


class RayEvaluator:
    """Copies of an evaluator in worker processes; implements ``core.protocols.ParallelEvaluator``.

    To be used as a context manager; outside of that, ``evaluate`` and ``confirm`` measure in this process.
    """

    def __init__(self, evaluator: Evaluator, *, workers: int, note: Callable[[str], None] | None = None) -> None:
        """Nothing is started yet.

        Args:
            evaluator: what each worker gets a copy of; it must measure the same policy alike whenever it is asked.
            workers: how many.
            note: told of every worker that died.

        Raises:
            SearchError, MissingExtraError: see ``check_workers``.
        """
        check_workers(workers, evaluator.signature.get("device", "cpu"))
        self._evaluator = evaluator
        self._workers = workers
        self._note = note or (lambda text: None)
        self._open: ExitStack | None = None
        self._pool: _Pool | None = None

    @property
    def workers(self) -> int:
        """Evaluations that run at once."""
        return self._workers

    @property
    def signature(self) -> dict[str, str]:
        """The evaluator's own, with the threads of a worker."""
        return self._evaluator.signature | {"threads": str(threads_of(self._workers))}

    def __enter__(self) -> RayEvaluator:
        self._open = ExitStack()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers, also those that measure, and the cluster."""
        assert self._open is not None, "the context was entered"
        opened, self._open, self._pool = self._open, None, None
        opened.close()

    def evaluate(self, policy: Policy, *, hopeless_below: float | None = None) -> Evaluation:
        """Measure on one worker and wait, see ``core.protocols.Evaluator``."""
        if self._open is None:
            return self._evaluator.evaluate(policy, hopeless_below=hopeless_below)
        return self.begin(policy, hopeless_below=hopeless_below)()

    def confirm(self, policy: Policy) -> Evaluation:
        """Confirm on one worker and wait, see ``core.protocols.Evaluator``."""
        return self._evaluator.confirm(policy) if self._open is None else self.begin(policy, confirm=True)()

    def begin(
        self, policy: Policy, *, hopeless_below: float | None = None, confirm: bool = False
    ) -> Callable[[], Evaluation]:
        """Have a worker measure, see ``core.protocols.ParallelEvaluator``.

        Returns:
            Waits for the result. Raises what ``evaluate`` raises, and SearchError if the workers that measured the
            policy died ``MAX_ATTEMPTS`` times.

        Raises:
            ModelError: the evaluator cannot be sent to other processes.
            SearchError: this is no open context, or the cluster cannot be started.
        """
        if self._open is None:
            raise SearchError("begin was called on workers that are not there. Use the evaluator in a with statement.")
        if self._pool is None:
            self._pool = self._open.enter_context(_pool(self._evaluator, self._workers, self._note))
        return self._pool.begin(_Job(policy, hopeless_below, confirm))


@dataclass(frozen=True)
class _Job:
    """One measurement."""

    policy: Policy
    hopeless_below: float | None
    confirm: bool


@dataclass(frozen=True)
class _Failure:
    """An exception on its way from a worker."""

    error: Exception
    trace: str
    """Traceback in the worker, as text."""

    @classmethod
    def of(cls, error: Exception) -> _Failure:
        """The exception itself where it survives the way, else what it says."""
        trace = "".join(traceback.format_exception(error))
        try:
            pickle.loads(pickle.dumps(error))  # noqa: S301 (made one line above)
        except Exception:
            return cls(SearchError(f"{type(error).__name__}: {error}"), trace)
        return cls(error, trace)


class _Worker:
    """Lives in a process of its own."""

    def __init__(self, parcel: Parcel, *, import_path: list[str], threads: int) -> None:
        sys.path.extend(folder for folder in import_path if folder not in sys.path)
        torch.set_num_threads(threads)
        self._parcel = parcel
        self._evaluator: Evaluator | None = None

    def measure(self, job: _Job) -> Evaluation | _Failure:
        """Do a job."""
        try:
            evaluator = self._opened()
            if job.confirm:
                return evaluator.confirm(job.policy)
            return evaluator.evaluate(job.policy, hopeless_below=job.hopeless_below)
        except Exception as error:
            return _Failure.of(error)

    def _opened(self) -> Evaluator:
        if self._evaluator is None:
            try:
                self._evaluator = self._parcel.opened()
            except Exception as error:
                raise ModelError(
                    f"A worker process cannot open what it was sent: {type(error).__name__}: {error}. Define models, "
                    "metrics and data in files or packages that can be imported, or set workers to 1."
                ) from error
        return self._evaluator


class _Pool:
    """Running workers; each has the jobs it was given, and does them in turn."""

    def __init__(self, make: Callable[[], Any], workers: int, note: Callable[[str], None]) -> None:
        """Start the workers.

        Args:
            make: starts one.
        """
        self._make = make
        self._note = note
        self._workers = [make() for _ in range(workers)]
        self._num_jobs = [0] * workers

    def begin(self, job: _Job) -> Callable[[], Evaluation]:
        """Give a job to the worker that has the fewest; returns what waits for its end."""
        place = self._num_jobs.index(min(self._num_jobs))
        self._num_jobs[place] += 1
        worker = self._workers[place]
        answer = worker.measure.remote(job)
        return lambda: self._finished(job, place, worker, answer)

    def _finished(self, job: _Job, place: int, worker: Any, answer: Any) -> Evaluation:
        found = self._answered(job, place, worker, answer)
        self._num_jobs[place] -= 1
        if isinstance(found, _Failure):
            found.error.add_note(f"In a worker process:\n{found.trace}")
            raise found.error
        return found

    def _answered(self, job: _Job, place: int, worker: Any, answer: Any) -> Evaluation | _Failure:
        ray = _quiet_ray()
        who = f"policy {job.policy.digest()}"
        for attempt in range(1, MAX_ATTEMPTS + 1):
            try:
                found: Evaluation | _Failure = ray.get(answer)
                return found
            except ray.exceptions.RayError as error:
                lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
                if getattr(error, "actor_init_failed", False):
                    raise SearchError(
                        f"A worker process cannot be started: {lines[-1]}. Repair this, or set workers to 1."
                    ) from error
                if attempt == MAX_ATTEMPTS:
                    raise SearchError(
                        f"The network of {who} cannot be measured: the worker process died {attempt} times "
                        f"({lines[-1]}). Look for what ends it (memory, a crash in model or metric), or set workers "
                        "to 1."
                    ) from None
            self._note(f"A worker process died while it measured {who}; it is measured again.")
            if self._workers[place] is worker:  # otherwise a job before this one has replaced it
                ray.kill(worker)
                self._workers[place] = self._make()
            worker = self._workers[place]
            answer = worker.measure.remote(job)
        raise AssertionError("the last attempt returns or raises")

    def close(self) -> None:
        """End all workers, whatever they do."""
        ray = _quiet_ray()
        for worker in self._workers:
            ray.kill(worker)


@contextmanager
def _pool(evaluator: Evaluator, workers: int, note: Callable[[str], None]) -> Iterator[_Pool]:
    ray = _quiet_ray()
    # sockets live below this folder, and the path of a socket has at most 107 bytes: TMPDIR may be too long for it
    short = "/tmp" if Path("/tmp").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="tersenet-", dir=short))
    threads = threads_of(workers)
    try:
        parcel = pack(evaluator, folder / "numbers")
        with _cluster(folder, workers=workers, threads=threads):
            place = ray.put(parcel)
            kind = ray.remote(num_cpus=0, max_restarts=0, max_task_retries=0)(_Worker)
            import_path = [str(Path(entry).absolute()) for entry in sys.path]
            pool = _Pool(lambda: kind.remote(place, import_path=import_path, threads=threads), workers, note)
            try:
                yield pool
            finally:
                pool.close()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _cluster(folder: Path, *, workers: int, threads: int) -> Iterator[None]:
    """Ray on this machine, or the cluster that this process is connected to."""
    ray = _quiet_ray()
    if ray.is_initialized():
        yield
        return
    try:
        with _environment(_SETTINGS | {"OMP_NUM_THREADS": str(threads)}):  # its processes inherit them
            _start(ray, folder, workers)
        yield
    finally:
        ray.shutdown()


def _start(ray: Any, folder: Path, workers: int) -> None:
    try:
        ray.init(
            address="local",
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=str(folder),
        )
    except Exception as error:
        raise SearchError(
            f"Ray cannot start {workers} workers on this machine: {error}. Repair what it names, or set workers to 1."
        ) from error


def _quiet_ray() -> Any:
    """The library, which would print on stdout that a worker died; the pool says so itself."""
    with _environment({"RAY_DEDUP_LOGS_SKIP_REGEX": ".*"}):  # read at the first import
        import ray
    return ray


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
