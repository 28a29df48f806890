"""Learned noise on a network: attached to its layers as hooks, trained with it, taken off again without a trace.

- *Channels*: every output of a layer is multiplied by noise whose rate a convolution of the layer's own geometry
  predicts from the layer's input, per sample and position (information dropout as published).
- *Kernels and positions*: every unit of the weight is multiplied by noise, drawn once for ``_SAMPLES_PER_DRAW``
  samples; its rate follows from a learned constant, and from the mean size of the inputs that it reads times a learned
  gain.
- *Elements*: Gaussian noise on every weight, drawn per output (sparse variational dropout, local reparametrisation).

While a network trains, noise is on; in eval mode it is off, and the network computes as if nothing were attached.
Batch norms see noisy values in training, so their statistics have to be measured anew afterwards
(``train/variational_fit.py`` does it).

Rates are told by the loss over the whole data set, so that at the steps of weights they would hardly move: a constant
is stored over ``_PACE`` times sqrt(N / weights or outputs that it governs), and moves by that factor more.

Source: Achille and Soatto 2018, arXiv:1611.01353; Molchanov et al. 2017, arXiv:1701.05369, sections 3 and 4.
Differs: noise is on a convolution's outputs before the norm, not behind the activation, and its rates begin equal, at
0.08; noise on kernels and positions is in neither paper, and begins with the standard deviation of noise on elements,
so that its rate is the smaller, the larger a unit's weights are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from tersenet.core.policy import KernelUnit
from tersenet.criteria import Learned
from tersenet.data.splits import Inputs
from tersenet.errors import DataError, ModelError
from tersenet.graph import ModelGraph, unwrapped
from tersenet.measurement.placement import call, kept_modes, placement_of
from tersenet.train.variational_terms import (
    information,
    log_alpha,
    log_normal,
    rates,
    variational_divergence,
    with_local_noise,
)
from tersenet.transforms import unit_shape

MAX_RATE = 0.7
"""Largest noise rate of information dropout, as published."""

_FIRST_LOGIT = -2.0
_FIRST_LOG_VARIANCE = -10.0
_FIRST_SHARES = (0.01, 0.9)
_PACE = 0.3
_SAMPLES_PER_DRAW = 8
_NAMES = ("_channel_noise", "_weight_noise")


class _Noise(nn.Module):
    """What all kinds of noise have in common: the divergence of the last pass, and the scores of calibration."""

    def __init__(self) -> None:
        super().__init__()
        self.is_listening = False
        self._nats: Tensor | None = None
        self._total: Tensor | None = None
        self._num_batches = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_nats": None}  # tensors with a gradient cannot be copied

    def take_nats(self) -> Tensor | None:
        """Divergence of the last training pass, summed over units, shape (); forgotten then."""
        nats, self._nats = self._nats, None
        return nats

    def listen(self, scores: Tensor) -> None:
        """Take in the scores of one batch."""
        self._total = scores if self._total is None else self._total + scores
        self._num_batches += 1

    def scores(self) -> Tensor:
        """Mean over the batches that were listened to."""
        if self._total is None:
            raise DataError("Noise rates cannot be measured without inputs. Give at least one batch.")
        return self._total / self._num_batches


class ChannelNoise(_Noise):
    """Log-normal noise on a layer's outputs, rates predicted from its inputs."""

    def __init__(self, layer: nn.Linear | _ConvNd, *, num_samples: int, num_positions: int) -> None:
        super().__init__()
        self.pace = _PACE * math.sqrt(num_samples / num_positions)
        self.weight = nn.Parameter(torch.zeros_like(layer.weight))
        self.logits = nn.Parameter(layer.weight.detach().new_full((len(layer.weight),), _FIRST_LOGIT / self.pace))

    def forward(self, layer: nn.Linear | _ConvNd, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Outputs with noise if the layer trains; else the outputs themselves."""
        rate = self._rates(layer, inputs)
        nats = information(rate, max_rate=MAX_RATE)
        if not layer.training:
            self.listen(nats.movedim(_channel_axis(layer, nats), 0).flatten(1).mean(dim=1).detach())
            return outputs
        self._nats = nats.sum() / len(inputs)
        return outputs * log_normal(rate).to(outputs.dtype)

    def _rates(self, layer: nn.Linear | _ConvNd, inputs: Tensor) -> Tensor:
        return rates(_run(layer, inputs, self.weight, self.logits * self.pace).float(), max_rate=MAX_RATE)


class UnitNoise(_Noise):
    """Log-normal noise on the units of a layer's weight, one draw for a few samples."""

    def __init__(self, layer: nn.Linear | _ConvNd, unit: KernelUnit, *, num_samples: int) -> None:
        super().__init__()
        weight = layer.weight
        self.shape = unit_shape(tuple(weight.shape), unit)
        self.weights_per_unit = weight.numel() // math.prod(self.shape)
        self.pace = _PACE * math.sqrt(num_samples / self.weights_per_unit)
        self.logits = nn.Parameter(_first_logits(weight.detach(), self.shape).flatten() / self.pace)
        self.gains = nn.Parameter(torch.zeros_like(self.logits))

    def forward(self, layer: nn.Linear | _ConvNd, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Outputs of the layer with a noisy weight if it trains; else the outputs themselves."""
        sizes = _input_sizes(layer, inputs, self.shape)
        logits = self.pace * self.logits.reshape(self.shape) + self.gains.reshape(self.shape) * sizes
        rate = rates(logits.float(), max_rate=MAX_RATE)
        nats = information(rate, max_rate=MAX_RATE)
        if not layer.training:
            self.listen(nats.detach())
            return outputs
        self._nats = nats.sum() * self.weights_per_unit
        return torch.cat(
            [
                _run(layer, few, layer.weight * log_normal(rate).to(layer.weight.dtype), layer.bias)
                for few in torch.split(inputs, _SAMPLES_PER_DRAW)
            ]
        )


class ElementNoise(_Noise):
    """Gaussian noise on every weight, drawn per output."""

    def __init__(self, layer: nn.Linear | _ConvNd, *, num_samples: int) -> None:
        super().__init__()
        self.pace = _PACE * math.sqrt(num_samples)
        self.log_variances = nn.Parameter(torch.full_like(layer.weight, _FIRST_LOG_VARIANCE / self.pace).flatten())

    def forward(self, layer: nn.Linear | _ConvNd, inputs: Tensor, outputs: Tensor) -> Tensor:
        """Outputs of the layer with noise if it trains; else the outputs themselves."""
        alphas = log_alpha(layer.weight, self.pace * self.log_variances.reshape(layer.weight.shape))
        if not layer.training:
            self.listen(-alphas.detach())
            return outputs
        self._nats = variational_divergence(alphas).sum()
        variance = _run(layer, inputs.square(), alphas.exp() * layer.weight.square(), None)
        return with_local_noise(outputs, variance)


def attach_noise(
    model: nn.Module,
    graph: ModelGraph,
    *,
    num_samples: int,
    channels: bool = True,
    unit: KernelUnit | None = None,
) -> list[str]:
    """Attach noise to every convolution and linear layer but the last; changes ``model`` in place.

    Transposed convolutions, and layers that are not torch's own, are left out. A layer that is called several times in
    a pass counts with its last call.

    Args:
        model: the traced network, any mode, any device.
        graph: what tracing found.
        num_samples: training samples.
        channels: noise on outputs.
        unit: noise on units of the weights; None: none. Layers whose kernels have one position have no positions.

    Returns:
        Names of the layers that have noise now.

    Raises:
        ModelError: there is no such layer, or noise is attached already.
    """
    modules = dict(unwrapped(model).named_modules())
    if any(isinstance(module, _Noise) for module in modules.values()):
        raise ModelError("The network has noise already. Call detach_noise first.")
    found = []
    for layer in graph.layers[:-1]:
        module = modules.get(layer.name)
        if not isinstance(module, nn.Linear | _ConvNd) or (isinstance(module, _ConvNd) and module.transposed):
            continue
        noises: dict[str, _Noise | None] = {"_weight_noise": _weight_noise(module, unit, num_samples)}
        if channels:
            num_positions = math.prod(
                layer.output_shape[1:] if isinstance(module, _ConvNd) else layer.output_shape[:-1]
            )
            noises["_channel_noise"] = ChannelNoise(module, num_samples=num_samples, num_positions=num_positions)
        attached = {name: noise for name, noise in noises.items() if noise is not None}
        for name, noise in attached.items():
            module.add_module(name, noise.train(module.training))
        if attached:
            module.register_forward_hook(_add_noise)
            found.append(layer.name)
    if not found:
        raise ModelError("No layer of the network can have noise: it has no plain convolution or linear layer.")
    return found


def detach_noise(model: nn.Module) -> None:
    """Take all noise off again, in place: modules, hooks and names in ``state_dict()`` are as before."""
    for module in unwrapped(model).modules():
        for number, hook in list(module._forward_hooks.items()):
            if hook is _add_noise:
                del module._forward_hooks[number]
        for name in _NAMES:
            module._modules.pop(name, None)


def noise_nats(model: nn.Module) -> tuple[Tensor, Tensor]:
    """Divergences of the last training pass, summed over units: of information dropout, and of variational dropout.

    Both have shape (); zero where nothing of the kind is attached.
    """
    first = next(unwrapped(model).parameters())
    sums = [torch.zeros((), device=first.device), torch.zeros((), device=first.device)]
    for module in unwrapped(model).modules():
        nats = module.take_nats() if isinstance(module, _Noise) else None
        if nats is not None:
            place = int(isinstance(module, ElementNoise))
            sums[place] = sums[place] + nats
    return sums[0], sums[1]


def measure_noise(model: nn.Module, batches: Iterable[Inputs]) -> Learned:
    """Scores of every channel and unit that has noise: means over these inputs, in eval mode.

    Args:
        model: with noise; otherwise left as it was.
        batches: inputs only, of one batch size.

    Raises:
        DataError: there is no batch.
    """
    placement = placement_of(model)
    layers = [(name, module) for name, module in unwrapped(model).named_modules() if _has_noise(module)]
    noises = [module for module in unwrapped(model).modules() if isinstance(module, _Noise)]
    with kept_modes(model), torch.no_grad():
        model.eval()
        try:
            for noise in noises:
                noise.is_listening, noise._total, noise._num_batches = True, None, 0
            for inputs in batches:
                call(model, placement.put(inputs))
        finally:
            for noise in noises:
                noise.is_listening = False
    return Learned(channels=_found(layers, "_channel_noise"), units=_found(layers, "_weight_noise"))


def _found(layers: list[tuple[str, nn.Module]], kind: str) -> Mapping[str, Tensor]:
    noises = {name: module._modules.get(kind) for name, module in layers}
    return {name: noise.scores().cpu() for name, noise in noises.items() if isinstance(noise, _Noise)}


def _has_noise(module: nn.Module) -> bool:
    return any(name in module._modules for name in _NAMES)


def _add_noise(module: Any, args: tuple[Tensor, ...], outputs: Tensor) -> Tensor | None:
    """A forward hook; finds the noise on the module itself, so that copies have their own."""
    noises = [module._modules[name] for name in ("_weight_noise", "_channel_noise") if name in module._modules]
    if not module.training and not any(noise.is_listening for noise in noises):
        return None
    for noise in noises:
        outputs = noise(module, args[0], outputs)
    return outputs


def _weight_noise(module: nn.Linear | _ConvNd, unit: KernelUnit | None, num_samples: int) -> _Noise | None:
    if unit is None or (unit in ("position", "filter_position") and math.prod(module.weight.shape[2:]) == 1):
        return None
    if unit == "element":
        return ElementNoise(module, num_samples=num_samples)
    return UnitNoise(module, unit, num_samples=num_samples)


def _first_logits(weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Such that the noise on every unit begins as large as that on elements; rates keep off 0 and the largest."""
    inside = [axis for axis, size in enumerate(shape) if size == 1]
    sizes = (weight.float().square().mean(dim=inside, keepdim=True) if inside else weight.float().square()).sqrt()
    rate = math.exp(_FIRST_LOG_VARIANCE / 2) / sizes
    return torch.logit((rate / MAX_RATE).clamp(*_FIRST_SHARES)).to(weight.dtype)


def _run(layer: nn.Linear | _ConvNd, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What the layer computes, with another weight and bias."""
    if isinstance(layer, nn.Linear):
        return F.linear(inputs, weight, bias)
    outputs: Tensor = layer._conv_forward(inputs, weight, bias)
    return outputs


def _input_sizes(layer: nn.Linear | _ConvNd, inputs: Tensor, shape: tuple[int, ...]) -> Tensor:
    """log(1 + mean size) of the inputs that each unit reads, broadcasting to the units' shape."""
    sizes_I = inputs.detach().float().abs().movedim(_channel_axis(layer, inputs), 0).flatten(1).mean(dim=1).log1p()
    if shape[1] == 1:
        return sizes_I.mean()
    groups = layer.groups if isinstance(layer, _ConvNd) else 1
    sizes_OI = sizes_I.reshape(groups, -1).repeat_interleave(shape[0] // groups, dim=0)
    return sizes_OI.reshape(*sizes_OI.shape, *[1] * (len(shape) - 2))


def _channel_axis(layer: nn.Linear | _ConvNd, values: Tensor) -> int:
    return values.ndim - 1 if isinstance(layer, nn.Linear) else values.ndim - layer.weight.ndim + 1
