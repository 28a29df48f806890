"""A packed file taken apart: its index, each tensor's plain bytes, and the entropy-coded rest.

Nothing here believes a length before it is checked against the file's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tersenet.errors import ArtifactError
from tersenet.pack.codecs import codec
from tersenet.pack.container import Container, read_container
from tersenet.pack.entropy import Coding
from tersenet.pack.index import Entry, Index, read_index
from tersenet.pack.storage import SAME


@dataclass(frozen=True, kw_only=True)
class Contents:
    """The parts of a packed file."""

    version: int
    """Of the format."""

    index: Index

    plain: tuple[memoryview, ...]
    """Plain bytes of every tensor; empty for one that shares another's values."""

    coded: memoryview
    """The entropy-coded stream of all tensors together."""

    index_bytes: int
    """Of the compressed index."""


def read_contents(path: str | Path) -> Contents:
    """Take a file apart.

    Raises:
        NotFoundError: there is no such file.
        ArtifactError: the file is damaged, truncated or of a newer version.
    """
    container = read_container(path)
    try:
        return _parts(container)
    except ArtifactError as error:
        raise ArtifactError(f"{str(path)!r} cannot be read: {error}") from None


def coding_of(entry: Entry) -> Coding | None:
    """How the tensor's integers are entropy-coded; None if it has none of its own."""
    return None if entry.codec == SAME else codec(entry.codec).coding(entry.shape, entry.params)


def _parts(container: Container) -> Contents:
    index = read_index(container.index)
    plain = []
    start = 0
    for number, entry in enumerate(index.entries):
        length = _num_plain(entry, number, index.entries)
        left = len(container.payload) - start
        if length > left:
            raise ArtifactError(f"its tensor {entry.name!r} claims {length} bytes, {left} are left.")
        plain.append(container.payload[start : start + length])
        start += length
    coded = container.payload[start:]
    codings = [coding_of(entry) for entry in index.entries]
    if len(coded) and not any(coding and coding.alphabet > 1 for coding in codings):
        raise ArtifactError(f"its payload has {len(coded)} bytes that belong to no tensor.")
    return Contents(
        version=container.version,
        index=index,
        plain=tuple(plain),
        coded=coded,
        index_bytes=container.compressed_bytes,
    )


def _num_plain(entry: Entry, number: int, entries: tuple[Entry, ...]) -> int:
    if entry.codec != SAME:
        return codec(entry.codec).num_plain(entry.shape, entry.params)
    source = entry.params.get("tensor")
    if type(source) is not int or not 0 <= source < number:
        raise ArtifactError(f"its tensor {entry.name!r} refers to no earlier tensor.")
    if entries[source].codec == SAME or entries[source].shape != entry.shape:
        raise ArtifactError(f"its tensor {entry.name!r} refers to no earlier tensor of its shape.")
    return 0
