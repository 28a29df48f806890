"""Feature distillation: a few steps that pull a cut network's features towards the original's.

The features are those of layers whose outputs were not cut: the last one of every size, so that each stage of a
network is heard, and the outputs. The original's are computed once; a network then costs a forward and a backward pass
per step.

Source: Romero et al. 2015 (FitNets), arXiv:1412.6550, equation 3, without its regressor, since the shapes agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tersenet.core.plan import Plan
from tersenet.data.splits import Inputs
from tersenet.graph import ModelGraph
from tersenet.measurement.placement import call, copied

LEARNING_RATE = 1e-3

Features = Mapping[str, Tensor]


class FeatureTeacher:
    """The original network's features on fixed inputs."""

    def __init__(self, model: nn.Module, graph: ModelGraph, batches: Sequence[Inputs]) -> None:
        """Run the original network on ``batches``, inputs only, and keep its features in memory.

        Args:
            model: in eval mode, on the device of the batches; not changed.
        """
        self._batches = batches
        self._candidates = _candidates(graph)
        with torch.no_grad():
            self._features = [_features(model, self._candidates, inputs) for inputs in batches]

    def teach(self, small: nn.Module, plan: Plan) -> None:
        """One step of Adam per batch, in place; parameters that need no gradient stay, batch norms use the batch.

        Args:
            small: cut from the original network by ``plan``; left in eval mode.
        """
        cut = {c.tensor for c in plan.cuts if c.axis == 0}
        layers = [name for name in self._candidates if f"{name}.weight" not in cut]
        parameters = [parameter for parameter in small.parameters() if parameter.requires_grad]
        if not parameters or not layers:
            return
        optimizer = torch.optim.Adam(parameters, lr=LEARNING_RATE)
        small.train()
        for inputs, theirs in zip(self._batches, self._features, strict=True):
            ours = _features(small, layers, inputs)
            loss = torch.stack([_distance(ours[name], theirs[name]) for name in layers if name in ours]).mean()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        optimizer.zero_grad()
        small.eval()


def _candidates(graph: ModelGraph) -> list[str]:
    """The last layer of every output size whose channels no group decides alone, and the last layer of all."""
    tied = {name for group in graph.channel_groups if not group.prunable or group.joined_by for name in group.producers}
    last = {layer.output_shape[1:]: layer.name for layer in graph.layers if layer.name in tied}
    return list(dict.fromkeys([*last.values(), graph.layers[-1].name]))


def _features(model: nn.Module, layers: Sequence[str], inputs: Inputs) -> Features:
    with _watched(model, layers) as found:
        call(model, copied(inputs))
    return found


@contextmanager
def _watched(model: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    found: dict[str, Tensor] = {}

    def watch(name: str) -> object:
        def hook(_: nn.Module, inputs: object, outputs: Tensor) -> None:
            found[name] = outputs.float()

        return hook

    handles = [model.get_submodule(name).register_forward_hook(watch(name)) for name in layers]  # type: ignore[arg-type]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _distance(ours: Tensor, theirs: Tensor) -> Tensor:
    """Squared error over the squared size of the original's features."""
    return (ours - theirs).pow(2).sum() / theirs.pow(2).sum().clamp_min(1e-12)
