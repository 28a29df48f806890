"""Filter importance by distance to the layer's geometric median (FPGM).

A filter close to the others can be replaced by them, so it is the one to remove. The distances run over all filters
of the layer, also those that belong to another group, and over the weights as they are, with their signs.
Axes: O out channels, F flattened rest.

Source: He et al. 2019, arXiv:1811.00250, the score with which its authors replace the distance to the median itself.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tersenet.criteria.base import register

_BLOCK = 4096


@register
def geometric_median(weight: Tensor) -> Tensor:
    """Score each output channel; the lowest scores are the most redundant.

    Args:
        weight: filters of one layer, shape (O, I, ...), any float dtype.

    Returns:
        Sum of Euclidean distances to all filters, shape (O,), in units of the weights.

    Raises:
        ValueError: ``weight`` has fewer than two dimensions.
    """
    if weight.ndim < 2:
        raise ValueError(f"weight must have shape (O, I, ...), got {tuple(weight.shape)}.")
    return _pairwise_distances(weight.flatten(1)).sum(dim=1).to(weight.dtype)


def _pairwise_distances(filters_OF: Tensor) -> Tensor:
    # |a - b|^2 = |a|^2 + |b|^2 - 2ab cancels badly for filters that are close, which are the ones that matter here:
    # double precision keeps it exact to 1e-8, and blocks of columns keep the copy of a large layer small.
    size = filters_OF.shape[0]
    gram = torch.zeros(size, size, dtype=torch.float64, device=filters_OF.device)
    for start in range(0, filters_OF.shape[1], _BLOCK):
        wide = filters_OF[:, start : start + _BLOCK].double()
        gram.addmm_(wide, wide.T)
    squares = gram.diagonal()
    return (squares[:, None] + squares[None, :] - 2.0 * gram).clamp_(min=0.0).sqrt_().fill_diagonal_(0.0)
