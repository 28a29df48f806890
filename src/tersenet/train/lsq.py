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
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from tersenet.train.attached import StoredForm, attach, detach
from tersenet.transforms import LinearWeights

_SMALLEST_STEP = 2.0**-24
"""Smallest positive fp16. A channel whose scale is zero begins here, so that it can grow again."""

_WAY_OUT = "Quantise the weights of this very model, and call detach_steps before steps are attached anew."


class LearnedSteps(StoredForm):
    """From latent weights to quantised ones; the steps are its parameters."""

    def __init__(self, coded: LinearWeights, weight: Tensor) -> None:
        super().__init__(weight, learns_latent=True)
        self.weight_bits = coded.weight_bits
        self.axis = coded.axis
        scales = torch.from_numpy(coded.scales)
        self.stored_as = scales.dtype
        """Precision of a step in the file."""
        self.steps = nn.Parameter(scales.to(weight.device, torch.float32).clamp_min(_SMALLEST_STEP))
        """Step sizes, fp32, shape (O,); their magnitude counts."""

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
    attach(model, coded, LearnedSteps, way_out=_WAY_OUT)


def detach_steps(model: nn.Module) -> dict[str, LinearWeights]:
    """Take all steps off again, in place: plain modules remain, whose weights are what ``values()`` gives.

    Returns:
        The learned integers and scales, by name of the weight as in ``state_dict()``; under its first name where it
        has several.
    """
    return cast("dict[str, LinearWeights]", detach(model, LearnedSteps))


def _signs(weights: Tensor) -> Tensor:
    return torch.where(weights.detach() >= 0, 1.0, -1.0)


def _with_value(surrogate: Tensor, value: Tensor) -> Tensor:
    """``value``, bit for bit, with the gradient of ``surrogate``."""
    return surrogate - surrogate.detach() + value.detach()
