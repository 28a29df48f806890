"""Whatever goes wrong inside a command: one line, the right exit code, a traceback only on request."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import FACTORY, Calls
from typer.testing import CliRunner, Result

from tersenet import api
from tersenet.cli.main import app
from tersenet.core.policy import Policy
from tersenet.errors import StudyError


def _run(monkeypatch: pytest.MonkeyPatch, folder: Path, failure: BaseException, *before: str) -> Result:
    monkeypatch.chdir(folder)
    (folder / "net.py").write_text(FACTORY)
    monkeypatch.setattr(api, "inspect", Calls(failure).function)
    return CliRunner().invoke(app, [*before, "compress", "net.py:make", "--max-macs-ratio", "0.5"])


def _invalid() -> Exception:
    try:
        Policy.model_validate({"channels": {"conv": {"pruning_ratio": 2.0}}})
    except ValueError as error:
        return error
    raise AssertionError("a ratio of 2 was accepted")


@pytest.mark.parametrize(
    ("failure", "code", "said"),
    [
        (StudyError("In use.\nStop the other run."), 2, "tersenet: In use. Stop the other run."),
        (OSError(errno.ENOSPC, "No space left on device", "r/model.onnx"), 2, "No space left on device: r/model.onnx"),
        (KeyboardInterrupt(), 130, "tersenet: stopped; nothing is lost, the same command continues."),
        (ZeroDivisionError("by zero"), 2, "unexpected ZeroDivisionError: by zero; run again with --debug"),
        (_invalid(), 2, "tersenet: Policy: channels.conv.pruning_ratio: Input should be less than 1"),
    ],
)  # fmt: skip
def test_a_failure_is_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failure: BaseException, code: int, said: str
) -> None:
    result = _run(monkeypatch, tmp_path, failure)
    assert result.exit_code == code
    assert said in result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("failure", [StudyError("in use"), ZeroDivisionError("division by zero")])
def test_debug_shows_where_it_failed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, failure: Exception) -> None:
    result = _run(monkeypatch, tmp_path, failure, "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert "cli_runs.py" in result.stderr


def test_a_closed_pipe_ends_quietly(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = _run(monkeypatch, tmp_path, BrokenPipeError(errno.EPIPE, "Broken pipe"))
    assert result.exit_code == 141
    assert result.stderr == ""


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False, timeout=60)


def test_help_lists_the_commands_without_importing_torch() -> None:
    script = (
        "import sys; sys.argv = ['tersenet', '--help']\n"
        "from tersenet.cli.main import main\n"
        "try: main()\n"
        "finally: sys.stderr.write(str('torch' in sys.modules))"
    )
    done = _python("-c", script)
    assert done.returncode == 0
    assert done.stderr == "False"
    for command in ("compress", "apply", "train", "inspect", "recipes", "evaluate", "report"):
        assert command in done.stdout


@pytest.mark.slow
def test_the_module_is_the_command_and_debug_may_stand_at_the_end() -> None:
    done = _python("-m", "tersenet", "report", "nowhere", "--debug")
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.splitlines()[-1].startswith("tersenet: There is no file")


def test_the_version_is_told() -> None:
    from tersenet.core.version import __version__

    result = CliRunner().invoke(app, ["--version"])
    assert result.exit_code == 0
    assert result.stdout == f"tersenet {__version__}\n"
