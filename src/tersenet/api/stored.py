"""Where the bytes of the packed file go: layer by layer, and what belongs to none; together they are the whole file."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from torch import nn

from tersenet import pack
from tersenet.api.delivery import storage_text
from tersenet.core.policy import Clusters, Linear, Policy, Raw, Storage
from tersenet.core.summary import StorageKind, StorageRow
from tersenet.graph import ModelGraph, unwrapped

REST = "norms, other values"
INDEX = "index, header"


def storage_rows(path: Path, original: nn.Module, graph: ModelGraph, policy: Policy) -> tuple[StorageRow, ...]:
    """Bytes of every layer as fp32 numbers of the original, and in the packed file.

    A tensor counts for the innermost layer that it lies in. Tied weights count once, for the first layer.

    Args:
        path: the packed file.
        original: the network it was made from.
        graph: of the original.
        policy: with the form of storage of every layer.

    Returns:
        The layers in the order of ``graph``, then everything in no layer, then what describes the file itself.
    """
    info = pack.read_info(path)
    names = [layer.name for layer in graph.layers]
    before = dict.fromkeys([*names, REST], 0)
    for name, num_bytes in _original_bytes(original):
        before[_owner(name, names)] += num_bytes
    after = dict.fromkeys([*names, REST], 0.0)
    for tensor in info.tensors:
        after[_owner(tensor.name, names)] += tensor.num_bytes
    rows = [
        StorageRow(
            name=name,
            kind=_kind(policy.storage.get(name, Raw())),
            form=storage_text(policy.storage.get(name, Raw())),
            bytes_before=before[name],
            bytes_after=after[name],
        )
        for name in names
    ]
    overhead = info.size_bytes - math.fsum(after.values())
    rows.append(StorageRow(name=REST, kind="rest", form="", bytes_before=before[REST], bytes_after=after[REST]))
    rows.append(StorageRow(name=INDEX, kind="rest", form="", bytes_before=0, bytes_after=overhead))
    return tuple(rows)


def _original_bytes(model: nn.Module) -> Iterable[tuple[str, int]]:
    """Name and bytes, as fp32, of every floating-point tensor; one that was there under another name is left out."""
    seen: set[int] = set()
    for name, tensor in unwrapped(model).state_dict(keep_vars=True).items():
        if tensor.is_floating_point() and id(tensor) not in seen:
            seen.add(id(tensor))
            yield name, 4 * tensor.numel()


def _owner(name: str, layers: list[str]) -> str:
    inside = [layer for layer in layers if name.startswith(f"{layer}.")]
    return max(inside, key=len, default=REST)


def _kind(form: Storage) -> StorageKind:
    if isinstance(form, Clusters):
        return "clusters"
    return "linear" if isinstance(form, Linear) else "raw"
