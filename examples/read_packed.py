"""Read a packed file with numpy and the standard library alone.

    python read_packed.py network.tersenet                 # a table of its tensors
    python read_packed.py network.tersenet values.npz      # its values, as numpy arrays by name

``docs/format.md`` describes every byte. Copy this file wherever PyTorch is not.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

FORMAT_VERSION = "1"
MAX_HEADER_BYTES = 4096
MAX_INDEX_BYTES = 4 * 1024 * 1024
RAW_DTYPES = {"float16", "float32", "float64", "int8", "int16", "int32", "int64", "uint8", "bool"}

Array = np.ndarray[Any, Any]


class DamagedFileError(ValueError):
    """The file is not what it should be."""


def check(holds: bool, problem: str) -> None:
    """Stop with ``problem`` unless ``holds``."""
    if not holds:
        raise DamagedFileError(problem)


def read_container(content: bytes) -> tuple[dict[str, Any], memoryview]:
    """The index and the payload of the outer safetensors file."""
    check(len(content) >= 8, "the file is too short")
    (header_bytes,) = struct.unpack("<Q", content[:8])
    check(header_bytes <= min(MAX_HEADER_BYTES, len(content) - 8), "not a packed file")
    header = json.loads(content[8 : 8 + header_bytes])
    metadata = header.get("__metadata__", {})
    check("tersenet_format" in metadata, "not a packed file")
    check(metadata["tersenet_format"] == FORMAT_VERSION, f"format version {metadata['tersenet_format']} is not known")

    data = memoryview(content)[8 + header_bytes :]
    payload_start, payload_end = header["payload"]["data_offsets"]
    index_start, index_end = header["index"]["data_offsets"]
    check(0 == payload_start <= payload_end == index_start <= index_end == len(data), "the file is truncated")
    check(hashlib.sha256(data).hexdigest() == metadata["sha256"], "the checksum is wrong")

    index_bytes = int(metadata["index_bytes"])
    check(0 < index_bytes <= MAX_INDEX_BYTES, "the index is too long")
    machine = zlib.decompressobj()
    text = machine.decompress(data[index_start:], index_bytes + 1)
    check(len(text) == index_bytes and machine.eof, "the index has another length")
    return json.loads(text), data[:payload_end]


def tensor_names(index: dict[str, Any]) -> list[str]:
    """Names as in PyTorch's ``state_dict()``, in order."""
    names: list[str] = []
    for module, kind in zip(index["modules"], index["kinds"], strict=True):
        names += [f"{module}.{leaf}" if module else leaf for leaf in index["leaves"][kind]]
        check(len(names) <= len(index["shapes"]), "there are more names than tensors")
    check(len(names) == len(index["shapes"]) == len(index["uses"]), "names, shapes and codecs differ in number")
    return names


def read_raw(payload: memoryview, start: int, shape: list[int], dtype: str) -> tuple[Array, int]:
    """Values of one tensor of codec ``raw``, and where its stream ends."""
    check(dtype in RAW_DTYPES, f"number format {dtype!r} is not known")
    check(all(isinstance(size, int) and size >= 0 for size in shape), "a shape makes no sense")
    little_endian = np.dtype(dtype).newbyteorder("<")
    end = start + math.prod(shape) * little_endian.itemsize
    check(end <= len(payload), "the payload is too short")
    return np.frombuffer(payload[start:end], little_endian).reshape(shape), end


def read_tensors(index: dict[str, Any], payload: memoryview) -> dict[str, Array]:
    """Every tensor by name, bit for bit as stored."""
    names = tensor_names(index)
    values: dict[str, Array] = {}
    end = 0
    for number, (name, shape, use) in enumerate(zip(names, index["shapes"], index["uses"], strict=True)):
        codec = index["codecs"][use]
        if codec["codec"] == "raw":
            values[name], end = read_raw(payload, end, shape, codec["dtype"])
        elif codec["codec"] == "same":
            check(0 <= codec["tensor"] < number, f"{name} shares the values of no earlier tensor")
            values[name] = values[names[codec["tensor"]]]
            check(list(values[name].shape) == shape, f"{name} shares the values of a tensor of another shape")
        else:
            raise DamagedFileError(f"codec {codec['codec']!r} is not known")
    check(end == len(payload), "the payload is too long")
    return values


def read_set(encoded: list[Any]) -> list[int]:
    """A list of positions: a unit, and one bit per unit."""
    unit, text = encoded
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8), bitorder="little")
    return [block * unit + offset for block in np.flatnonzero(bits).tolist() for offset in range(unit)]


def read_cuts(index: dict[str, Any]) -> list[tuple[str, int, list[int]]]:
    """The plan: (tensor, axis, positions of the original that stay)."""
    plan = index["plan"]
    names = tensor_names(index) + plan["others"]
    cuts = []
    tensor = keep = 0
    for place in range(0, len(plan["cuts"]), 3):
        tensor_step, axis, keep_step = plan["cuts"][place : place + 3]
        tensor, keep = tensor + tensor_step, keep + keep_step
        cuts.append((names[tensor], axis, read_set(index["sets"][plan["keeps"][keep]])))
    return cuts


def main(arguments: list[str]) -> int:
    """Print what the file holds; write its values where a second name is given."""
    if len(arguments) not in (1, 2):
        print(__doc__)
        return 2
    try:
        index, payload = read_container(Path(arguments[0]).read_bytes())
        values = read_tensors(index, payload)
        cuts = read_cuts(index)
    except (OSError, ValueError, KeyError, IndexError, TypeError, zlib.error) as error:
        print(f"{arguments[0]} cannot be read: {error}", file=sys.stderr)
        return 1
    for name, array in values.items():
        kept = [f"axis {axis}: {len(stay)} stay" for tensor, axis, stay in cuts if tensor == name]
        print(f"{name:40} {array.dtype!s:8} {array.shape!s:20} {', '.join(kept)}")
    for fact, value in index["provenance"].items():
        print(f"{fact}: {value}")
    if len(arguments) == 2:
        with Path(arguments[1]).open("wb") as file:
            np.savez(file, **values)  # type: ignore[arg-type]
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
