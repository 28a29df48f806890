"""From what a user writes to a data set: ``digits``, ``mnist:PATH``, ``cifar10:PATH``, ``folder:PATH`` or a factory."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from tersenet.core.importing import import_object
from tersenet.core.registry import unknown_name
from tersenet.data.batches import from_batches
from tersenet.data.cifar10 import cifar10
from tersenet.data.digits import digits
from tersenet.data.folder import image_folder
from tersenet.data.mnist import mnist
from tersenet.data.splits import Data
from tersenet.errors import DataError, TersenetError

READERS: dict[str, Callable[[str], Data]] = {"cifar10": cifar10, "folder": image_folder, "mnist": mnist}
"""Names that are followed by a path."""

PARTS = ("train", "search", "test")


def open_data(spec: str) -> Data:
    """Open the data set that ``spec`` names.

    Args:
        spec: ``digits``, ``mnist:PATH``, ``cifar10:PATH``, ``folder:PATH``, or file or module and the name of a
            factory, called without arguments. It returns a ``Data``, or three re-iterables of ``(inputs, targets)``
            batches, as a tuple in the order train, search, test or as a dictionary with these keys.

    Raises:
        UnknownNameError: no data set, or nothing in the file, has this name.
        NotFoundError: the path, file or module does not exist.
        DataError: the data set is damaged, or the factory fails or returns something else.
    """
    head, _, path = spec.partition(":")
    if spec == "digits":
        return digits()
    if head in READERS:
        if not path:
            raise DataError(f"data={spec!r} lacks the path. Write {head}:PATH.")
        return READERS[head](path)
    if not spec.endswith(".py") and not _can_be_imported(spec):
        raise unknown_name("data set or module", head, sorted([*READERS, "digits"]))
    return _from_factory(spec)


def _can_be_imported(spec: str) -> bool:
    """False for what is most likely a misspelt name, such as ``cifar:PATH``."""
    place, colon, _ = spec.rpartition(":")
    if not colon:
        return False
    if place.endswith(".py") or "." in place:
        return True
    return place.isidentifier() and importlib.util.find_spec(place) is not None


def _from_factory(spec: str) -> Data:
    found = import_object(spec, what="data")
    try:
        made = found() if callable(found) else found
    except TersenetError:
        raise
    except Exception as error:
        raise DataError(
            f"data={spec!r} failed when called without arguments: {type(error).__name__}: {error}"
        ) from error
    if isinstance(made, Data):
        return made
    return from_batches(*_three_parts(made, spec), name=spec)


def _three_parts(made: Any, spec: str) -> tuple[Any, Any, Any]:
    if isinstance(made, Mapping) and all(part in made for part in PARTS):
        return made["train"], made["search"], made["test"]
    if isinstance(made, tuple | list) and len(made) == 3:
        return made[0], made[1], made[2]
    size = f" of {len(made)}" if isinstance(made, tuple | list | Mapping) else ""
    raise DataError(
        f"data={spec!r} gave a {type(made).__name__}{size}. It must return a Data, a tuple (train, search, test), "
        "or a dictionary with the keys train, search and test."
    )
