"""The closed forms of training with learned noise: rates, divergences, and what noise adds to a sum.

Information dropout multiplies by log-normal noise, log eps ~ N(0, a^2). Under the log-uniform prior the divergence of
log z ~ N(log f, a^2) is -log a and a constant; the constant is chosen so that the largest rate carries nothing.
Variational dropout adds Gaussian noise to a weight w, of variance alpha w^2.

Source: Achille and Soatto 2018, arXiv:1611.01353, section 5 and the authors' code (rates from 0.001 to 0.701);
Molchanov et al. 2017, arXiv:1701.05369, equations 14 (divergence) and 17 (sums).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

SMALLEST_RATE = 0.001
LARGEST_LOG_ALPHA = 8.0
"""log alpha is clipped to this on both sides."""

_K1, _K2, _K3 = 0.63576, 1.87320, 1.48695
_TINY = 1e-8


def rates(logits: Tensor, *, max_rate: float) -> Tensor:
    """Noise rates between 0.001 and ``max_rate`` + 0.001, same shape."""
    return SMALLEST_RATE + max_rate * torch.sigmoid(logits)


def information(rate: Tensor, *, max_rate: float) -> Tensor:
    """Nats that a unit carries beyond one at the largest rate, at least 0, same shape."""
    return math.log(max_rate + SMALLEST_RATE) - rate.log()


def log_normal(rate: Tensor) -> Tensor:
    """One draw of the noise per entry, same shape."""
    return (rate * standard_normal(rate)).exp()


def log_alpha(weight: Tensor, log_variance: Tensor) -> Tensor:
    """Logarithm of noise variance over squared weight, clipped to 8 on both sides, same shape."""
    return (log_variance - (weight.square() + _TINY).log()).clamp(-LARGEST_LOG_ALPHA, LARGEST_LOG_ALPHA)


def variational_divergence(log_alphas: Tensor) -> Tensor:
    """Nats of each weight under the log-uniform prior, at least 0, same shape; an approximation within 0.02."""
    return _K1 - _K1 * torch.sigmoid(_K2 + _K3 * log_alphas) + 0.5 * F.softplus(-log_alphas)


def with_local_noise(mean: Tensor, variance: Tensor) -> Tensor:
    """A draw of sums whose terms are noisy, one per output, from their mean and variance, same shape."""
    return mean + (variance + _TINY).sqrt() * standard_normal(mean)


def standard_normal(like: Tensor) -> Tensor:
    """Draws in shape, layout and type of ``like``.

    They are drawn along the memory, since torch fills a tensor in channels_last layout one number at a time.
    """
    drawn = torch.empty_like(like)
    drawn.as_strided((drawn.numel(),), (1,)).normal_()
    return drawn
