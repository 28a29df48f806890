"""Training batches one after the other, epoch after epoch, from a place that can be saved and gone on from."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from tersenet.data.splits import Source
from tersenet.errors import DataError
from tersenet.measurement.placement import Batch, num_in


class BatchStream:
    """Shuffled, augmented batches without end; each begins from a state of torch's global generator that is its own."""

    def __init__(self, source: Source, *, batch_size: int, seed: int) -> None:
        """Nothing is read yet; ``seed`` fixes order and augmentation."""
        self._source = source
        self._batch_size = batch_size
        self._seed = seed
        self._stream: Iterator[Batch] | None = None
        self.epoch = 0
        """Passes begun before this one."""
        self.place = 0
        """Batches of this pass so far."""
        self.num_seen = 0
        """Samples so far."""

    def peek(self) -> Batch:
        """The first batch, which comes again."""
        batch = self.next()
        self.put_back(0, 0, 0)
        return batch

    def next(self) -> Batch:
        """The next batch; call it where the global generator may be reseeded.

        Raises:
            DataError: there are no batches.
        """
        while True:
            if self._stream is None:
                seed = self._reseed(0)
                self._stream = iter(self._source.batches(self._batch_size, shuffle_seed=seed, augment=True))
                for place in range(self.place):  # after an interruption
                    self._reseed(place + 1)
                    next(self._stream)
            self._reseed(self.place + 1)
            batch = next(self._stream, None)
            if batch is not None:
                self.place += 1
                self.num_seen += num_in(batch[0])
                return batch
            if self.place == 0:
                raise DataError("The training split yields no batches. Give it at least one sample.")
            self.epoch, self.place, self._stream = self.epoch + 1, 0, None

    def put_back(self, epoch: int, place: int, num_seen: int) -> None:
        """Go on from another place."""
        self.epoch, self.place, self.num_seen, self._stream = epoch, place, num_seen, None

    def _reseed(self, place: int) -> int:
        seed = int(np.random.SeedSequence((self._seed, self.epoch, place)).generate_state(1)[0])
        torch.manual_seed(seed)
        return seed
