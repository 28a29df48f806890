"""The three splits of a data set and what can be read from them.

``train`` feeds fine-tuning and recalibration, ``search`` the rewards and the selection, ``test`` only the final
report. Each split has a type of its own, so that what measures trials cannot be handed the test split by mistake.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor

from tersenet.errors import DataError

Inputs = Tensor | tuple[Tensor, ...]
"""What goes into a network: one tensor, or several positional ones; axis 0 is the batch."""

MAX_TRIAL_SAMPLES = 2000


class Source(Protocol):
    """Samples in a fixed order, read as batches as often as needed."""

    @property
    def num_samples(self) -> int:
        """Samples of the split."""
        ...

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        augment: bool = False,
        skip: int = 0,
        first: int | None = None,
    ) -> Iterator[tuple[Inputs, Any]]:
        """Walk over the samples ``[skip, skip + first)`` once.

        Args:
            batch_size: samples per batch; the last batch may be smaller.
            shuffle_seed: order of the samples within that range; None keeps the fixed order.
            augment: distort the inputs at random, where the source knows how; drawn from ``shuffle_seed``.
            skip: samples left out at the beginning, in the fixed order.
            first: samples to read after those; None reads to the end.

        Yields:
            Normalised fp32 inputs on the CPU, and their targets.
        """
        ...


@dataclass(frozen=True)
class TrainSplit:
    """What fine-tuning, calibration and recalibration may see."""

    source: Source


@dataclass(frozen=True)
class SearchSplit:
    """What rewards and selection are measured on; taken out of the training data."""

    source: Source


@dataclass(frozen=True)
class TestSplit:
    """Read once, for the final report."""

    __test__ = False  # not a test class, whatever its name says to pytest

    source: Source


@dataclass(frozen=True, kw_only=True)
class Data:
    """One data set."""

    name: str

    train: TrainSplit

    search: SearchSplit

    test: TestSplit

    num_classes: int | None
    """None where the targets are not class numbers."""

    input_shape: tuple[int, ...] | None
    """Shape of one input without the batch axis; None where there are several inputs."""

    content_hash: str
    """sha256 over the contents, hexadecimal: the same data give the same value on every machine."""

    num_trial_samples: int = 0
    """Samples at the head of the search split that trials are measured on, the rest confirms; 0 stands for half of
    the split, at most 2,000."""

    def __post_init__(self) -> None:
        num_search = self.search.source.num_samples
        if num_search < 2:
            raise DataError(
                f"{self.name}: the search split has {num_search} samples, but it needs at least 2, "
                "some for the trials and some to confirm the best of them. Give it more."
            )
        if self.num_trial_samples == 0:
            object.__setattr__(self, "num_trial_samples", min(num_search // 2, MAX_TRIAL_SAMPLES))
        if not 1 <= self.num_trial_samples < num_search:
            raise DataError(
                f"{self.name}: num_trial_samples={self.num_trial_samples} must lie between 1 and {num_search - 1}, "
                f"since the search split has {num_search} samples and some must be left to confirm the best trials."
            )

    def example_inputs(self, batch_size: int = 2) -> tuple[Tensor, ...]:
        """The first inputs of the search split.

        Args:
            batch_size: samples wanted; fewer come back where the source's first batch is smaller.

        Returns:
            Positional inputs of the network, each of shape (batch_size, ...).
        """
        inputs, _ = next(iter(self.search.source.batches(batch_size, first=batch_size)))
        return (inputs,) if isinstance(inputs, Tensor) else inputs


def selected_range(num_samples: int, *, skip: int, first: int | None) -> range:
    """The positions ``[skip, skip + first)`` that exist among ``num_samples``.

    Raises:
        ValueError: ``skip`` or ``first`` is negative.
    """
    if skip < 0 or (first is not None and first < 0):
        raise ValueError(f"skip and first must not be negative, got skip={skip}, first={first}.")
    stop = num_samples if first is None else min(num_samples, skip + first)
    return range(min(skip, stop), stop)
