"""Finds what a user names as ``path/to/file.py:name`` or ``package.module:name``.

A file is run once and kept, as a module would be. As with ``python file.py``, modules beside it can be imported.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from tersenet.core.registry import unknown_name
from tersenet.errors import DataError, ModelError, NotFoundError, TersenetError

_FAILURES: dict[str, type[TersenetError]] = {"data": DataError}
"""Class of the error by what is being imported; ModelError for everything else."""

_FILE_PREFIX = "_tersenet_user_"


def import_object(spec: str, *, what: str) -> object:
    """Import what ``spec`` names.

    Args:
        spec: ``path/to/file.py:name`` or ``package.module:name``; the name may have dots.
        what: what the object is wanted for, such as ``model`` or ``data``; names the argument in messages.

    Raises:
        NotFoundError: the file or module does not exist.
        UnknownNameError: it has no such name; the message gives the nearest one.
        ModelError: the specification is incomplete, or the file fails when imported (DataError for ``data``).
    """
    place, _, name = spec.rpartition(":")
    if not place or not name or "/" in name or name.endswith(".py"):
        raise _failure(what)(
            f"{what}={spec!r} does not say what to take from the file or module. "
            f"Add a colon and a name: {spec.rstrip(':')}:NAME."
        )
    module = _import_file(place, what) if place.endswith(".py") else _import_module(place, what)
    found: object = module
    for part in name.split("."):
        if not hasattr(found, part):
            public = sorted(known for known in dir(found) if not known.startswith("_"))
            raise unknown_name(f"object in {place}", name, public)
        found = getattr(found, part)
    return found


def modules_of_files() -> list[ModuleType]:
    """What was imported from files so far; another process cannot import these modules by their names."""
    return [module for name, module in sys.modules.items() if name.startswith(_FILE_PREFIX)]


def _failure(what: str) -> type[TersenetError]:
    return _FAILURES.get(what, ModelError)


def _import_file(place: str, what: str) -> ModuleType:
    path = Path(place).expanduser().resolve()
    if not path.is_file():
        raise NotFoundError(f"{what}: the file {place} does not exist. Check the path before the colon.")
    key = hashlib.sha256(str(path).encode()).hexdigest()[:12]
    module_name = f"{_FILE_PREFIX}{path.stem}_{key}"
    if module_name in sys.modules:
        return sys.modules[module_name]
    spec = importlib.util.spec_from_file_location(module_name, path)
    assert spec is not None
    assert spec.loader is not None  # a path that ends in .py always has a loader
    module = importlib.util.module_from_spec(spec)
    _allow_imports_from(path.parent)
    sys.modules[module_name] = module  # before it runs, as dataclasses and pickle look their module up
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        raise _failure(what)(f"{what}: {place} fails when imported: {type(error).__name__}: {error}") from error
    return module


def _import_module(place: str, what: str) -> ModuleType:
    _allow_imports_from(Path.cwd())
    try:
        return importlib.import_module(place)
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(f"{error.name}.")):
            raise NotFoundError(
                f"{what}: there is no module {place!r}. Check the name before the colon, install the package, "
                "or give a file: path/to/file.py:NAME."
            ) from error
        raise _failure(what)(f"{what}: {place} fails when imported: {error}") from error
    except (Exception, SystemExit) as error:
        raise _failure(what)(f"{what}: {place} fails when imported: {type(error).__name__}: {error}") from error


def _allow_imports_from(folder: Path) -> None:
    """Appended, not put first: a user's file must not hide an installed library."""
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
