"""Splits made of the user's own batches: a list, a ``DataLoader``, anything that can be walked over again and again.

Nothing is assumed about the targets, so detection, segmentation and regression come in this way. Batches keep their
size; where only a part of the samples is wanted, the batches at its ends are cut.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.utils.data import DataLoader

from tersenet.data.checks import check_finite, check_labels, content_hash
from tersenet.data.splits import Data, Inputs, SearchSplit, TestSplit, TrainSplit, selected_range
from tersenet.errors import DataError, TersenetError


class BatchSource:
    """A re-iterable of ``(inputs, targets)`` batches."""

    def __init__(self, batches: Iterable[Any], *, where: str = "batches", num_classes: int | None = None) -> None:
        """Keep the batches and count their samples.

        That is one walk over all of them, except for a ``DataLoader`` that tells its length: there the first batch is
        looked at now, the others when they are used.

        Args:
            batches: gives pairs of inputs (a tensor, or a tuple of tensors; axis 0 is the batch) and targets.
            where: what to name in messages.
            num_classes: if given, targets that are integers of shape (N,) are checked against it.

        Raises:
            DataError: it can be walked over only once, is empty, or a batch is not a pair, holds NaN inputs or labels
                outside the classes.
        """
        if not isinstance(batches, Iterable):
            raise DataError(f"{where} is a {type(batches).__name__}. Give a list of batches or a DataLoader.")
        if iter(batches) is batches:
            raise DataError(
                f"{where} is a {type(batches).__name__}, which can be walked over only once. "
                "Give a list of batches or a DataLoader."
            )
        self._batches = batches
        self._where = where
        self._num_classes = num_classes
        counted = _count(batches)
        self._num_samples = 0
        hashes: list[Tensor | str] = []
        for inputs, targets in self._checked():
            self._num_samples += _num_samples(inputs)
            hashes += [content_hash(_tensors(inputs)), content_hash(_tensors(targets))]
            if counted is not None:
                self._num_samples = counted
                break
        if not hashes:
            raise DataError(f"{where} is empty. Give at least one batch (inputs, targets).")
        self._hash = content_hash([*hashes, f"{self._num_samples} samples"])

    @property
    def num_samples(self) -> int:
        """Samples of all batches."""
        return self._num_samples

    @property
    def content_hash(self) -> str:
        """sha256 of all batches; of a ``DataLoader`` that tells its length, of the first one and that length."""
        return self._hash

    def batches(
        self,
        batch_size: int,
        *,
        shuffle_seed: int | None = None,
        augment: bool = False,
        skip: int = 0,
        first: int | None = None,
    ) -> Iterator[tuple[Inputs, Any]]:
        """Walk over the samples ``[skip, skip + first)`` once, see ``Source.batches``.

        ``batch_size`` and ``augment`` are the business of whoever made the batches. ``shuffle_seed`` mixes the order
        of the batches of a list; a loader mixes its samples itself.
        """
        wanted = selected_range(self.num_samples, skip=skip, first=first)
        if shuffle_seed is None or not isinstance(self._batches, Sequence):
            yield from self._cut(self._checked(), wanted)
            return
        pieces = list(self._cut(self._checked(), wanted))
        random.Random(shuffle_seed).shuffle(pieces)
        yield from pieces

    def _cut(self, batches: Iterator[tuple[Inputs, Any]], wanted: range) -> Iterator[tuple[Inputs, Any]]:
        start = 0
        for inputs, targets in batches:
            if start >= wanted.stop:
                return
            size = _num_samples(inputs)
            low, high = max(wanted.start - start, 0), min(wanted.stop - start, size)
            start += size
            if low >= high:
                continue
            if (low, high) == (0, size):
                yield inputs, targets
            else:
                part = inputs[low:high] if isinstance(inputs, Tensor) else tuple(x[low:high] for x in inputs)
                yield part, cut_targets(targets, slice(low, high), size)

    def _checked(self) -> Iterator[tuple[Inputs, Any]]:
        for number, batch in enumerate(self._walked()):
            where = f"{self._where}, batch {number}"
            if not isinstance(batch, tuple | list) or len(batch) != 2:
                raise DataError(f"{where} is {_described(batch)}. Every batch must be a pair (inputs, targets).")
            inputs = _as_inputs(batch[0], where)
            for tensor in (inputs,) if isinstance(inputs, Tensor) else inputs:
                check_finite(tensor, where=where)
            targets = batch[1]
            if isinstance(targets, Tensor) and not targets.is_floating_point() and targets.ndim == 1:
                _check_class_numbers(targets, self._num_classes, _num_samples(inputs), where)
            yield inputs, targets

    def _walked(self) -> Iterator[Any]:
        """The user's batches; what goes wrong in his code is said to be his, with the place."""
        number = 0
        try:
            walk = iter(self._batches)
            while True:
                try:
                    batch = next(walk)
                except StopIteration:
                    return
                yield batch
                number += 1
        except TersenetError:
            raise
        except Exception as error:
            raise DataError(
                f"{self._where}, batch {number} could not be read: {type(error).__name__}: {error}. "
                "Repair what yields the batches."
            ) from error


