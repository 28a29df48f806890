"""Read a packed file with numpy and the standard library alone.

    python read_packed.py network.tersenet                 # a table of its tensors
    python read_packed.py network.tersenet values.npz      # its values, as numpy arrays by name
    python read_packed.py network.tersenet values.npz 5e8  # with up to 500 million coded weights

``docs/format.md`` describes every byte. Copy this file wherever PyTorch is not.
"""

from __future__ import annotations

import base64
import bisect
import hashlib
import json
import lzma
import math
import struct
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np

FORMAT_VERSIONS = ("1", "2", "3")
MAX_HEADER_BYTES = 4096
MAX_INDEX_BYTES = 4 * 1024 * 1024
MAX_WEIGHTS = 1 << 28
LZMA = [{"id": lzma.FILTER_LZMA1, "dict_size": 1 << 20, "lc": 0, "lp": 0, "pb": 0}]
FLOAT_DTYPES = {"float16", "float32"}
NONE = np.zeros(0, np.uint16)
RAW_DTYPES = FLOAT_DTYPES | {"float64", "int8", "int16", "int32", "int64", "uint8", "bool"}

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
    version = metadata["tersenet_format"]
    check(version in FORMAT_VERSIONS, f"format version {version} is not known")

    data = memoryview(content)[8 + header_bytes :]
    payload_start, payload_end = header["payload"]["data_offsets"]
    index_start, index_end = header["index"]["data_offsets"]
    check(0 == payload_start <= payload_end == index_start <= index_end == len(data), "the file is truncated")
    check(hashlib.sha256(data).hexdigest() == metadata["sha256"], "the checksum is wrong")

    index_bytes = int(metadata["index_bytes"])
    check(0 < index_bytes <= MAX_INDEX_BYTES, "the index is too long")
    machine = zlib.decompressobj() if version == "1" else lzma.LZMADecompressor(lzma.FORMAT_RAW, filters=LZMA)
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


