"""What a packed file says about itself, without a model."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from tersenet.core.plan import Plan
from tersenet.core.policy import Policy, Raw
from tersenet.errors import ArtifactError
from tersenet.pack.entropy import SymbolReader
from tersenet.pack.index import Entry, Index
from tersenet.pack.reading import Contents, coding_of, read_contents
from tersenet.pack.storage import SAME, owner

MAX_WEIGHTS = 1 << 28
"""Most entropy-coded weights that are counted unless asked otherwise; VGG-16 has 1.4e8."""


@dataclass(frozen=True, kw_only=True)
class TensorSummary:
    """One tensor of a packed file."""

    name: str
    """As in ``model.state_dict()``."""

    shape: tuple[int, ...]

    codec: str
    """``raw float32``, ``clusters (dtype float16, entries 16, ...)``; ``same as NAME`` for tied weights."""

    plain_bytes: int
    """Of the numbers stored as they are: all values of a raw tensor; codebooks or scales of a coded one."""

    entropy_bytes: float
    """Its share of the entropy-coded stream, in eighths."""

    @property
    def num_bytes(self) -> float:
        """Of its values, all together."""
        return self.plain_bytes + self.entropy_bytes

    @property
    def bits_per_weight(self) -> float:
        """Bits that one value takes on average; 0 for a tensor without values."""
        return 8.0 * self.num_bytes / max(1, math.prod(self.shape))


@dataclass(frozen=True, kw_only=True)
class PackedInfo:
    """What a packed file says about itself."""

    version: int
    """Of the format."""

    policy: Policy

    plan: Plan

    provenance: dict[str, str]

    size_bytes: int
    """Of the file on disk: header, payload and index."""

    payload_bytes: int
    """Of all values."""

    index_bytes: int
    """Of the compressed index."""

    tensors: tuple[TensorSummary, ...]

    widened: tuple[str, ...]
    """Tensors that were to be fp16, but are stored wider because fp16 would have spoiled them."""


def read_info(path: str | Path, *, max_weights: int = MAX_WEIGHTS) -> PackedInfo:
    """What the file says about itself, without a model.

    The entropy-coded stream is read to its end, one tensor at a time, 10 to 40 million weights per second.

    Args:
        path: a file that ``save_packed`` wrote.
        max_weights: most entropy-coded weights that are read. A small file can rightly hold very many of them.

    Raises:
        NotFoundError: there is no such file.
        ArtifactError: the file is damaged, truncated or of a newer version, or has more weights than ``max_weights``.
    """
    contents = read_contents(path)
    index = contents.index
    try:
        tensors = _summaries(contents, max_weights)
    except ArtifactError as error:
        raise ArtifactError(f"{str(path)!r} cannot be read: {error}") from None
    return PackedInfo(
        version=contents.version,
        policy=index.policy,
        plan=index.plan,
        provenance=index.provenance,
        size_bytes=Path(path).stat().st_size,
        payload_bytes=sum(map(len, contents.plain)) + len(contents.coded),
        index_bytes=contents.index_bytes,
        tensors=tensors,
        widened=tuple(entry.name for entry in index.entries if _is_widened(entry, index)),
    )


def _summaries(contents: Contents, max_weights: int) -> tuple[TensorSummary, ...]:
    entries = contents.index.entries
    claimed = sum(math.prod(entry.shape) for entry in entries if coding_of(entry))
    if claimed > max_weights:
        raise ArtifactError(
            f"it claims {claimed} coded weights, max_weights is {max_weights}. Raise it if you trust the file."
        )
    reader = SymbolReader(contents.coded)
    found = []
    for entry, plain in zip(entries, contents.plain, strict=True):
        before = reader.num_bits()
        reader.read(entry.shape, coding_of(entry))
        found.append(
            TensorSummary(
                name=entry.name,
                shape=entry.shape,
                codec=_described(entry, entries),
                plain_bytes=len(plain),
                entropy_bytes=(before - reader.num_bits()) / 8.0,
            )
        )
    reader.finish()
    return tuple(found)


def _described(entry: Entry, entries: tuple[Entry, ...]) -> str:
    if entry.codec == SAME:
        return f"same as {entries[int(entry.params['tensor'])].name}"
    if entry.codec == "raw":
        return f"raw {entry.params['dtype']}"
    parameters = ", ".join(f"{key} {value}" for key, value in entry.params.items())
    return f"{entry.codec} ({parameters})"


def _is_widened(entry: Entry, index: Index) -> bool:
    layer = owner(entry.name, index.policy.storage)
    form = None if layer is None else index.policy.storage[layer]
    asked = form.dtype if isinstance(form, Raw) else index.dtype
    return asked == "fp16" and entry.codec in ("raw", "sparse") and entry.params.get("dtype") in ("float32", "float64")
