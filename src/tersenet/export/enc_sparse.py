"""Integers most of which are 0: the rest, and how far each lies from the one before it.

A row that has anything in it is an entry: the step from the entry before it, and its integers. A row is one integer,
or those of one kernel where whole kernels were removed. A step is a digit: d from 1 on leads d rows ahead to an entry;
0 leads as far as the largest digit does, to no entry, so that long steps are made of several.

Source: Han et al. 2016, arXiv:1510.00149, section 2. Differs: the digits' base is chosen by size and need not be 2^b;
long steps need no entries of zeros; rows may be kernels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tersenet.export.enc_digits import packed_size

_STEP_BASES = (2, 3, 4, 5, 6, 8, 10, 12, 16, 24, 32, 40, 64, 100, 128, 256)

Integers = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Sparse:
    """Rows of integers as steps and entries."""

    steps: Integers
    """Digits, shape (steps,)."""

    step_base: int
    """One more than the largest step."""

    entries: Integers
    """Rows that have anything in them, shape (entries, row)."""

    num_rows: int
    """Rows with those that are left out."""

    base: int
    """One more than the largest integer there can be."""

    @property
    def has_zeros(self) -> bool:
        """Whether entries hold zeros: only longer rows do, single integers are stored less 1."""
        return bool(self.entries.shape[1] > 1)

    @property
    def entry_base(self) -> int:
        """Of the entries as they are stored."""
        return self.base if self.has_zeros else self.base - 1

    def num_bytes(self) -> int:
        """Bytes of steps and entries."""
        return packed_size(self.steps.size, self.step_base) + packed_size(self.entries.size, self.entry_base)


def make_sparse(rows: NDArray[Any], base: int) -> Sparse:
    """Steps and entries with the base of steps that makes them smallest.

    Args:
        rows: integers from 0 to ``base`` - 1, shape (rows, row).
        base: at least 2.
    """
    filled = np.flatnonzero(rows.any(axis=1))
    distances = np.diff(filled, prepend=-1)

    def size(step_base: int) -> int:
        num_steps = int(((distances - 1) // (step_base - 1)).sum()) + len(distances)
        return packed_size(num_steps, step_base)

    step_base = min(_STEP_BASES, key=size)
    jumps = (distances - 1) // (step_base - 1)
    steps = np.zeros(int(jumps.sum()) + len(jumps), np.int64)
    steps[np.cumsum(jumps + 1) - 1] = distances - jumps * (step_base - 1)
    entries = rows[filled].astype(np.int64)
    return Sparse(steps=steps, step_base=step_base, entries=entries, num_rows=len(rows), base=base)
