"""The packed file: write, read, and know its size beforehand. ``docs/format.md`` has it byte by byte."""

from tersenet.pack.codecs import Codec, codecs
from tersenet.pack.container import FORMAT_VERSION
from tersenet.pack.overhead import estimate_overhead
from tersenet.pack.packed import PackedInfo, TensorSummary, load, packed_bytes, read_info, save_packed
from tersenet.pack.storage import as_stored, bytes_per_element

__all__ = [
    "FORMAT_VERSION",
    "Codec",
    "PackedInfo",
    "TensorSummary",
    "as_stored",
    "bytes_per_element",
    "codecs",
    "estimate_overhead",
    "load",
    "packed_bytes",
    "read_info",
    "save_packed",
]
