"""How far a measured accuracy, or a difference of two, can be trusted.

An accuracy on n inputs is a proportion: its interval is Wilson's, which stays inside [0, 1] and holds near 100 %.
Two networks on the same inputs are paired: only the inputs on which they disagree tell them apart (McNemar), and the
exact binomial form needs no minimum number of disagreements.

Source: Wilson 1927, J. Am. Stat. Assoc. 22:209; McNemar 1947, Psychometrika 12:153.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from tersenet.core.summary import McNemar

_Z95 = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """95 % interval of a proportion.

    Args:
        successes: inputs that were right, 0 to ``n``.
        n: inputs in all, at least 1.

    Returns:
        Lower and upper end, shares in [0, 1].

    Raises:
        ValueError: ``n`` is not positive or ``successes`` is outside 0 to ``n``.
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"successes must be in 0..n and n at least 1, got {successes} of {n}.")
    share = successes / n
    scale = 1.0 + _Z95**2 / n
    middle = (share + _Z95**2 / (2 * n)) / scale
    half = _Z95 / scale * math.sqrt(share * (1.0 - share) / n + _Z95**2 / (4 * n * n))
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == n else min(1.0, middle + half)
    return low, high


def accuracy_interval(percent: float, num_samples: int) -> tuple[float, float]:
    """95 % interval of an accuracy in percent that was measured on ``num_samples`` inputs, in percent."""
    successes = min(num_samples, max(0, round(percent / 100.0 * num_samples)))
    low, high = wilson_interval(successes, num_samples)
    return 100.0 * low, 100.0 * high


def mcnemar(
    dense_correct: Sequence[bool] | NDArray[np.bool_], compressed_correct: Sequence[bool] | NDArray[np.bool_]
) -> McNemar:
    """Exact two-sided McNemar test of two networks on the same inputs.

    Args:
        dense_correct: whether the original network was right, shape (num_samples,).
        compressed_correct: the same for the compressed network, in the same order.

    Returns:
        The disagreements, and the probability of a split at least this uneven if both networks were equally good.

    Raises:
        ValueError: the two have different shapes or are not flat.
    """
    dense = np.asarray(dense_correct, dtype=bool)
    compressed = np.asarray(compressed_correct, dtype=bool)
    if dense.ndim != 1 or dense.shape != compressed.shape:
        raise ValueError(f"both must have shape (num_samples,), got {dense.shape} and {compressed.shape}.")
    only_dense = int(np.count_nonzero(dense & ~compressed))
    only_compressed = int(np.count_nonzero(compressed & ~dense))
    disagreements = only_dense + only_compressed
    p_value = float(binomtest(only_dense, disagreements, 0.5).pvalue) if disagreements else 1.0
    return McNemar(only_dense_right=only_dense, only_compressed_right=only_compressed, p_value=p_value)
