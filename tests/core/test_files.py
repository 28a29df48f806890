from __future__ import annotations

import os
from pathlib import Path

import pytest

from tersenet.core.files import write_whole
from tersenet.errors import ArtifactError, NotFoundError


def test_a_file_is_replaced_in_one_step_and_its_size_returned(tmp_path: Path) -> None:
    path = tmp_path / "file"
    assert write_whole(path, b"first") == 5
    assert write_whole(path, b"second") == 6
    assert path.read_bytes() == b"second"
    assert list(tmp_path.iterdir()) == [path]


def test_the_file_gets_the_permissions_of_any_other_new_file(tmp_path: Path) -> None:
    write_whole(tmp_path / "ours", b"")
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_an_interruption_leaves_the_older_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(descriptor: int) -> None:
        raise KeyboardInterrupt

    (tmp_path / "file").write_bytes(b"older")
    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_whole(tmp_path / "file", b"newer")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("file", b"older")]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match=r"absent' for 'file' does not exist"):
        write_whole(tmp_path / "absent" / "file", b"")
    with pytest.raises(ArtifactError, match="could not be written: File name too long"):
        write_whole(tmp_path / ("x" * 300), b"")
