"""The packed file: write, read, and know its size beforehand. ``docs/format.md`` has it byte by byte."""

from tersenet.pack.codecs import Codec, codecs, coded_bytes
from tersenet.pack.container import FORMAT_VERSION
from tersenet.pack.info import PackedInfo, TensorSummary, read_info
from tersenet.pack.norms import Norms
from tersenet.pack.overhead import estimate_overhead
from tersenet.pack.packed import load, packed_bytes, save_packed
from tersenet.pack.storage import as_stored, bytes_per_element

__all__ = [
    "FORMAT_VERSION",
    "Codec",
    "Norms",
    "PackedInfo",
    "TensorSummary",
    "as_stored",
    "bytes_per_element",
    "codecs",
    "coded_bytes",
    "estimate_overhead",
    "load",
    "packed_bytes",
    "read_info",
    "save_packed",
]
