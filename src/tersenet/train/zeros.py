"""Weights that were pruned inside kernels stay zero while a network is tuned."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tersenet.core.registry import unknown_name
from tersenet.errors import PolicyError
from tersenet.graph import unwrapped


@contextmanager
def held_zeros(model: nn.Module, tensors: Sequence[str]) -> Iterator[None]:
    """What is zero now in these weights gets no gradient, so that momentum and weight decay leave it zero too.

    Codebooks and steps may be attached meanwhile: these train the same parameters.

    Args:
        model: any mode, any device; it may move to another one.
        tensors: names of parameters, as in ``state_dict()``.

    Raises:
        PolicyError: there is no such parameter.
    """
    parameters = dict(unwrapped(model).named_parameters(remove_duplicate=False))
    handles = []
    for name in tensors:
        if name not in parameters:
            raise PolicyError(str(unknown_name("parameter", name, sorted(parameters))))
        if parameters[name].requires_grad:
            zeros = parameters[name].detach() == 0
            handles.append(parameters[name].register_hook(_Masked(zeros)))  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def kept_zeros(model: nn.Module, tensors: Sequence[str]) -> Iterator[None]:
    """What is zero before in these weights is zero afterwards, whatever was written meanwhile."""
    parameters = dict(unwrapped(model).named_parameters(remove_duplicate=False))
    zeros = {name: parameters[name].detach() == 0 for name in tensors}
    yield
    with torch.no_grad():
        for name, where in zeros.items():
            parameters[name].masked_fill_(where, 0.0)


class _Masked:
    """A gradient hook."""

    def __init__(self, zeros: Tensor) -> None:
        self._zeros = zeros

    def __call__(self, gradient: Tensor) -> Tensor:
        self._zeros = self._zeros.to(gradient.device)
        return torch.where(self._zeros, 0.0, gradient)
