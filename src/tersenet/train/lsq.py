"""Learned step sizes: fine-tuning of linearly quantised weights and of their scales, one per output channel.

While steps are attached, a layer computes with exactly what will be stored (scales rounded to the stored precision),
so the quality that training measures is that of the delivered network. Gradients are those of a surrogate: the same
computation with rounding replaced by the addition of a constant.

Source: Esser et al. 2020 (LSQ), arXiv:1902.08153, equations 3 and 5, gradient scale of section 2.2.
Differs: integers are symmetric (Q_N = Q_P); one step per output channel, so N_W counts the weights of one channel;
steps begin at the scales of least squared error; only weights are quantised. 1 bit is not in the paper: a weight is the
step with the sign of the latent weight, which gets the gradient unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tersenet.errors import PolicyError
from tersenet.graph import unwrapped
from tersenet.transforms import LinearWeights
from tersenet.transforms.parametrized import own_class

_SMALLEST_STEP = 2.0**-24
"""Smallest positive fp16. A channel whose scale is zero begins here, so that it can grow again."""

_WAY_OUT = "Quantise the weights of this very model, and call detach_steps before steps are attached anew."


class LearnedSteps(nn.Module):
    """A parametrisation, from latent weights to quantised ones; the steps are its parameters."""

    def __init__(self, coded: LinearWeights, device: torch.device) -> None:
        super().__init__()
        self.weight_bits = coded.weight_bits
        self.axis = coded.axis
        scales = torch.from_numpy(coded.scales)
        self.stored_as = scales.dtype
        """Precision of a step in the file."""
        self.steps = nn.Parameter(scales.to(device, torch.float32).clamp_min(_SMALLEST_STEP))
        """Step sizes, fp32, shape (O,); their magnitude counts."""
        self.later_names: dict[str, list[str]] = {}
        """Parameters behind the weight in each module that owns it, to keep their order."""

    def forward(self, latent: Tensor) -> Tensor:
        """The weights that will be stored, in shape and dtype of the latent ones."""
        weights, largest = latent.float(), self._largest()
        gradient_scale = (weights.numel() / len(self.steps) * largest) ** -0.5
        steps = self._spread(_with_value(gradient_scale * self.steps.abs(), self._stored()), weights)
        if self.weight_bits == 1:
            return _with_value(weights + _signs(weights) * steps, _signs(weights) * steps).to(latent.dtype)
        scaled = (weights / steps).clamp(-largest, largest)
        return (_with_value(scaled, scaled.round()) * steps).to(latent.dtype)

    @torch.no_grad()
    def coded(self, latent: Tensor) -> LinearWeights:
        """What is stored; ``values()`` are the weights that ``forward`` gives."""
        weights, largest = latent.float(), self._largest()
        scaled = weights / self._spread(self._stored(), weights)
        integers = _signs(weights) if self.weight_bits == 1 else scaled.round().clamp(-largest, largest)
        return LinearWeights(
            integers=np.ascontiguousarray(integers.to(torch.int8).cpu().numpy()),
            scales=self._stored().to(self.stored_as).cpu().numpy(),
            weight_bits=self.weight_bits,
            axis=self.axis,
        )

    def _largest(self) -> int:
        return max(1, (1 << self.weight_bits - 1) - 1)  # Q_P

    def _stored(self) -> Tensor:
        """The steps as they come back from the file."""
        highest = torch.finfo(self.stored_as).max
        return self.steps.detach().abs().clamp(_SMALLEST_STEP, highest).to(self.stored_as).float()

    def _spread(self, steps: Tensor, weights: Tensor) -> Tensor:
        shape = [1] * weights.ndim
        shape[self.axis] = -1
        return steps.reshape(shape)


def attach_steps(model: nn.Module, coded: Mapping[str, LinearWeights]) -> None:
    """Let layers compute with quantised weights whose steps are learned; changes ``model`` in place.

    The weights that the model holds now become the latent ones; the steps begin at the scales of ``coded``. Its
    integers are not used. Names in ``state_dict()`` change until ``detach_steps``. Tensors that are one stay one.

    Args:
        model: any mode, any device.
        coded: by name of the weight, as in ``state_dict()``.

    Raises:
        PolicyError: the model has no such weight, or its shape is another, or it has steps already; nothing is changed.
    """
    model = unwrapped(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, weights in coded.items():
        if name not in parameters:
            raise PolicyError(f"The model has no parameter {name!r} without steps. {_WAY_OUT}")
        if parameters[name].shape != weights.integers.shape:
            shapes = f"{tuple(parameters[name].shape)}, but {weights.integers.shape} was quantised"
            raise PolicyError(f"The shape of {name!r} is {shapes}. {_WAY_OUT}")
    done: set[int] = set()
    for name, weights in coded.items():
        tensor = parameters[name]
        if id(tensor) not in done:
            steps = LearnedSteps(weights, tensor.device)
            for path, module, attribute in _places_of(model, tensor):
                order = list(module._parameters)
                steps.later_names[path] = order[order.index(attribute) + 1 :]
                parametrize.register_parametrization(module, attribute, steps)
            done.add(id(tensor))


def detach_steps(model: nn.Module) -> dict[str, LinearWeights]:
    """Take all steps off again, in place: plain modules remain, whose weights are what ``values()`` gives.

    Returns:
        The learned integers and scales, by name of the weight as in ``state_dict()``; under its first name where it
        has several.
    """
    model = unwrapped(model)
    found: dict[str, LinearWeights] = {}
    latents: set[int] = set()
    for path, module in list(model.named_modules()):
        for attribute, steps in _steps_of(module).items():
            coded = steps.coded(module.parametrizations[attribute].original)
            own_class(module)
            parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
            for name in steps.later_names[path]:
                if name in module._parameters:  # it may have steps itself
                    module._parameters[name] = module._parameters.pop(name)
            latent = module.get_parameter(attribute)
            if id(latent) not in latents:
                latents.add(id(latent))
                found[f"{path}.{attribute}" if path else attribute] = coded
                with torch.no_grad():
                    latent.copy_(torch.from_numpy(coded.values()))
    return found


def _steps_of(module: Any) -> dict[str, LearnedSteps]:
    """Steps of a module's own weights, by attribute."""
    stages = module.parametrizations.items() if parametrize.is_parametrized(module) else ()
    return {attribute: chain[0] for attribute, chain in stages if isinstance(chain[0], LearnedSteps)}


def _places_of(model: nn.Module, tensor: Tensor) -> list[tuple[str, nn.Module, str]]:
    """Every module, with its name, and attribute that holds this tensor."""
    return [
        (path, module, attribute)
        for path, module in model.named_modules()
        for attribute, own in module._parameters.items()
        if own is tensor
    ]


def _signs(weights: Tensor) -> Tensor:
    return torch.where(weights.detach() >= 0, 1.0, -1.0)


def _with_value(surrogate: Tensor, value: Tensor) -> Tensor:
    """``value``, bit for bit, with the gradient of ``surrogate``."""
    return surrogate - surrogate.detach() + value.detach()
