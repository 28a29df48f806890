"""Weights as small integers times one scale per output channel: symmetric linear quantisation, 1 to 8 bits.

A scale minimises its channel's squared error: a line search over clip points, from the largest weight downwards, then
more finely around the best, then the least-squares scale for the integers found. Scales are rounded to the precision in
which they are stored before integers are chosen, so that these make up for the rounding. With 1 bit the best scale is
the mean of the absolute weights.
Axes: O output channels, F flattened rest.

Source for 1 bit: Rastegari et al. 2016 (XNOR-Net), arXiv:1603.05279, equation 6.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from tersenet.errors import ModelError
from tersenet.transforms.coded import CodedWeights, LinearWeights

MAX_BITS = 8
"""Widest integers."""

_CLIP_STEP = 0.9
_NUM_CLIPS = 32
"""Clip points from 1 down to 0.9 ** 31 = 0.04 of the largest weight: 2 bits with a far outlier need the lowest ones."""

_NUM_FINE = 24
"""Scales between the neighbours of the best clip point; for wide integers the error jumps within that range."""


def quantize(weight: Tensor, weight_bits: int, *, axis: int, scale_bits: Literal[16, 32] = 16) -> LinearWeights:
    """Quantise one weight tensor.

    Args:
        weight: any shape with at least two axes, any float dtype, any device.
        weight_bits: 1 to 8; integers from -(2^(b-1) - 1) to 2^(b-1) - 1, with 1 bit -1 or 1.
        axis: axis of the output channels: 0, or 1 for transposed convolutions.
        scale_bits: precision of the stored scales. Weights too small for it become zero, with a scale of zero.

    Raises:
        ModelError: a weight is not finite.
        ValueError: an argument is out of range.
    """
    rows_OF = _rows(weight, axis)
    if not 1 <= weight_bits <= MAX_BITS:
        raise ValueError(f"weight_bits must lie between 1 and {MAX_BITS}, got {weight_bits}.")
    dtype = {16: torch.float16, 32: torch.float32}.get(scale_bits)
    if dtype is None:
        raise ValueError(f"scale_bits must be 16 or 32, got {scale_bits}.")
    largest = 2 ** (weight_bits - 1) - 1
    if weight_bits == 1:
        scales_O = _stored(rows_OF.abs().mean(dim=1), dtype)
        integers_OF = torch.where(rows_OF >= 0, 1.0, -1.0)
    else:
        scales_O = _best_scales(rows_OF, largest, dtype)
        integers_OF = _integers(rows_OF, scales_O, largest)
    moved = weight.movedim(axis, 0)
    integers = integers_OF.to(torch.int8).reshape(moved.shape).movedim(0, axis)
    return LinearWeights(
        integers=np.ascontiguousarray(integers.numpy()),
        scales=scales_O.to(dtype).numpy(),
        weight_bits=weight_bits,
        axis=axis,
    )


def squared_errors(weight: Tensor, *, axis: int, scale_bits: Literal[16, 32] = 16) -> dict[int, float]:
    """Distortion of one tensor by bits: the sum of squared differences between the weights and what is stored.

    Raises:
        ModelError: a weight is not finite.
        ValueError: an argument is out of range.
    """
    bits = range(1, MAX_BITS + 1)
    return {b: squared_error(weight, quantize(weight, b, axis=axis, scale_bits=scale_bits)) for b in bits}


def squared_error(weight: Tensor, coded: CodedWeights) -> float:
    """Sum of squared differences between the weights and what they are stored as."""
    difference = weight.detach().cpu().double().numpy() - coded.values()
    return float(np.square(difference).sum())


def entropy_bits(coded: LinearWeights) -> float:
    """Empirical entropy of the integers, in bits per weight: what an entropy coder that knows them comes down to.

    One distribution for the whole tensor, as one stream in a file; scales come on top.
    """
    counts = np.unique(coded.integers, return_counts=True)[1]
    shares = counts / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # no minus zero


def _rows(weight: Tensor, axis: int) -> Tensor:
    """The weights as fp32 on the CPU, shape (O, F)."""
    if weight.ndim < 2 or axis not in (0, 1):
        raise ValueError(f"weight must have two axes or more and axis be 0 or 1, got {tuple(weight.shape)}, {axis=}.")
    if weight.numel() == 0:
        raise ValueError(f"weight has no values: its shape is {tuple(weight.shape)}.")
    rows_OF = weight.detach().cpu().float().movedim(axis, 0).flatten(1)
    if not rows_OF.isfinite().all():
        raise ModelError(
            "weight holds values that are not finite. Give the weights of a network that has not diverged."
        )
    return rows_OF


def _best_scales(rows_OF: Tensor, largest: int, dtype: torch.dtype) -> Tensor:
    """The scale of least squared error per channel, of those that are tried; all fit into ``dtype``."""
    widest_O = rows_OF.abs().amax(dim=1)
    smallest = torch.finfo(dtype).tiny * torch.finfo(dtype).eps  # subnormal
    best_O, least_O = torch.zeros_like(widest_O), rows_OF.square().sum(dim=1)  # a scale of zero

    def offer(scales_O: Tensor) -> None:
        nonlocal best_O, least_O
        scales_O = _stored(scales_O.clamp_min(smallest), dtype)
        errors_O = (_integers(rows_OF, scales_O, largest) * scales_O[:, None]).sub_(rows_OF).square_().sum(dim=1)
        is_better = errors_O < least_O
        best_O, least_O = torch.where(is_better, scales_O, best_O), torch.where(is_better, errors_O, least_O)

    for power in range(_NUM_CLIPS):
        offer(widest_O * (_CLIP_STEP**power / largest))
    coarse_O = best_O
    for factor in np.geomspace(_CLIP_STEP, 1.0 / _CLIP_STEP, _NUM_FINE):
        offer(coarse_O * factor)
    integers_OF = _integers(rows_OF, best_O, largest)
    offer((integers_OF * rows_OF).sum(dim=1) / integers_OF.square().sum(dim=1).clamp_min(1.0))
    return best_O


def _integers(rows_OF: Tensor, scales_O: Tensor, largest: int) -> Tensor:
    """Nearest integers in range, as floats; zero where the scale is zero."""
    scales_O1 = torch.where(scales_O > 0, scales_O, torch.inf)[:, None]
    return (rows_OF / scales_O1).round_().clamp_(-largest, largest)


def _stored(scales_O: Tensor, dtype: torch.dtype) -> Tensor:
    """Scales as they come back from the file, fp32."""
    return scales_O.clamp_max(torch.finfo(dtype).max).to(dtype).float()
