"""The learning rate as a function of how much has been trained.

Time is counted in epochs, by samples seen, so that batches of any size (a user's own loader) follow the same curve.

Source: Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5 without restarts. Differs: a linear warm-up before it.
"""

from __future__ import annotations

import math


def learning_rate_at(time: float, *, highest: float, epochs: float, warmup_epochs: float = 0.0) -> float:
    """Learning rate after ``time`` epochs: linear from 0 to ``highest``, then a half cosine down to 0.

    Args:
        time: epochs trained so far, from 0 to ``epochs``.
        highest: learning rate at the end of the warm-up.
        epochs: end of the schedule.
        warmup_epochs: length of the linear rise, below ``epochs``.
    """
    if time < warmup_epochs:
        return highest * time / warmup_epochs
    done = (time - warmup_epochs) / (epochs - warmup_epochs)
    return highest * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))
