"""From a live module to its ``ModelGraph``: layers, costs, and the channels that must be cut together.

``torch.export`` gives a flat graph of operators, ``propagate`` carries channel labels through it, ``coupling`` finds
what belongs together.
"""

from __future__ import annotations

from torch import Tensor, nn

from tersenet.graph.coupling import channel_groups, module_widths, solve
from tersenet.graph.export import export_model
from tersenet.graph.flow import operators
from tersenet.graph.model_graph import ModelGraph
from tersenet.graph.propagate import propagate


def trace(model: nn.Module, example_inputs: Tensor | tuple[Tensor, ...]) -> ModelGraph:
    """Find the layers of a network and the channels that must be cut together.

    The model is analysed in eval mode on a copy; the given one is left as it is. The inputs' values do not matter,
    only their shapes; they are moved to the model's device and floating-point type.

    Args:
        example_inputs: the forward's positional arguments, each with the batch on axis 0.

    Raises:
        ModelError: the model or the inputs are not what they should be.
        TraceError: the forward pass cannot be traced; the message names the line.
    """
    exported = export_model(model, example_inputs)
    walk = propagate(exported)
    atoms = solve(walk.book)
    groups = channel_groups(walk.book, atoms, exported.modules)
    return ModelGraph(
        layers=tuple(walk.layers.values()),
        edges=tuple(walk.edges),
        channel_groups=groups,
        tensors=exported.tensors,
        input_shape=tuple(tuple(value.shape[1:]) for value in exported.inputs),
        not_counted=tuple(sorted(walk.not_counted)),
        widths=module_widths(walk.book, atoms, groups),
        operators=operators(exported),
    )