class SymbolReader:
    """The entropy-coded integers of all tensors: asymmetric numeral systems with adaptive frequencies."""

    def __init__(self, stream: memoryview) -> None:
        check(len(stream) % 4 == 0, "the entropy-coded stream has no whole number of words")
        self.words: list[int] = np.frombuffer(stream, "<u4").tolist()
        check(not self.words or self.words[-1] != 0, "the entropy-coded stream ends in a word of zeros")
        self.state = 0
        for _ in range(min(2, len(self.words))):
            self.state = self.state << 32 | self.words.pop()

    def read(self, shape: list[int], alphabet: int, contexts: int) -> Array:
        """The next tensor's integers, each below ``alphabet``."""
        num_kernels = math.prod(shape[:2]) if contexts else math.prod(shape)
        planes = np.zeros((math.prod(shape) // num_kernels, num_kernels), np.uint16)
        counts = np.zeros((contexts + 1, alphabet), np.int64)
        for position, plane in enumerate(planes if alphabet > 1 else []):
            predicted = prediction(planes, position, shape) if contexts else None
            if predicted is None:
                plane[:] = self.read_run(num_kernels, counts[0])
                continue
            bounds = np.sort(predicted)[[num_kernels * rank // contexts for rank in range(1, contexts)]]
            places = np.searchsorted(bounds, predicted, side="right")
            for context in range(contexts):
                which = np.flatnonzero(places == context)
                plane[which] = self.read_run(len(which), counts[context + 1])
        return planes.T.reshape(shape)

    def read_run(self, number: int, counts: Array) -> list[int]:
        """Integers of one context, which are counted; their table is renewed after every sixteenth more."""
        found: list[int] = []
        while len(found) < number:
            block = self.read_block(
                min(number - len(found), max(8, int(counts.sum()) // 16)), cumulative_frequencies(counts)
            )
            counts += np.bincount(block, minlength=len(counts))
            found += block
        return found

    def read_block(self, number: int, bounds: list[int]) -> list[int]:
        """Integers that share one table: symbol s has the range ``bounds[s]`` to ``bounds[s + 1]``."""
        found = []
        for _ in range(number):
            place = self.state & 0xFFFFFF
            symbol = bisect.bisect_right(bounds, place) - 1
            self.state = (self.state >> 24) * (bounds[symbol + 1] - bounds[symbol]) + place - bounds[symbol]
            if self.state < 1 << 32 and self.words:
                self.state = self.state << 32 | self.words.pop()
            found.append(symbol)
        return found


def prediction(planes: Array, position: int, shape: list[int]) -> Array | None:
    """What the weights left of a position and above it in the kernel let expect; None if it has neither."""
    width, height = shape[-1], shape[-2] if len(shape) > 3 else 1
    left = planes[position - 1].astype(np.int64) if position % width else None
    upper = planes[position - width].astype(np.int64) if position // width % height else None
    if left is not None and upper is not None:
        return 2 * (left + upper) - planes[position - width - 1]
    return upper if left is None else left


def cumulative_frequencies(counts: Array) -> list[int]:
    """n + 1 bounds from 0 to 2^24, from how often each of n symbols has been seen."""
    seen = np.concatenate(([0], np.cumsum(counts + 1)))
    bounds: list[int] = (seen * ((1 << 24) - len(counts)) // seen[-1] + np.arange(len(seen))).tolist()
    return bounds


def number_format(codec: dict[str, Any], known: set[str]) -> np.dtype[Any]:
    """The codec's little-endian number format."""
    check(codec["dtype"] in known, f"number format {codec['dtype']!r} is not known")
    return np.dtype(codec["dtype"]).newbyteorder("<")


def plain_bytes(codec: dict[str, Any], shape: list[int]) -> int:
    """Length of what a tensor has outside the entropy-coded stream."""
    if codec["codec"] == "raw":
        return math.prod(shape) * number_format(codec, RAW_DTYPES).itemsize
    if codec["codec"] in ("same", "constant"):
        return 0
    if codec["codec"] == "sparse":
        check(len(shape) > 1 and 0 <= codec["kernels"] <= math.prod(shape[:2]), "a sparse weight of too many kernels")
        width = number_format(codec, FLOAT_DTYPES | {"float64"}).itemsize
        return -(-math.prod(shape[:2]) // 8) + codec["kernels"] * math.prod(shape[2:]) * width
    check(codec["axis"] in (0, 1) and math.prod(shape) > 0, "coded weights without output channels")
    has_planes = 1 < math.prod(shape[2:]) <= 1024 and math.prod(shape[:2]) >= 64
    check(codec["contexts"] == 0 or (1 <= codec["contexts"] <= 16 and has_planes), "weights that can have no contexts")
    width = number_format(codec, FLOAT_DTYPES).itemsize
    if codec["codec"] == "linear":
        return shape[codec["axis"]] * width
    check(codec["codec"] == "clusters", f"codec {codec['codec']!r} is not known")
    return num_codebooks(codec, shape) * num_symbols(codec) * width


def num_symbols(codec: dict[str, Any]) -> int:
    """How many different integers the codec leaves to the entropy coder; 0 if none."""
    if codec["codec"] == "clusters":
        check(1 <= codec["entries"] <= 1 << 16, "a codebook has no or too many entries")
        return int(codec["entries"])
    if codec["codec"] == "linear":
        check(1 <= codec["bits"] <= 8, "the integers' width is not 1 to 8 bits")
        return 2 if codec["bits"] == 1 else int((1 << codec["bits"]) - 1)
    return 0


def num_codebooks(codec: dict[str, Any], shape: list[int]) -> int:
    """One for each block of output channels; one for all where ``channels`` is 0."""
    check(codec["channels"] >= 0, "a codebook serves a negative number of channels")
    return -(-shape[codec["axis"]] // codec["channels"]) if codec["channels"] else 1


def decode(codec: dict[str, Any], shape: list[int], plain: memoryview, symbols: Array) -> Array:
    """The values of one tensor, from its plain bytes and its integers."""
    if codec["codec"] == "raw":
        return np.frombuffer(plain, number_format(codec, RAW_DTYPES)).reshape(shape)
    if codec["codec"] == "constant":
        value = codec["value"]
        check(isinstance(value, int | float) and -3e38 < value < 3e38, f"a constant cannot be {value}")
        return np.full(shape, value, number_format(codec, RAW_DTYPES))
    if codec["codec"] == "sparse":
        num_kernels, num_bytes = math.prod(shape[:2]), -(-math.prod(shape[:2]) // 8)
        there = np.unpackbits(np.frombuffer(plain[:num_bytes], np.uint8), bitorder="little")[:num_kernels] != 0
        values = np.zeros((num_kernels, math.prod(shape[2:])), number_format(codec, FLOAT_DTYPES | {"float64"}))
        values[there] = np.frombuffer(plain[num_bytes:], values.dtype).reshape(-1, values.shape[1])
        return values.reshape(shape)
    numbers = np.frombuffer(plain, number_format(codec, FLOAT_DTYPES)).astype(np.float32)
    channel_shape = [-1 if axis == codec["axis"] else 1 for axis in range(len(shape))]
    if codec["codec"] == "linear":
        bits = codec["bits"]
        integers = symbols.astype(np.float32) * (2 if bits == 1 else 1) - (1 if bits == 1 else 2 ** (bits - 1) - 1)
        return integers * numbers.reshape(channel_shape)
    codebook = np.arange(shape[codec["axis"]]) // (codec["channels"] or shape[codec["axis"]])
    return numbers[(codebook * num_symbols(codec)).reshape(channel_shape) + symbols]


def read_tensors(index: dict[str, Any], payload: memoryview, max_weights: int = MAX_WEIGHTS) -> dict[str, Array]:
    """Every tensor by name: raw ones bit for bit, coded ones as float32.

    A few bytes can rightly stand for very many equal weights, so that coded ones are limited to ``max_weights``.
    """
    tensors = list(
        zip(tensor_names(index), index["shapes"], (index["codecs"][use] for use in index["uses"]), strict=True)
    )
    ends = [0]
    for name, shape, codec in tensors:
        check(all(isinstance(size, int) and size >= 0 for size in shape), f"the shape of {name} makes no sense")
        ends.append(ends[-1] + plain_bytes(codec, shape))
    check(ends[-1] <= len(payload), "the payload is too short")
    claimed = sum(math.prod(shape) for _, shape, codec in tensors if codec["codec"] not in ("raw", "same"))
    check(claimed <= max_weights, f"{claimed} coded weights, more than the limit of {max_weights}")

    reader = SymbolReader(payload[ends[-1] :])
    values: dict[str, Array] = {}
    for number, (name, shape, codec) in enumerate(tensors):
        if codec["codec"] == "same":
            check(0 <= codec["tensor"] < number, f"{name} shares the values of no earlier tensor")
            values[name] = values[tensors[codec["tensor"]][0]]
            check(list(values[name].shape) == shape, f"{name} shares the values of a tensor of another shape")
        else:
            symbols = reader.read(shape, num_symbols(codec), codec["contexts"]) if num_symbols(codec) else NONE
            values[name] = decode(codec, shape, payload[ends[number] : ends[number + 1]], symbols)
    check(reader.state == 0 and not reader.words, "the entropy-coded stream does not end with the last weight")
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
    if len(arguments) not in (1, 2, 3):
        print(__doc__)
        return 2
    try:
        index, payload = read_container(Path(arguments[0]).read_bytes())
        values = read_tensors(index, payload, int(float(arguments[2])) if len(arguments) == 3 else MAX_WEIGHTS)
        cuts = read_cuts(index)
    except (OSError, ValueError, KeyError, IndexError, TypeError, OverflowError, zlib.error, lzma.LZMAError) as error:
        print(f"{arguments[0]} cannot be read: {error}", file=sys.stderr)
        return 1
    for name, array in values.items():
        kept = [f"axis {axis}: {len(stay)} stay" for tensor, axis, stay in cuts if tensor == name]
        print(f"{name:40} {array.dtype!s:8} {array.shape!s:20} {', '.join(kept)}")
    for fact, value in index["provenance"].items():
        print(f"{fact}: {value}")
    if len(arguments) > 1:
        with Path(arguments[1]).open("wb") as file:
            np.savez(file, **values)  # type: ignore[arg-type]
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
