"""Runs of the command line as processes that start in no time: one process imports everything, each run is its fork.

Importing torch takes a run's first seconds. A test that kills and restarts a run twenty times would spend its time
there; a fork of a process that has imported and done nothing else behaves as a fresh one does, and is killed as one.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

PATIENCE_SECONDS = 300.0

_SLOW_IMPORTS = (
    "tersenet.api",
    "tersenet.cli.main",
    "tersenet.cli.compress",
    "tersenet.cli.inputs",
    "tersenet.cli.output",
    "torch.export",
    "sklearn.datasets",
    "matplotlib.backends.backend_svg",
    "jinja2",
    "onnx",
    "onnxscript",
    "onnxruntime",
)
"""What a run needs sooner or later, its tersenet parts first."""


@dataclass
class ForkedRun:
    """One started command."""

    pid: int
    stderr: Path
    launcher: Launcher
    status: int | None = None
    """Exit code, or the negative number of the signal that ended it; None while it runs."""

    def has_ended(self) -> bool:
        """Whether the process is over."""
        if self.status is None:
            self.status = self.launcher.request({"poll": self.pid})
        return self.status is not None

    def wait(self) -> int:
        """Exit code, or the negative number of the signal that ended the process."""
        self.sleep_until(self.has_ended)
        assert self.status is not None
        return self.status

    def said(self, text: str) -> bool:
        """Whether ``text`` is on stderr so far."""
        return text in self.stderr.read_text()

    def wait_for(self, text: str) -> bool:
        """Wait until ``text`` is on stderr; False if the process ended before."""
        self.sleep_until(lambda: self.said(text) or self.has_ended())
        return self.said(text)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal; one that has ended is left alone."""
        if not self.has_ended():
            os.kill(self.pid, number)

    def sleep_until(self, condition: Callable[[], bool]) -> None:
        """Look every few milliseconds, but not for ever."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not condition():
            assert time.monotonic() < deadline, f"nothing happened for {PATIENCE_SECONDS} s: {self.stderr.read_text()}"
            time.sleep(0.004)


class Launcher:
    """The process that forks; a context manager."""

    def __enter__(self) -> Launcher:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate(timeout=PATIENCE_SECONDS)

    def request(self, question: Mapping[str, object]) -> Any:
        """Ask the forking process something."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(question) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(
        self,
        arguments: list[str],
        folder: Path,
        *,
        env: Mapping[str, str] | None = None,
        limit_bytes: int | None = None,
    ) -> ForkedRun:
        """Start ``tersenet`` with these arguments.

        Args:
            arguments: after the name of the program.
            folder: where it runs; ``stdout.txt`` and ``stderr.txt`` are written there.
            env: variables it finds in addition.
            limit_bytes: no file may grow beyond this, as if the disk were full.
        """
        (folder / "stderr.txt").write_text("")
        question = {"start": arguments, "folder": str(folder), "env": dict(env or {}), "limit": limit_bytes}
        return ForkedRun(pid=self.request(question), stderr=folder / "stderr.txt", launcher=self)


def _serve() -> None:
    _import_everything()
    print("ready", flush=True)  # noqa: T201 (the protocol)
    running: set[int] = set()
    for line in sys.stdin:
        question = json.loads(line)
        answer = _fork(question) if "start" in question else _poll(question["poll"])
        if "start" in question:
            running.add(answer or 0)
        elif answer is not None:
            running.remove(question["poll"])
        print(json.dumps(answer), flush=True)  # noqa: T201
    for pid in running:  # a test that failed leaves none behind
        os.kill(pid, signal.SIGKILL)


def _import_everything() -> None:
    for name in _SLOW_IMPORTS:
        importlib.import_module(name)


def _poll(pid: int) -> int | None:
    found, status = os.waitpid(pid, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if found else None


def _fork(question: dict[str, Any]) -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(_run(question))
    return pid


def _run(question: dict[str, Any]) -> int:
    from tersenet.cli.main import main

    os.chdir(question["folder"])
    for stream, name in ((sys.stdout, "stdout.txt"), (sys.stderr, "stderr.txt")):
        descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(descriptor, stream.fileno())
    os.environ.update(question["env"])
    if question["limit"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (question["limit"], question["limit"]))
    sys.argv = ["tersenet", *question["start"]]
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0


if __name__ == "__main__":
    _serve()
