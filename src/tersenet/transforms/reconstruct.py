"""Least-squares reconstruction: where a layer lost inputs, the rest of its weight is refitted to its outputs.

For every layer the original network gives samples of (input patch, output). Their second moments are all that a
least-squares fit needs, so they are collected once per run; refitting the layers of a cut network is then a small
linear system per layer, on the rows and columns that stay, and nothing is run.
Axes: N samples, D input patch (input channels x kernel positions) and one constant, O output channels.

Source: He et al. 2018 (AMC), arXiv:1802.03494, section 3.2, and He et al. 2017 (channel pruning), arXiv:1707.06168,
section 3.1: features of the original network on both sides, ten positions per image.
Differs: a bias, or a norm that reads the layer directly and is recalibrated, takes up a constant, so the fit has an
intercept there; a small ridge keeps systems with fewer samples than unknowns solvable.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tersenet.core.plan import Plan
from tersenet.graph import ModelGraph, unwrapped

RIDGE = 1e-6
"""Added to the diagonal, as a share of its mean."""

POSITIONS = 10
"""Output positions sampled per image, the same ones for all images of a batch."""

MAX_UNKNOWNS = 6000
"""Weights per output channel above which a layer is left as it was cut: its moments would take over 280 MB."""


@dataclass(frozen=True, kw_only=True)
class Moments:
    """What one layer's fit needs to know."""

    inputs: Tensor
    """Second moments of (patch, 1), summed over samples, float64, shape (D, D)."""

    outputs: Tensor
    """Products of (patch, 1) with the output less the layer's own bias, float64, shape (D, O)."""

    intercept: bool
    """Whether a constant error does no harm, because a bias or a norm takes it up."""


class Reconstruction:
    """The moments of an original network; refits any network cut from it."""

    def __init__(self, moments: dict[str, Moments]) -> None:
        self.moments = moments
        """By layer name."""

    def refit(self, small: nn.Module, plan: Plan) -> None:
        """Refit, in place, every layer of a cut network that lost inputs.

        Args:
            small: ``materialize(model, plan)`` of the original network; weights of cut layers are replaced.
            plan: what was cut.
        """
        cuts = {(cut.tensor, cut.axis): plan.keeps[cut.keep] for cut in plan.cuts}
        for name, moments in self.moments.items():
            inputs = cuts.get((f"{name}.weight", 1))
            if inputs is not None:
                layer = small.get_submodule(name)
                assert isinstance(layer, nn.Linear | nn.modules.conv._ConvNd)
                _refit(layer, moments, inputs, cuts.get((f"{name}.weight", 0)))


def collect_moments(
    model: nn.Module, graph: ModelGraph, batches: Iterable[Tensor | tuple[Tensor, ...]], *, seed: int
) -> Reconstruction:
    """Run the original network and sum up the moments of every layer that can be refitted.

    Those are linear layers and ungrouped convolutions that are called once, are of torch's own kind, and whose inputs
    some group can cut. Others keep what the cut left of their weight.

    Args:
        model: the original network, in eval mode, on the device of the batches; not changed.
        graph: what tracing it found.
        batches: inputs only; at least as many samples x positions as a layer has unknowns are worth giving.
        seed: of the sampled positions.
    """
    model = unwrapped(model)
    sums = {name: _Sums(layer, _has_intercept(graph, name, layer)) for name, layer in _layers(model, graph)}
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad(), _watched(model, sums, generator):
        for inputs in batches:
            model(*(inputs if isinstance(inputs, tuple) else (inputs,)))
    return Reconstruction({name: moments for name, one in sums.items() if (moments := one.moments()) is not None})


class _Sums:
    """Moments of one layer while the network runs."""

    def __init__(self, layer: nn.Module, intercept: bool) -> None:
        self.layer = layer
        self.num_calls = 0
        self._intercept = intercept
        self._inputs_DD: Tensor | None = None
        self._outputs_DO: Tensor | None = None

    def add(self, inputs: Tensor, outputs: Tensor, generator: torch.Generator) -> None:
        patches_ND, outputs_NO = _samples(self.layer, inputs, outputs, generator)
        ones = torch.ones_like(patches_ND[:, :1])
        patches_ND = torch.cat([patches_ND, ones], dim=1)
        inputs_DD = (patches_ND.T @ patches_ND).cpu()
        outputs_DO = (patches_ND.T @ outputs_NO).cpu()
        self._inputs_DD = inputs_DD if self._inputs_DD is None else self._inputs_DD + inputs_DD
        self._outputs_DO = outputs_DO if self._outputs_DO is None else self._outputs_DO + outputs_DO

    def moments(self) -> Moments | None:
        if self._inputs_DD is None or self._outputs_DO is None:
            return None
        return Moments(inputs=self._inputs_DD, outputs=self._outputs_DO, intercept=self._intercept)


