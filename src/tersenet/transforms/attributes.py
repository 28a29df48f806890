"""Module attributes that follow a cut: ``out_channels``, ``groups``, ``num_features``, ``kernel_size`` and the like.

What a module needs is read from its own attributes and the new shapes of its tensors, so that subclasses of the
usual layers, and layers that only look like them, are served too.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

KNOWN = (
    "out_channels", "in_channels", "groups", "in_features", "out_features", "num_features", "num_parameters",
    "normalized_shape", "num_channels", "kernel_size", "padding",
)  # fmt: skip
"""The only attributes that a plan may set, wherever it was read from."""

Attributes = dict[str, int | tuple[int, ...]]
Shape = tuple[int, ...]


def changed_attributes(model: nn.Module, new_shapes: Mapping[str, Shape]) -> dict[str, Attributes]:
    """Attributes to set, by module name, once some tensors have new shapes.

    Args:
        new_shapes: by the tensor's name; all modules that share a tensor are found.
    """
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    shape_of = {id(tensors[name]): shape for name, shape in new_shapes.items()}
    changed: dict[str, Attributes] = {}
    for name, module in model.named_modules():
        shapes = {
            own: shape_of[id(tensor)]
            for own, tensor in [*module._parameters.items(), *module._buffers.items()]
            if tensor is not None and id(tensor) in shape_of
        }
        attributes = attributes_after(module, shapes) if shapes else {}
        if attributes:
            changed[name] = attributes
    return changed


def attributes_after(module: nn.Module, shapes: Mapping[str, Shape]) -> Attributes:
    """Attributes of one module that differ from what its new shapes need.

    Args:
        shapes: new shapes of the module's own tensors, by their names inside the module; at least those that change.
    """
    wanted: Attributes = {}
    weight = shapes.get("weight")
    if weight is not None and hasattr(module, "out_channels") and hasattr(module, "groups"):
        wanted.update(_convolution(module, weight))
        size = getattr(module, "kernel_size", None)
        if isinstance(size, tuple) and len(size) == len(weight) - 2:
            wanted.update(kernel_size=tuple(weight[2:]))
    elif weight is not None and hasattr(module, "out_features") and len(weight) == 2:
        wanted.update(out_features=weight[0], in_features=weight[1])
    elif weight is not None and hasattr(module, "num_parameters"):
        wanted.update(num_parameters=weight[0])
    elif hasattr(module, "num_features") and "running_mean" in module._buffers:
        sizes = [shape[0] for shape in shapes.values() if len(shape) == 1]
        if sizes:
            wanted.update(num_features=sizes[0])
    elif weight is not None and hasattr(module, "num_groups") and hasattr(module, "num_channels"):
        wanted.update(num_channels=weight[0])
    elif weight is not None and isinstance(getattr(module, "normalized_shape", None), tuple):
        wanted.update(normalized_shape=weight)
    return {name: value for name, value in wanted.items() if getattr(module, name, None) != value}


def _convolution(module: nn.Module, weight: Shape) -> Attributes:
    groups, in_channels, out_channels = (int(getattr(module, n)) for n in ("groups", "in_channels", "out_channels"))
    transposed = bool(getattr(module, "transposed", False))
    if groups > 1 and groups == in_channels:
        multiplier = out_channels // in_channels
        in_channels = weight[0] if transposed else weight[0] // multiplier
        return {"groups": in_channels, "in_channels": in_channels, "out_channels": in_channels * multiplier}
    if transposed:
        return {"in_channels": weight[0], "out_channels": weight[1] * groups}
    return {"in_channels": weight[1] * groups, "out_channels": weight[0]}
