"""Integers and vectors of all layers together in few constants, cut apart again by ``Split`` when the file is loaded.

Every constant and every node takes 20 to 40 bytes however little it holds, and unpacking takes up to twenty nodes:
layer by layer that were a third of a small network's file.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tersenet.export.enc_digits import pack_digits, packed_size, packing_for
from tersenet.export.enc_graph import Graph
from tersenet.export.enc_sparse import Sparse, make_sparse

_MOST_DIGITS = 2**20
"""Of one pool, unless a single tensor has more; onnxruntime loads several pools faster than one large one."""

_WORTH_BYTES = 100
"""Zeros are left out where that saves more, since it takes some more nodes."""

_LEAST_ZEROS = 0.3
"""Share of zeros from which on it is tried."""

Pieces = list[tuple[str, NDArray[Any]]]
"""Values, and the name under which they are to be read."""


class Pools:
    """Collects what has to be written, and writes it in front of everything else in the graph."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._integers: dict[tuple[int, int], list[Pieces]] = defaultdict(list)
        self._vectors: dict[tuple[bool, int], Pieces] = defaultdict(list)

    def integers(self, integers: NDArray[Any], base: int) -> str:
        """Name of a one-dimensional tensor of these integers, in order; 0 had best be the most frequent.

        Args:
            integers: shape of the weight, in which a kernel's come last.
            base: one more than the largest integer there can be, 2 to 65,537.
        """
        row = _best_row(integers, base)
        if row == 1:
            base = packing_for(base - 1, integers.size).largest_base + 1
        else:
            base = packing_for(base, integers.size).largest_base
        pools, name = self._integers[base, row], self._graph.new_name()
        if not pools or sum(one.size for _, one in pools[-1]) + integers.size > _MOST_DIGITS:
            pools.append([])
        pools[-1].append((name, integers.reshape(-1)))
        return name

    def vector(self, values: NDArray[np.float32]) -> str:
        """Name of a tensor of these values, whose axes but the first have length 1; stored as fp16 if that is exact."""
        assert values.size == len(values)
        with np.errstate(over="ignore", under="ignore"):
            is_half = bool((values.astype(np.float16).astype(np.float32) == values).all())
        pieces = self._vectors[is_half, values.ndim]
        for name, known in pieces:
            if known.tobytes() == values.tobytes():
                return name
        pieces.append((self._graph.new_name(), values))
        return pieces[-1][0]

    def write(self) -> None:
        """Write everything that was collected, in front of what the graph has."""
        self._graph.rewind()
        for (base, row), pools in self._integers.items():
            for pieces in pools:
                integers = np.concatenate([one for _, one in pieces])
                name = None if len(pieces) > 1 else pieces[0][0]
                if row:
                    whole = self._write_sparse(make_sparse(integers.reshape(-1, row), base), output=name)
                else:
                    whole = self._write_digits(integers, base, output=name)
                self._cut(whole, pieces)
        for (is_half, _), pieces in self._vectors.items():
            self._write_vectors(pieces, is_half=is_half)

    def _write_vectors(self, pieces: Pieces, *, is_half: bool) -> None:
        import onnx

        values = np.concatenate([one for _, one in pieces])
        if is_half:
            name = self._graph.node("Cast", self._graph.constant(values.astype(np.float16)), to=onnx.TensorProto.FLOAT)
        else:
            name = self._graph.constant(values)
        self._cut(name, pieces)

    def _cut(self, name: str, pieces: Pieces) -> None:
        """Give each piece its name."""
        if len(pieces) > 1:
            sizes = self._graph.constant(np.array([one.size for _, one in pieces]))
            self._graph.node("Split", name, sizes, outputs=[piece for piece, _ in pieces])
        elif name != pieces[0][0]:
            self._graph.node("Identity", name, output=pieces[0][0])

    def _write_digits(self, integers: NDArray[Any], base: int, *, output: str | None = None) -> str:
        """One-dimensional."""
        import onnx

        graph, packing = self._graph, packing_for(base, integers.size)
        kind = np.int64 if packing.is_wide else np.int32
        name = graph.constant(pack_digits(integers, packing))
        name = graph.node("Cast", name, to=onnx.helper.np_dtype_to_tensor_dtype(np.dtype(kind)))
        if packing.bytes_per_word > 1:
            name = graph.node("MatMul", graph.constant(_powers(256, packing.bytes_per_word, kind)[None]), name)
        if packing.digits_per_word > 1:
            powers = _powers(packing.base, packing.digits_per_word, kind)
            name = graph.node("Div", name, graph.constant(powers[:, None]))
            name = graph.node("Mod", name, graph.constant(np.array(packing.base, kind)))
        if packing.num_words(integers.size) * packing.digits_per_word == integers.size:
            return graph.reshape(name, (-1,), output=output)
        start, end = graph.constant(np.array([0])), graph.constant(np.array([integers.size]))
        return graph.node("Slice", graph.reshape(name, (-1,)), start, end, output=output)

    def _write_sparse(self, sparse: Sparse, *, output: str | None) -> str:
        """One-dimensional, with the zeros that were left out.

        Steps that lead to no entry write zeros where they end: onnxruntime does not fold ``Compress`` and ``NonZero``,
        which would leave them out.
        """
        import onnx

        graph = self._graph
        kind = np.int64 if packing_for(sparse.entry_base, sparse.entries.size).is_wide else np.int32
        row, first = sparse.entries.shape[1], graph.constant(np.array(0))
        steps = self._write_digits(sparse.steps, sparse.step_base)
        lengths, ends = np.arange(sparse.step_base), np.ones(sparse.step_base, kind)
        lengths[0], ends[0] = sparse.step_base - 1, 0
        places = graph.node("CumSum", graph.node("Gather", graph.constant(lengths), steps), first)
        places = graph.reshape(graph.node("Sub", places, graph.constant(np.array(1))), (-1, 1))
        is_entry = graph.node("Gather", graph.constant(ends), steps)
        entries = self._write_digits(sparse.entries - (not sparse.has_zeros), sparse.entry_base)
        if not sparse.has_zeros:
            entries = graph.node("Add", entries, graph.constant(np.array(1, kind)))
        numbers = graph.node("CumSum", is_entry, first, exclusive=1)
        entries = graph.node("Gather", graph.reshape(entries, (-1, row)), numbers)
        entries = graph.node("Mul", entries, graph.reshape(is_entry, (-1, 1)))
        shape = graph.constant(np.array([sparse.num_rows, row]))
        zeros = graph.node("ConstantOfShape", shape, value=onnx.numpy_helper.from_array(np.zeros(1, kind)))
        return graph.reshape(graph.node("ScatterND", zeros, places, entries), (-1,), output=output)


def smallest_bytes(integers: NDArray[Any], base: int) -> int:
    """Bytes that integers take in a pool."""
    return min(_sizes(integers, base).values())


def _best_row(integers: NDArray[Any], base: int) -> int:
    """How they are smallest: 1 or the size of a kernel, the rows that are left out if zero, or 0: nothing left out."""
    return min(_sizes(integers, base).items(), key=lambda option: option[1])[0]


def _sizes(integers: NDArray[Any], base: int) -> dict[int, int]:
    sizes = {0: packed_size(integers.size, base)}
    num_filled = np.count_nonzero(integers)
    if 0 < num_filled < (1 - _LEAST_ZEROS) * integers.size:  # without any entry there would be empty constants
        for row in {1, max(1, math.prod(integers.shape[2:]))}:
            sizes[row] = make_sparse(integers.reshape(-1, row), base).num_bytes() + _WORTH_BYTES
    return sizes


def _powers(base: int, count: int, kind: type[np.signedinteger[Any]]) -> NDArray[Any]:
    return np.array([base**place for place in range(count)], kind)
