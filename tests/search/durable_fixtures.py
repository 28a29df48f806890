"""What the tests of a run's durability share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from durable_runs import USER_CODE
from forked_runs import Launcher
from torch import nn

from tersenet.models import save_weights


@pytest.fixture(scope="session")
def launcher() -> Iterator[Launcher]:
    """Starts runs of the command line."""
    with Launcher() as started:
        yield started


@pytest.fixture
def two_folders(tmp_path: Path, digits_cnn: nn.Module) -> Path:
    """A folder with weights, and in it two folders for runs, ``whole`` and ``troubled``."""
    for name in ("whole", "troubled"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "user.py").write_text(USER_CODE)
    save_weights(digits_cnn, tmp_path / "weights.safetensors", metadata={"tersenet.trained_on_split": "train"})
    return tmp_path