def from_batches(
    train: Iterable[Any],
    search: Iterable[Any],
    test: Iterable[Any],
    *,
    name: str = "user",
    num_classes: int | None = None,
) -> Data:
    """A data set from the user's own batches.

    Args:
        train: ``(inputs, targets)`` batches for fine-tuning; a list or a ``DataLoader``.
        search: batches for rewards and selection, in a fixed order; not part of ``test``.
        test: batches for the final report, in a fixed order.
        name: how reports call the data set.
        num_classes: classes, where the targets are class numbers of shape (N,); None for everything else.

    Raises:
        DataError: a split cannot be used (see ``BatchSource``), or ``search`` or ``test`` changes between two walks.
    """
    parts = {"train": train, "search": search, "test": test}
    sources = {part: BatchSource(given, where=part, num_classes=num_classes) for part, given in parts.items()}
    for part in ("search", "test"):
        _check_fixed(sources[part], part)
    first, _ = next(sources["search"].batches(1))
    return Data(
        name=name,
        train=TrainSplit(sources["train"]),
        search=SearchSplit(sources["search"]),
        test=TestSplit(sources["test"]),
        num_classes=num_classes,
        input_shape=tuple(first.shape[1:]) if isinstance(first, Tensor) else None,
        # A training loader may shuffle and distort, so only its size can be part of a stable hash.
        content_hash=content_hash(
            [f"train {sources['train'].num_samples}", sources["search"].content_hash, sources["test"].content_hash]
        ),
    )


def cut_targets(targets: Any, rows: slice, num_samples: int) -> Any:
    """The targets of some samples of a batch.

    Args:
        targets: a tensor of shape (num_samples, ...), a list with one entry per sample, or a tuple, list or
            dictionary of those.
        rows: samples wanted.
        num_samples: samples of the batch.

    Raises:
        DataError: it is none of these, so it cannot be cut.
    """
    if isinstance(targets, Tensor) and targets.ndim > 0 and len(targets) == num_samples:
        return targets[rows]
    if isinstance(targets, Mapping):
        return {key: cut_targets(value, rows, num_samples) for key, value in targets.items()}
    if isinstance(targets, tuple | list):
        per_part = all(isinstance(part, Tensor) and len(part) == num_samples for part in targets)
        if len(targets) == num_samples and not per_part:
            return targets[rows]
        parts = [cut_targets(part, rows, num_samples) for part in targets]
        return tuple(parts) if isinstance(targets, tuple) else parts
    if targets is None:
        return None
    raise DataError(
        f"targets of a batch of {num_samples} samples are {_described(targets)}, which cannot be cut by sample. "
        "Give a tensor or list with one entry per sample, or a tuple or dictionary of them."
    )


def _check_fixed(source: BatchSource, part: str) -> None:
    """Trials are only comparable if they see the same samples: the first batch must come again as it was."""
    (first, _), (again, _) = (next(source.batches(1)) for _ in range(2))
    if content_hash(_tensors(first)) != content_hash(_tensors(again)):
        raise DataError(
            f"{part} gives other inputs each time it is walked over, so its measurements could not be compared. "
            "Switch off shuffling and random augmentation (DataLoader(..., shuffle=False))."
        )


def _check_class_numbers(targets: Tensor, num_classes: int | None, num_inputs: int, where: str) -> None:
    if len(targets) != num_inputs:
        raise DataError(f"{where} has {num_inputs} inputs and {len(targets)} targets. Give one target per input.")
    if num_classes is not None:
        check_labels(targets, num_classes=num_classes, where=where)


def _as_inputs(given: Any, where: str) -> Inputs:
    parts = given if isinstance(given, tuple | list) else (given,)
    if not parts or not all(isinstance(part, Tensor) and part.ndim > 0 for part in parts):
        raise DataError(f"{where}: the inputs are {_described(given)}. Give a tensor, or a tuple of tensors.")
    if len({len(part) for part in parts}) > 1 or len(parts[0]) == 0:
        raise DataError(
            f"{where}: the inputs have {', '.join(str(len(part)) for part in parts)} samples along axis 0. "
            "All inputs of a batch need the same number, at least 1."
        )
    ready = tuple(part.detach().cpu() for part in parts)
    ready = tuple(part.float() if part.is_floating_point() else part for part in ready)
    return ready if isinstance(given, tuple | list) else ready[0]


def _count(batches: Iterable[Any]) -> int | None:
    """Samples of a ``DataLoader``, without reading them; None where only a walk can tell."""
    if not isinstance(batches, DataLoader) or batches.batch_size is None or not hasattr(batches.sampler, "__len__"):
        return None
    sampler: Any = batches.sampler
    num_samples = len(sampler)
    return num_samples - num_samples % batches.batch_size if batches.drop_last else num_samples


def _num_samples(inputs: Inputs) -> int:
    return len(inputs) if isinstance(inputs, Tensor) else len(inputs[0])


def _tensors(value: Any) -> Iterator[Tensor | str]:
    """All tensors in a nest of tuples, lists and dictionaries; whatever else there is as text."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield str(key)
            yield from _tensors(part)
    elif isinstance(value, tuple | list):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, str | int | float | bool | None):
        yield repr(value)


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
