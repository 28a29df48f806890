"""Batch norm as one scale and one shift per channel, for files that must be small.

With its statistics fixed, a batch norm computes ``scale * x + shift`` with

    scale = weight / sqrt(running_var + eps),    shift = bias - running_mean * scale,

so that two numbers per channel do for four. The norm that comes back has ``weight = scale``, ``bias = shift``,
``running_mean = 0``, ``running_var = 1 - eps`` and ``num_batches_tracked = 0``. It computes the same in eval mode; in
training mode it does not, since batch statistics then take the place of the ones folded away.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tersenet.pack.codecs import Array, Encoded, decoded, encode_constant
from tersenet.pack.index import Dtype
from tersenet.pack.matching import memory_of
from tersenet.pack.plain import encode_plain, plain_array

Norms = Literal["full", "folded"]
"""Whether batch norms are stored with their statistics or as scale and shift."""

_FOLDABLE = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
"""These alone: a subclass may use its statistics in another way."""

_TENSORS = ("weight", "bias", "running_mean", "running_var")


def folded_tensors(model: nn.Module, widths: Callable[[str], Dtype]) -> dict[str, Encoded]:
    """The tensors of all batch norms that can be folded, by name; ``widths`` tells what was asked for each name."""
    found = {}
    for name, norm in foldable_norms(model).items():
        prefix = f"{name}." if name else ""
        shape = tuple(norm.get_parameter("weight").shape)
        scale = encode_plain(_own_format(folded_scale(norm), norm), asked=widths(f"{prefix}weight"), strict=True)
        stored_scale = decoded(scale, shape).astype(np.float64)
        shift = _own_format(folded_shift(norm, stored_scale), norm)
        statistics = plain_array(norm.get_buffer("running_var"), f"{prefix}running_var").dtype.name
        found[f"{prefix}weight"] = scale
        found[f"{prefix}bias"] = encode_plain(shift, asked=widths(f"{prefix}bias"), strict=False)
        found[f"{prefix}running_mean"] = encode_constant(0.0, statistics)
        found[f"{prefix}running_var"] = encode_constant(1.0 - norm.eps, statistics)
        found[f"{prefix}num_batches_tracked"] = encode_constant(0, "int64")
    return found


def foldable_norms(model: nn.Module) -> dict[str, _BatchNorm]:
    """Batch norms, by name, with weights and statistics that are finite and shared with no other module."""
    owners: dict[object, set[int]] = defaultdict(set)
    for module in model.modules():
        for tensor in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
            owners[memory_of(tensor)].add(id(module))
    found = {}
    for name, module in model.named_modules():
        if isinstance(module, _BatchNorm) and type(module) in _FOLDABLE:
            tensors = [getattr(module, leaf) for leaf in _TENSORS]
            alone = all(isinstance(one, Tensor) and len(owners[memory_of(one)]) == 1 for one in tensors)
            if alone and np.isfinite([folded_scale(module), folded_shift(module, folded_scale(module))]).all():
                found[name] = module
    return found


def folded_scale(norm: _BatchNorm) -> NDArray[np.float64]:
    """``weight / sqrt(running_var + eps)``, shape (C,)."""
    weight, _, _, variance = _numbers(norm)
    with np.errstate(divide="ignore", invalid="ignore"):
        scale: NDArray[np.float64] = weight / np.sqrt(variance + norm.eps)
    return scale


def folded_shift(norm: _BatchNorm, scale: NDArray[np.float64]) -> NDArray[np.float64]:
    """``bias - running_mean * scale``, shape (C,), for the scale as it is stored.

    With the rounded scale the shift makes up for the rounding at the channel's mean, where its inputs are.
    """
    _, bias, mean, _ = _numbers(norm)
    with np.errstate(invalid="ignore"):
        shift: NDArray[np.float64] = bias - mean * scale
    return shift


def _own_format(values: NDArray[np.float64], norm: _BatchNorm) -> Array:
    return plain_array(torch.from_numpy(values).to(norm.get_parameter("weight").dtype), "weight")


def _numbers(norm: _BatchNorm) -> list[NDArray[np.float64]]:
    return [getattr(norm, leaf).detach().cpu().double().numpy() for leaf in _TENSORS]
