"""The outer file: a safetensors container with two tensors, ``payload`` and ``index``, and nothing else.

safetensors costs about 80 bytes per tensor, too much for a hundred small ones, so all streams are one tensor and
what describes them is compressed JSON in the other. The container is written here by hand because the bytes must be
equal for equal content. Reading trusts no number: every length is checked against the file before it is used.

Version 2 compresses the index with LZMA, which makes it 10 (ResNet-20) to 25 % (ResNet-56) smaller than zlib did.

Source: the safetensors format, https://huggingface.co/docs/safetensors; see ``docs/format.md``.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path

from tersenet.errors import ArtifactError, NotFoundError

FORMAT_VERSION = 3
"""Version of the packed file that this code writes."""

READABLE_VERSIONS = (1, 2, 3)
"""Versions that it reads."""

MAX_HEADER_BYTES = 4096
"""A real header has about 300 bytes."""

MAX_INDEX_BYTES = 4 * 1024 * 1024
"""Longest index after decompression; ResNet-20's has 7 KB."""

_LZMA = [{"id": lzma.FILTER_LZMA1, "preset": 9 | lzma.PRESET_EXTREME, "dict_size": 1 << 20, "lc": 0, "lp": 0, "pb": 0}]
"""Of the index: a bare stream without a header, so that these numbers are part of the format."""


@dataclass(frozen=True, kw_only=True)
class Container:
    """What the outer file holds."""

    version: int
    """Of the format."""

    index: bytes
    """JSON, decompressed."""

    payload: memoryview
    """All streams, one after the other."""

    compressed_bytes: int
    """Length of the index inside the file."""


def build_container(index: bytes, payload: bytes) -> bytes:
    """The bytes of the file, equal for equal arguments.

    Raises:
        ArtifactError: the index is longer than a reader accepts.
    """
    if len(index) > MAX_INDEX_BYTES:
        raise ArtifactError(f"The index would have {len(index)} bytes, at most {MAX_INDEX_BYTES} can be read back.")
    compressed = lzma.compress(index, format=lzma.FORMAT_RAW, filters=_LZMA)
    text = _header(len(index), len(payload), len(compressed), _digest(payload, compressed))
    return b"".join((struct.pack("<Q", len(text)), text, payload, compressed))


def outer_bytes(index: bytes, payload_bytes: int) -> int:
    """Length of the file that ``build_container`` would make of ``index`` and so long a payload, less that payload."""
    compressed = len(lzma.compress(index, format=lzma.FORMAT_RAW, filters=_LZMA))
    return 8 + len(_header(len(index), payload_bytes, compressed, "0" * 64)) + compressed


def read_container(path: str | Path) -> Container:
    """Take the outer file apart and check it.

    Raises:
        NotFoundError: there is no such file.
        ArtifactError: the file is no packed file, truncated, damaged or of a newer version.
    """
    path = Path(path)
    if not path.is_file():
        raise NotFoundError(f"There is no packed file {str(path)!r}.")
    try:
        return parse_container(path.read_bytes())
    except ArtifactError as error:
        raise ArtifactError(f"{str(path)!r} cannot be read: {error}") from None
    except OSError as error:
        raise ArtifactError(f"{str(path)!r} cannot be read: {error.strerror or error}.") from error


def parse_container(content: bytes) -> Container:
    """``read_container`` for bytes in memory.

    Raises:
        ArtifactError: the bytes are no packed file, truncated, damaged or of a newer version.
    """
    header, data = _split(content)
    metadata = header.get("__metadata__")
    if not isinstance(metadata, dict) or "tersenet_format" not in metadata:
        raise ArtifactError("it is not a packed file of tersenet.")
    version = _version(metadata["tersenet_format"])
    end = _extent(header, "payload", start=0)
    stop = _extent(header, "index", start=end)
    if stop != len(data):
        raise ArtifactError(f"it holds {len(data)} bytes of data where its header tells of {stop}: truncated?")
    if set(header) != {"__metadata__", "payload", "index"}:
        raise ArtifactError("it holds something besides payload and index.")
    payload, compressed = data[:end], data[end:]
    if metadata.get("sha256") != _digest(payload, compressed):
        raise ArtifactError("its checksum is wrong, so it is damaged. Copy or download it again.")
    index = _decompress(compressed, metadata.get("index_bytes"), version)
    return Container(version=version, index=index, payload=payload, compressed_bytes=len(compressed))


