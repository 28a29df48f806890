"""An ONNX graph while weights are being replaced in it: who uses a value, new constants, new nodes in front.

Names are short, and constants of equal content are written once, since the files of small networks are mostly names.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

Use = tuple[Any, int]
"""A node, and the place of the value among its inputs."""


class Graph:
    """One graph, to be edited and then finished."""

    def __init__(self, graph: Any) -> None:
        self._graph = graph
        self._nodes = list(graph.node)
        self._written: list[Any] = []
        self._later: list[Any] = []
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        self._kept = {value.name for value in graph.output} | set(_inner_names(self._nodes))
        self._taken = {name for node in self._nodes for name in (*node.input, *node.output)} | set(self._tensors)
        self._taken |= {value.name for value in (*graph.input, *graph.output)} | self._kept
        self._uses: dict[str, list[Use]] = {}
        for node in self._nodes:
            for place, name in enumerate(node.input):
                self._uses.setdefault(name, []).append((node, place))
        self._number = 0
        self._known: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def constants(self) -> Iterator[tuple[str, NDArray[Any]]]:
        """The names and values of all fp32 constants that are there now."""
        import onnx

        for name, tensor in list(self._tensors.items()):
            if tensor.data_type == onnx.TensorProto.FLOAT:
                yield name, onnx.numpy_helper.to_array(tensor)

    def values(self, name: str) -> NDArray[Any] | None:
        """A constant's values; None if ``name`` is no constant."""
        import onnx

        return onnx.numpy_helper.to_array(self._tensors[name]) if name in self._tensors else None

    def uses(self, name: str) -> list[Use]:
        """Every place in which the graph's own nodes read the value."""
        return list(self._uses.get(name, []))

    def is_seen_outside(self, name: str) -> bool:
        """Whether the value is an output of the graph or is read by a graph inside a node."""
        return name in self._kept

    def constant(self, values: NDArray[Any]) -> str:
        """Write a constant as raw bytes, once; its name."""
        import onnx

        values = np.ascontiguousarray(values)
        return self.raw_constant(values.tobytes(), values.shape, onnx.helper.np_dtype_to_tensor_dtype(values.dtype))

    def raw_constant(self, content: bytes, shape: tuple[int, ...], data_type: int) -> str:
        """Write a constant that numpy has no type for, given its bytes; its name."""
        import onnx

        key = (str(data_type), tuple(shape), content)
        if key not in self._known:
            name = self._known[key] = self.new_name()
            tensor = onnx.TensorProto(name=name, dims=shape, data_type=data_type, raw_data=content)
            self._tensors[name] = tensor
        return self._known[key]

    def node(
        self,
        operator: str,
        *inputs: str,
        output: str | None = None,
        outputs: list[str] | None = None,
        **attributes: Any,
    ) -> str:
        """Write a node behind those that were written before; the name of its (first) output.

        A constant of such a name is replaced by it.
        """
        import onnx

        outputs = outputs or [output or self.new_name()]
        for name in outputs:
            self._tensors.pop(name, None)
        self._written.append(onnx.helper.make_node(operator, list(inputs), outputs, **attributes))
        return outputs[0]

    def rewind(self) -> None:
        """What is written from now on stands in front of what was written so far."""
        self._later = self._written + self._later
        self._written = []

    def reshape(self, name: str, shape: tuple[int, ...], *, output: str | None = None) -> str:
        """Write a change of shape; the name of its output."""
        return self.node("Reshape", name, self.constant(np.array(shape, np.int64)), output=output)

    def remove(self, node: Any) -> None:
        """Take a node out."""
        self._nodes = [one for one in self._nodes if one is not node]
        for name in set(node.input):
            self._uses[name] = [use for use in self._uses[name] if use[0] is not node]

    def new_name(self) -> str:
        """A name that nothing has yet."""
        while (name := f"w{self._number}") in self._taken:
            self._number += 1
        self._taken.add(name)
        return name

    def finish(self) -> None:
        """Write everything back; constants that nothing reads any more are left out."""
        nodes = [*self._written, *self._later, *self._nodes]
        used = {name for node in nodes for name in node.input} | self._kept
        tensors = [tensor for name, tensor in self._tensors.items() if name in used]
        for field, content in ((self._graph.node, nodes), (self._graph.initializer, tensors)):
            del field[:]
            field.extend(content)


def _inner_names(nodes: list[Any]) -> Iterator[str]:
    """All names that graphs inside of nodes read."""
    for node in nodes:
        for attribute in node.attribute:
            for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                yield from (name for inner in graph.node for name in inner.input)
                yield from (value.name for value in graph.output)
                yield from _inner_names(list(graph.node))
