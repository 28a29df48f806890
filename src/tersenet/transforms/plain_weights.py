"""Weights that the forward computes from others, made plain: weight norm, spectral norm, weight standardisation.

Channels of a computed weight cannot be removed exactly: the statistics of standardised weights run over the input
channels that would go, so that all others change. What the network computes with after training is a plain number
all the same. Torch's parametrisations are taken off with their values left; a convolution or linear layer of a class
of its own that calls the plain operator with a computed weight becomes the plain layer with that weight. Where that
would compute anything else (padding of its own, weights that depend on the input), the layer is left as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from tersenet.graph import duplicate, unwrapped
from tersenet.transforms.parametrized import without_parametrizations

_OPERATORS = {
    F.conv1d, F.conv2d, F.conv3d, F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d, F.linear,
}  # fmt: skip
_PLAIN: tuple[type[nn.Module], ...] = (
    nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear,
)  # fmt: skip
_TOLERANCE = 1e-4
"""Relative to the largest output: what another order of the same sums explains in fp32."""


def plain_weights(model: nn.Module, example_inputs: Tensor | tuple[Tensor, ...]) -> nn.Module:
    """A copy that computes the same in eval mode, with plain numbers where weights were computed in the forward.

    Training it goes on from these numbers, without the norm or standardisation.

    Args:
        example_inputs: the forward's positional arguments.

    Raises:
        ModelError: the model cannot be copied.
    """
    plain, is_copy = without_parametrizations(model)
    copied = plain if is_copy else duplicate(unwrapped(model))
    was_training = {name: module.training for name, module in copied.named_modules()}
    copied.eval()
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    for module, watched in _watch(copied, inputs).items():
        _replace(module, watched)
    for name, module in copied.named_modules():
        module.training = was_training.get(name, copied.training)
    return copied


class _Watched:
    """What one layer of a class of its own was given, computed with and made, call by call."""

    def __init__(self) -> None:
        self.given: list[tuple[Tensor, ...]] = []
        self.made: list[Tensor] = []
        self.weights: list[tuple[Tensor, Tensor | None]] = []


class _Recorder(TorchFunctionMode):
    """Notes weight and bias of every plain operator for the layer that is at work."""

    def __init__(self) -> None:
        super().__init__()
        self.at_work: list[_Watched] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if self.at_work and func in _OPERATORS:
            weight = args[1] if len(args) > 1 else named.get("weight")
            bias = args[2] if len(args) > 2 else named.get("bias")
            if isinstance(weight, Tensor):
                self.at_work[-1].weights.append((weight, bias))
        return func(*args, **named)


def _watch(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[nn.Module, _Watched]:
    """Run the model and note what layers of a class of their own compute with."""
    found: dict[nn.Module, _Watched] = {}
    handles = []
    with _Recorder() as recorder:

        def before(module: nn.Module, given: tuple[Any, ...]) -> None:
            recorder.at_work.append(found.setdefault(module, _Watched()))
            recorder.at_work[-1].given.append(given)

        def after(module: nn.Module, given: tuple[Any, ...], made: Any) -> None:
            recorder.at_work.pop().made.append(made)

        for module in model.modules():
            if isinstance(module, _PLAIN) and type(module).forward not in {plain.forward for plain in _PLAIN}:
                handles += [module.register_forward_pre_hook(before), module.register_forward_hook(after)]
        try:
            with torch.no_grad():
                model(*inputs) if handles else None
        finally:
            for handle in handles:
                handle.remove()
    return found


def _replace(module: nn.Module, watched: _Watched) -> None:
    """Make the layer a plain one if that computes the same in every call that was seen."""
    if not watched.weights or any(weight is module._parameters.get("weight") for weight, _ in watched.weights):
        return
    weight, bias = watched.weights[0]
    before = module.__class__, module._parameters.get("weight"), module._parameters.get("bias")
    if before[1] is None or weight.shape != before[1].shape:
        return
    module.__class__ = next(plain for plain in _PLAIN if isinstance(module, plain))
    module._parameters["weight"] = nn.Parameter(weight.detach().clone())
    module._parameters["bias"] = None if bias is None else nn.Parameter(bias.detach().clone())
    if not _agrees(module, watched):
        module.__class__, module._parameters["weight"], module._parameters["bias"] = before


def _agrees(module: nn.Module, watched: _Watched) -> bool:
    with torch.no_grad():
        for given, made in zip(watched.given, watched.made, strict=True):
            try:
                difference = (module(*given) - made).abs().max()
            except (RuntimeError, TypeError):
                return False
            if not difference <= _TOLERANCE * made.abs().max():
                return False
    return True
