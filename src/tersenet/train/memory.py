"""The way out when memory runs out in training, where torch only says that it did."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from tersenet.data.splits import Inputs
from tersenet.errors import TrainingError
from tersenet.measurement.placement import num_in, shapes_of


@contextmanager
def enough_memory(inputs: Inputs) -> Iterator[None]:
    """Turn a failure for want of memory, on a GPU or on the CPU, into one that says what to lower.

    Args:
        inputs: the batch that is trained on inside.

    Raises:
        TrainingError: memory ran out; torch's own error is chained.
    """
    try:
        yield
    except Exception as error:
        if not ran_out_of_memory(error):
            raise
        size = num_in(inputs)
        raise TrainingError(
            f"There is not enough memory to train on batches of {size} (inputs of shape {shapes_of(inputs)}). Lower "
            f"batch_size (where a recipe trains: --set finetune_batch_size={max(1, size // 2)}; a loader of your own "
            "makes its batches itself), or use a device with more memory."
        ) from error


def ran_out_of_memory(error: BaseException | None) -> bool:
    """Whether this error, or one that it was raised from, is torch's for want of memory."""
    while error is not None:
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator" in str(error):
            return True
        error = error.__cause__
    return False