def _layers(model: nn.Module, graph: ModelGraph) -> Iterator[tuple[str, nn.Module]]:
    modules = dict(model.named_modules())
    consumed = {
        member.tensor
        for group in graph.channel_groups
        if group.prunable
        for member in group.members
        if member.role == "consumer" and member.axis == 1
    }
    weights = [layer.weight for layer in graph.layers]
    for layer in graph.layers:
        module = modules.get(layer.name)
        plain = type(module) in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d) and layer.weight == f"{layer.name}.weight"
        unknowns = math.prod(layer.kernel_size) * layer.in_channels
        small_enough = layer.conv_groups == 1 and unknowns <= MAX_UNKNOWNS
        called_once = weights.count(layer.weight) == 1
        if module is not None and plain and small_enough and called_once and layer.weight in consumed:
            yield layer.name, module


def _has_intercept(graph: ModelGraph, name: str, layer: nn.Module) -> bool:
    followed = any(member.scales == name for group in graph.channel_groups for member in group.members)
    return followed or getattr(layer, "bias", None) is not None


@contextmanager
def _watched(model: nn.Module, sums: dict[str, _Sums], generator: torch.Generator) -> Iterator[None]:
    def watch(one: _Sums) -> object:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
            one.add(inputs[0], outputs, generator)

        return hook

    handles = [one.layer.register_forward_hook(watch(one)) for one in sums.values()]  # type: ignore[arg-type]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _samples(layer: nn.Module, inputs: Tensor, outputs: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Input patches, shape (N, D), in the order of the weight's axes, and outputs without the bias, shape (N, O)."""
    bias = layer.bias.detach() if isinstance(layer.bias, Tensor) else torch.zeros((), device=outputs.device)
    if isinstance(layer, nn.Linear):
        return inputs.flatten(0, -2).double(), (outputs - bias).flatten(0, -2).double()
    assert isinstance(layer, nn.modules.conv._ConvNd)
    sizes = outputs.shape[2:]
    padded = _padded(layer, inputs)
    chosen = [torch.randint(size, (POSITIONS,), generator=generator).tolist() for size in sizes]
    patches, results = [], []
    for place in zip(*chosen, strict=True):
        window = [
            slice(at * stride, at * stride + (size - 1) * dilation + 1, dilation)
            for at, stride, size, dilation in zip(place, layer.stride, layer.kernel_size, layer.dilation, strict=True)
        ]
        patches.append(padded[(slice(None), slice(None), *window)].flatten(1))
        results.append(outputs[(slice(None), slice(None), *place)] - bias)
    return torch.cat(patches).double(), torch.cat(results).double()


def _padded(layer: nn.modules.conv._ConvNd, inputs: Tensor) -> Tensor:
    amounts = layer._reversed_padding_repeated_twice
    if layer.padding_mode != "zeros":
        return F.pad(inputs, amounts, mode=layer.padding_mode)
    return F.pad(inputs, amounts)


def _refit(
    layer: nn.Linear | nn.modules.conv._ConvNd,
    moments: Moments,
    inputs: tuple[int, ...],
    outputs: tuple[int, ...] | None,
) -> None:
    """Solve for the weight (and bias) that gives the original outputs from the inputs that stay."""
    num_positions = math.prod(layer.weight.shape[2:])
    columns = (torch.tensor(inputs)[:, None] * num_positions + torch.arange(num_positions)).flatten()
    if moments.intercept:
        columns = torch.cat([columns, torch.tensor([len(moments.inputs) - 1])])
    inputs_DD = moments.inputs[columns][:, columns]
    outputs_DO = moments.outputs[columns]
    if outputs is not None:
        outputs_DO = outputs_DO[:, torch.tensor(outputs)]
    ridge = RIDGE * inputs_DD.diagonal().mean().clamp_min(1e-12)
    as_cut_DO = torch.zeros_like(outputs_DO)
    as_cut_DO[: num_positions * len(inputs)] = layer.weight.detach().flatten(1).T.double().cpu()
    factor = torch.linalg.cholesky(inputs_DD + ridge * torch.eye(len(inputs_DD), dtype=inputs_DD.dtype))
    solved_DO = torch.cholesky_solve(outputs_DO + ridge * as_cut_DO, factor)
    constant_O = None
    if moments.intercept:
        solved_DO, constant_O = solved_DO[:-1], solved_DO[-1]
    with torch.no_grad():
        layer.weight.copy_(solved_DO.T.reshape(layer.weight.shape))
        if layer.bias is not None and constant_O is not None:
            layer.bias.add_(constant_O.to(layer.bias))
