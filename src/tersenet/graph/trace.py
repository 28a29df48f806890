"""From a live module to its ``ModelGraph``: layers, costs, and the channels that must be cut together.

``torch.export`` gives a flat graph of operators, ``propagate`` carries channel labels through it, ``coupling`` finds
what belongs together.
"""

from __future__ import annotations

from contextlib import suppress

from torch import Tensor, nn

from tersenet.errors import TraceError
from tersenet.graph.coupling import channel_groups, module_widths, solve
from tersenet.graph.export import Exported, export_model
from tersenet.graph.flow import operators
from tersenet.graph.labels import LabelBook
from tersenet.graph.model_graph import ModelGraph
from tersenet.graph.propagate import propagate


def trace(model: nn.Module, example_inputs: Tensor | tuple[Tensor, ...], *, cut_norms: bool = False) -> ModelGraph:
    """Find the layers of a network and the channels that must be cut together.

    The model is analysed in eval mode on a copy; the given one is left as it is. The inputs' values do not matter,
    only their shapes; they are moved to the model's device and floating-point type.

    Args:
        example_inputs: the forward's positional arguments, each with the batch on axis 0.
        cut_norms: let channels that a layer norm or group norm reads be cut. Removing is then no longer the same as
            zeroing, because the statistics run over the channels that are left; such groups say so in ``inexact``.
            The number of a group norm's groups stays, and each group loses equally many channels.

    Raises:
        ModelError: the model or the inputs are not what they should be.
        TraceError: the forward pass cannot be traced; the message names the line.
    """
    exported = export_model(model, example_inputs)
    book = LabelBook(cut_norms=cut_norms)
    walk = propagate(exported, book)
    _add_training_only(model, example_inputs, exported, book)
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


def _add_training_only(
    model: nn.Module, example_inputs: Tensor | tuple[Tensor, ...], exported: Exported, book: LabelBook
) -> None:
    """Couple the layers that only run in training, such as auxiliary heads: they have to fit after a cut as well."""
    if exported.reads_all:
        return
    with suppress(TraceError):
        # a network that only runs in eval mode is none whose other layers could be trained
        propagate(export_model(model, example_inputs, training=True), book)
