"""A split that lies in memory as one array: the built-in data sets.

Pixels stay as they were read (uint8 mostly) and become normalised fp32 batch by batch, in one fused pass, since a
search reads the same images hundreds of times.

Axes: N samples, C colours, H and W pixels.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from tersenet.data.augment import Augmentation
from tersenet.data.checks import check_finite
from tersenet.data.splits import selected_range
from tersenet.errors import DataError


class ArraySource:
    """Images in memory with one target each."""

    def __init__(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augmentation | None,
    ) -> None:
        """Keep the arrays (not copied).

        Args:
            inputs: shape (N, C, H, W); uint8 stands for 0..255 and is divided by 255 before normalising, floating
                point is taken as it is.
            targets: shape (N, ...).
            mean: subtracted per colour.
            std: divided by per colour.
            augment: what ``batches(augment=True)`` does; None does nothing.

        Raises:
            DataError: lengths differ, there is no sample, or an input is NaN.
        """
        if len(inputs) != len(targets):
            raise DataError(f"{len(inputs)} inputs have {len(targets)} targets. Give one target per input.")
        if len(inputs) == 0:
            raise DataError("The split has no samples. Give it at least one.")
        check_finite(inputs, where="inputs")
        self.inputs = inputs
        self.targets = targets
        self._augment = augment
        unit = 255.0 if inputs.dtype == torch.uint8 else 1.0
        mean_C, std_C = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
        self._scale = (1.0 / (unit * std_C)).float()[None, :, None, None]
        self._shift = (-mean_C / std_C).float()[None, :, None, None]

    @property
    def num_samples(self) -> int:
        """Samples of the split."""
        return len(self.inputs)

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        augment: bool = False,
        skip: int = 0,
        first: int | None = None,
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Walk over the samples ``[skip, skip + first)`` once, see ``Source.batches``.

        Augmentation without ``shuffle_seed`` keeps the order and draws from seed 0.
        """
        wanted = selected_range(self.num_samples, skip=skip, first=first)
        generator = torch.Generator().manual_seed(0 if shuffle_seed is None else shuffle_seed)
        order = None
        if shuffle_seed is not None:
            order = wanted.start + torch.randperm(len(wanted), generator=generator)
        for start in range(0, len(wanted), batch_size):
            if order is None:
                rows = slice(wanted.start + start, min(wanted.start + start + batch_size, wanted.stop))
                pixels, targets = self.inputs[rows], self.targets[rows]
            else:
                chosen = order[start : start + batch_size]
                pixels, targets = self.inputs.index_select(0, chosen), self.targets.index_select(0, chosen)
            if augment and self._augment is not None:
                pixels = self._augment.apply(pixels, generator=generator)
            yield self._normalise(pixels), targets

    def tensor(self, first: int | None = None, skip: int = 0) -> tuple[Tensor, Tensor]:
        """The samples ``[skip, skip + first)`` at once.

        Returns:
            Normalised inputs, fp32, shape (first, C, H, W), and their targets.
        """
        wanted = selected_range(self.num_samples, skip=skip, first=first)
        rows = slice(wanted.start, wanted.stop)
        return self._normalise(self.inputs[rows]), self.targets[rows]

    def _normalise(self, pixels: Tensor) -> Tensor:
        return torch.mul(pixels, self._scale).add_(self._shift).float()
