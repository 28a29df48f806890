"""What a walk over the exported graph carries along, and one operator call with its arguments by name."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, fx

from tersenet.graph.export import Exported
from tersenet.graph.labels import LabelBook, Value
from tersenet.graph.layer_ops import LayerCall, apply_layer
from tersenet.graph.model_graph import Layer
from tersenet.graph.pointwise import fixed, merged_sources

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Param:
    """A parameter or buffer of the model, before anybody asked for its labels."""

    name: str
    shape: Shape
    is_floating: bool


@dataclass(frozen=True)
class Call:
    """One call of an ATen operator."""

    name: str
    """Without namespace, overload and the underscore of in-place forms, for example ``conv2d``."""

    is_pointwise: bool
    """Whether PyTorch itself calls the operator elementwise."""

    arguments: dict[str, Any]
    """By their names in the operator's schema, defaults filled in; tensors as ``Value`` or ``Param``."""

    shapes: list[Shape]
    """Shapes of the results."""

    @property
    def first(self) -> Any:
        """The first argument, the operand of most operators."""
        return next(iter(self.arguments.values()), None)

    def axis(self, ndim: int, name: str = "dim") -> int:
        """An axis argument, not negative."""
        return int(self.arguments[name]) % ndim

    def axes(self, ndim: int, name: str = "dim") -> list[int]:
        """An argument with one axis, several, or none (then all of them)."""
        given = self.arguments.get(name)
        if given is None or (isinstance(given, list | tuple) and not given):
            return list(range(ndim))
        return [int(axis) % ndim for axis in (given if isinstance(given, list | tuple) else [given])]


def described(target: torch._ops.OpOverload, args: Sequence[Any], kwargs: dict[str, Any], shapes: list[Shape]) -> Call:
    """Put the arguments of a call under their names."""
    schema = target._schema
    arguments: dict[str, Any] = {}
    for position, argument in enumerate(schema.arguments):
        if position < len(args):
            arguments[argument.name] = args[position]
        elif argument.name in kwargs:
            arguments[argument.name] = kwargs[argument.name]
        else:
            arguments[argument.name] = argument.default_value if argument.has_default_value() else None
    namespace, _, name = schema.name.partition("::")
    name = name if name.startswith("_") else name.rstrip("_")
    name = name if namespace == "aten" else schema.name
    return Call(name, torch.Tag.pointwise in target.tags, arguments, shapes)


@dataclass
class Walk:
    """One pass over an exported graph."""

    exported: Exported
    book: LabelBook
    layers: dict[str, Layer] = field(default_factory=dict)
    """By weight, in order of execution."""

    edges: dict[tuple[str, str], None] = field(default_factory=dict)
    not_counted: set[str] = field(default_factory=set)
    env: dict[fx.Node, Any] = field(default_factory=dict)

    module: str = ""
    """The module whose operator is at work; empty if it is the model itself."""

    @property
    def batch_size(self) -> int:
        """Inputs per forward pass."""
        return int(self.exported.inputs[0].shape[0])

    def value(self, argument: Value | Param) -> Value:
        """Labels of an argument; a parameter used as a plain value gets one label per element."""
        if isinstance(argument, Value):
            return argument
        if not argument.is_floating or math.prod(argument.shape) <= 1:
            return fixed(argument.shape)
        if argument.name not in self.book.plain:
            labels = self.book.fresh(math.prod(argument.shape)).reshape(argument.shape)
            self.book.plain[argument.name] = labels
        return Value(self.book.plain[argument.name], argument.shape)

    def values(self, arguments: Iterable[Any]) -> list[Value]:
        """Labels of all tensors among the arguments, lists looked into."""
        found: list[Value] = []
        for argument in arguments:
            if isinstance(argument, Value | Param):
                found.append(self.value(argument))
            elif isinstance(argument, dict):
                found.extend(self.values(argument.values()))
            elif isinstance(argument, list | tuple):
                found.extend(self.values(argument))
        return found

    def layer_name(self, weight: str) -> str:
        """The module that owns the weight; the weight's own name where a module has several, or none does."""
        owner = self.exported.modules.get(weight, "")
        taken = {layer.name for name, layer in self.layers.items() if name != weight}
        return weight if not owner or owner in taken else owner

    def call_layer(self, call: LayerCall, value: Value, num_bias: int) -> Value:
        """Apply a convolution or linear layer and list it; calls of the same weight are summed."""
        layer = call.layer(value.shape, num_bias)
        known = self.layers.get(call.weight)
        if known is not None:
            layer = replace(known, macs=known.macs + layer.macs)
            call = replace(call, name=known.name)
        self.layers[call.weight] = layer
        self.edges.update({(source, call.name): None for source in sorted(value.sources)})
        return apply_layer(self.book, call, value)

    def unknown(self, values: Sequence[Value], reason: str, shapes: Sequence[Shape]) -> list[Value]:
        """Pin everything that goes in; nothing is known of what comes out."""
        for value in values:
            self.book.pin(value.labels, f"{reason} ({self.book.where})")
        return [fixed(shape, merged_sources(values)) for shape in shapes]


def output_shapes(node: fx.Node) -> list[Shape]:
    """Shapes of the tensors a node makes, in order."""
    made = node.meta.get("val")
    tensors = made if isinstance(made, list | tuple) else [made]
    return [tuple(int(size) for size in tensor.shape) for tensor in tensors if isinstance(tensor, Tensor)]
