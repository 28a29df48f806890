"""import_object: files and modules, and every way to name something that is not there."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tersenet.core.importing import import_object
from tersenet.errors import DataError, ModelError, NotFoundError, UnknownNameError


@pytest.fixture(autouse=True)
def _restored_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))


def written(folder: Path, text: str, name: str = "user_file.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_name_in_a_file_is_found(tmp_path: Path) -> None:
    assert import_object(f"{written(tmp_path, 'answer = 42')}:answer", what="model") == 42


def test_a_name_in_a_module_is_found() -> None:
    assert import_object("pathlib:Path", what="model") is Path


def test_a_dotted_name_reaches_into_a_class() -> None:
    assert import_object("pathlib:Path.cwd", what="model") == Path.cwd


def test_the_same_file_twice_is_one_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, "things = []")
    first = import_object(f"{path}:things", what="model")
    monkeypatch.chdir(tmp_path)
    assert import_object("user_file.py:things", what="data") is first


def test_files_of_one_name_in_two_folders_are_two_modules(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    specs = [f"{written(tmp_path / folder, f'where = {folder!r}')}:where" for folder in ("a", "b")]
    assert [import_object(spec, what="model") for spec in specs] == ["a", "b"]


def test_a_file_may_import_the_file_beside_it(tmp_path: Path) -> None:
    written(tmp_path, "value = 7", name="its_neighbour.py")
    path = written(tmp_path, "from its_neighbour import value")
    assert import_object(f"{path}:value", what="model") == 7


def test_a_file_that_does_not_exist_is_named() -> None:
    with pytest.raises(NotFoundError, match=r"model: the file nowhere/net\.py does not exist"):
        import_object("nowhere/net.py:make", what="model")


def test_a_module_that_does_not_exist_is_named() -> None:
    with pytest.raises(NotFoundError, match=r"no module 'no_such_package\.nets'"):
        import_object("no_such_package.nets:make", what="model")


def test_a_misspelt_name_is_answered_with_the_nearest(tmp_path: Path) -> None:
    path = written(tmp_path, "def make_net(): ...")
    with pytest.raises(UnknownNameError, match="Did you mean 'make_net'"):
        import_object(f"{path}:makenet", what="model")


@pytest.mark.parametrize("spec", ["net.py", "net.py:", "folder/net.py", ":make"])
def test_a_file_without_a_name_says_what_to_add(spec: str) -> None:
    with pytest.raises(ModelError, match="Add a colon and a name"):
        import_object(spec, what="model")


@pytest.mark.parametrize("text", ["raise RuntimeError('no license')", "import sys; sys.exit('no license')"])
def test_a_file_that_fails_gives_its_own_message(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ModelError, match=r"user_file\.py fails when imported: .*no license") as caught:
        import_object(f"{path}:make", what="model")
    assert caught.value.__cause__ is not None


def test_a_file_that_failed_is_run_again_once_it_is_mended(tmp_path: Path) -> None:
    path = written(tmp_path, "1 / 0")
    with pytest.raises(DataError, match="ZeroDivisionError"):
        import_object(f"{path}:value", what="data")
    path.write_text("value = 'mended now'")
    assert import_object(f"{path}:value", what="data") == "mended now"


def test_a_library_missing_inside_a_module_is_not_taken_for_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, "import a_library_nobody_has", name="needs_a_library.py")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"needs_a_library fails when imported: .*a_library_nobody_has"):
        import_object("needs_a_library:make", what="model")