def _split(content: bytes) -> tuple[dict[str, object], memoryview]:
    if len(content) < 8:
        raise ArtifactError(f"it has {len(content)} bytes only: truncated?")
    (length,) = struct.unpack("<Q", content[:8])
    if not 2 <= length <= min(MAX_HEADER_BYTES, len(content) - 8):
        raise ArtifactError("it is not a packed file, or its beginning is damaged.")
    try:
        header = json.loads(content[8 : 8 + length])
    except (ValueError, RecursionError):
        raise ArtifactError("its header is damaged.") from None
    if not isinstance(header, dict):
        raise ArtifactError("its header is damaged.")
    return header, memoryview(content)[8 + length :]


def _version(version: object) -> int:
    if not isinstance(version, str) or not version.isascii() or not version.isdigit():
        raise ArtifactError("its header is damaged: the version is not a number.")
    for known in READABLE_VERSIONS:
        if version == str(known):
            return known
    raise ArtifactError(
        f"it has format version {version[:20]}, this version of tersenet reads 1 to {FORMAT_VERSION}. Update tersenet."
    )


def _extent(header: dict[str, object], name: str, *, start: int) -> int:
    """Where the tensor ``name`` ends, which must begin at ``start``."""
    entry = header.get(name)
    if isinstance(entry, dict):
        offsets = entry.get("data_offsets")
        if isinstance(offsets, list) and len(offsets) == 2 and all(type(offset) is int for offset in offsets):
            first, end = offsets
            if first == start <= end and entry.get("shape") == [end - start] and entry.get("dtype") == "U8":
                return int(end)
    raise ArtifactError(f"its header is damaged: the entry of {name!r} makes no sense.")


def _decompress(compressed: memoryview, declared: object, version: int) -> bytes:
    """Decompress, never making more bytes than the header declares or a reader accepts."""
    if not isinstance(declared, str) or not declared.isascii() or not declared.isdigit() or len(declared) > 9:
        raise ArtifactError("its header is damaged: the length of the index is not a number.")
    length = int(declared)
    if length > MAX_INDEX_BYTES:
        raise ArtifactError(f"its index claims {length} bytes, more than the {MAX_INDEX_BYTES} a real one may have.")
    machine = zlib.decompressobj() if version == 1 else lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=_LZMA)
    try:
        index = machine.decompress(compressed, length + 1)
    except (zlib.error, lzma.LZMAError):
        raise ArtifactError("its index cannot be decompressed.") from None
    if len(index) != length or not machine.eof or machine.unused_data:
        raise ArtifactError("its index does not have the length that the header tells.")
    return index


def _header(index: int, payload: int, compressed: int, digest: str) -> bytes:
    """The header's JSON, padded, for parts of these lengths."""
    end = payload + compressed
    header = {
        "__metadata__": {"tersenet_format": str(FORMAT_VERSION), "index_bytes": str(index), "sha256": digest},
        "payload": {"dtype": "U8", "shape": [payload], "data_offsets": [0, payload]},
        "index": {"dtype": "U8", "shape": [compressed], "data_offsets": [payload, end]},
    }
    text = json.dumps(header, separators=(",", ":")).encode()
    return text + b" " * (-len(text) % 8)


def _digest(payload: bytes | memoryview, compressed: bytes | memoryview) -> str:
    digest = hashlib.sha256(payload)
    digest.update(compressed)
    return digest.hexdigest()
