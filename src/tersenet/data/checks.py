"""Checks of inputs and labels, and the hash of a data set's contents.

A label or pixel that is wrong shows up as a bad accuracy hours later; here it is an error that names the place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from tersenet.errors import DataError


def check_labels(labels: Tensor, *, num_classes: int | None, where: str) -> None:
    """Check class numbers.

    Args:
        labels: integers, shape (N,).
        num_classes: classes there are; None checks the lower end only.
        where: what to name in the message, such as a file.

    Raises:
        DataError: a label is negative or not below ``num_classes``.
    """
    if labels.numel() == 0:
        return
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        position = int((labels < 0).nonzero()[0, 0])
        raise DataError(f"{where}: label {low} is negative (first at sample {position}). Number classes from 0.")
    if num_classes is not None and high >= num_classes:
        position = int((labels >= num_classes).nonzero()[0, 0])
        raise DataError(
            f"{where}: label {high} does not fit {num_classes} classes, 0 to {num_classes - 1} "
            f"(first at sample {position}). Correct the label, or set num_classes to {high + 1}."
        )


def check_finite(inputs: Tensor, *, where: str) -> None:
    """Check that no input is NaN or infinite.

    Raises:
        DataError: one is; the message names the first sample.
    """
    if not inputs.is_floating_point() or bool(torch.isfinite(inputs).all()):
        return
    bad = (~torch.isfinite(inputs)).flatten(1).any(dim=1) if inputs.ndim > 1 else ~torch.isfinite(inputs)
    raise DataError(
        f"{where}: {int(bad.sum())} of {len(inputs)} inputs hold NaN or infinity "
        f"(first at sample {int(bad.nonzero()[0, 0])}). Remove or repair them."
    )


def content_hash(parts: Iterable[Tensor | str]) -> str:
    """sha256 over tensors (shape, type and raw bytes) and texts, in order, hexadecimal."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, str):
            digest.update(f"text {len(part.encode())}:".encode() + part.encode())
            continue
        tensor = part.detach().cpu().contiguous()
        digest.update(f"{tensor.dtype} {tuple(tensor.shape)}:".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def stratified_order(labels: Sequence[int], keys: Sequence[str]) -> list[int]:
    """An order in which every stretch holds the classes in about their overall shares.

    Within a class, samples come in the order of the sha256 of their keys: mixed, and the same on every machine and
    with every library version, which a random generator does not promise.

    Args:
        labels: class of each sample.
        keys: one text per sample that never changes, such as its path.

    Returns:
        The positions 0 to N - 1, reordered.
    """
    mixed = {position: hashlib.sha256(key.encode()).digest() for position, key in enumerate(keys)}
    members: dict[int, list[int]] = {}
    for position in sorted(mixed, key=mixed.__getitem__):
        members.setdefault(labels[position], []).append(position)
    share = {
        position: (rank + 0.5) / len(positions)
        for positions in members.values()
        for rank, position in enumerate(positions)
    }
    return sorted(share, key=lambda position: (share[position], mixed[position]))
