"""Part of a source: what a quick measurement or a small run goes over."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tersenet.data.splits import Inputs, Source


class First:
    """The first samples of a source; all of them where it has no more."""

    def __init__(self, source: Source, num_samples: int) -> None:
        self._source = source
        self.num_samples = min(num_samples, source.num_samples)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        augment: bool = False,
        skip: int = 0,
        first: int | None = None,
    ) -> Iterator[tuple[Inputs, Any]]:
        """As ``Source.batches``."""
        left = max(0, self.num_samples - skip)
        return self._source.batches(
            batch_size,
            shuffle_seed=shuffle_seed,
            augment=augment,
            skip=skip,
            first=left if first is None else min(first, left),
        )
