"""From the book of labels to channel groups.

Equal labels become edges; connected components are the atoms, the smallest things that can be removed. Atoms with
the same producers and the same uses (tensor, axis, positions per atom) form a group: what a group costs is then
linear in the number of channels kept on each axis, whichever they are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components

from tersenet.graph.labels import Edges, LabelBook, Labels, Pin
from tersenet.graph.model_graph import ChannelGroup, Member, Role, Width

_ONE_CHANNEL = "one channel only, and one must always stay"
_ALL_TIED = "all its channels are tied to each other, and one must always stay"
_MAX_REASONS = 3


@dataclass(frozen=True)
class Atoms:
    """Solved labels."""

    atom_of: Labels
    """Atom of each label, shape (num_labels,)."""

    reasons: dict[int, tuple[str, ...]]
    """Atoms that have to stay, and why."""

    joined_by: dict[int, frozenset[str]]
    """Operators that tied different layers, by atom."""

    inexact: dict[int, tuple[str, ...]]
    """Atoms that may be removed, but not with the result of zeroing them, and why."""


def solve(book: LabelBook) -> Atoms:
    """Close the book: find what is equal, what has to stay, and where plain parameters are cut."""
    _tie_shared(book)
    atom_of = _components(book)
    while _settle_splits(book, atom_of):
        atom_of = _components(book)
    _settle_plain(book, atom_of)
    return Atoms(atom_of, _reasons(book.pins, atom_of), _joined(book, atom_of), _reasons(book.inexact, atom_of))


def _tie_shared(book: LabelBook) -> None:
    """A tensor that is used in several places is cut in all of them alike."""
    for (tensor, axis), uses in book.uses.items():
        book.where = f"{tensor} is used more than once"
        for use in uses[1:]:
            book.tie(uses[0].labels, use.labels, "shared weight")
        if tensor in book.plain:
            for labels in [use.labels for use in uses] + [book.plain[tensor]]:
                book.pin(labels, f"{tensor} is used both by a layer (axis {axis}) and as a plain value")


def _components(book: LabelBook) -> Labels:
    first = np.concatenate([edges.first for edges in book.edges] or [np.zeros(0, dtype=np.int64)])
    second = np.concatenate([edges.second for edges in book.edges] or [np.zeros(0, dtype=np.int64)])
    ones = np.ones(len(first), dtype=np.int8)
    adjacency = coo_matrix((ones, (first, second)), shape=(book.num_labels, book.num_labels))
    _, atom_of = connected_components(adjacency, directed=False)
    return np.asarray(atom_of, dtype=np.int64)


def _as_atoms(labels: Labels, atom_of: Labels) -> Labels:
    return np.where(labels > 0, atom_of[np.maximum(labels, 0)], labels)


def _varying_axes(atoms: Labels) -> list[int]:
    return [axis for axis in range(atoms.ndim) if (atoms != np.take(atoms, [0], axis=axis)).any()]


def _settle_splits(book: LabelBook, atom_of: Labels) -> bool:
    """A channel axis viewed as several axes can shrink along one of them only.

    It is the one that the forward gives as -1. Where nothing says which, it is the last one: the number of parts
    (groups of a shuffle) is a constant.
    """
    before = len(book.edges)
    first_label = np.unique(atom_of, return_index=True)[1]
    for split in book.splits:
        # one label per atom, so that what is tied already makes no new edge and the settling ends
        labels = np.where(split.labels > 0, first_label[atom_of[np.maximum(split.labels, 0)]], split.labels)
        varying = _varying_axes(labels)
        book.where = split.where
        shrinking = varying[-1:] if split.shrinks is None else [labels.ndim + split.shrinks]
        for axis in [axis for axis in varying if axis not in shrinking]:
            labels = book.tie_along(labels, axis, "view")
    return len(book.edges) > before


def _settle_plain(book: LabelBook, atom_of: Labels) -> None:
    """A parameter used as a plain value is cut along the one axis on which its channels differ."""
    for tensor, labels in book.plain.items():
        varying = _varying_axes(_as_atoms(labels, atom_of))
        if len(varying) > 1:
            book.pin(labels, f"{tensor} has channels on several axes")
        elif varying and not any(name == tensor for name, _ in book.uses):
            axis = varying[0]
            book.use(tensor, axis, np.moveaxis(labels, axis, 0).reshape(labels.shape[axis], -1)[:, 0], "follower")


def _reasons(pins: Sequence[Pin], atom_of: Labels) -> dict[int, tuple[str, ...]]:
    reasons: dict[int, dict[str, None]] = {}
    for pin in pins:
        for atom in np.unique(atom_of[pin.labels]).tolist():
            reasons.setdefault(atom, {})[pin.reason] = None
    return {atom: tuple(found) for atom, found in reasons.items()}


def _joined(book: LabelBook, atom_of: Labels) -> dict[int, frozenset[str]]:
    origins = book.origins()
    joined: dict[int, set[str]] = {}
    for edges in book.edges:
        for atom in _atoms_between_layers(edges, origins, atom_of):
            joined.setdefault(atom, set()).add(edges.kind)
    return {atom: frozenset(kinds) for atom, kinds in joined.items()}


def _atoms_between_layers(edges: Edges, origins: Labels, atom_of: Labels) -> list[int]:
    one, other = origins[edges.first], origins[edges.second]
    between = (one != other) & (one >= 0) & (other >= 0)
    return [int(atom) for atom in np.unique(atom_of[edges.first[between]])]


@dataclass(frozen=True)
class _Axis:
    """One cut axis of one tensor, with the atom at each position (-1 where there is none)."""

    tensor: str
    axis: int
    role: Role
    scales: str
    atoms: NDArray[np.int64]


def _axes(book: LabelBook, atom_of: Labels) -> list[_Axis]:
    found = []
    for (tensor, axis), uses in book.uses.items():
        best = uses[0].labels
        for use in uses[1:]:
            best = np.where(best > 0, best, use.labels)
        atoms = np.where(best > 0, atom_of[np.maximum(best, 0)], -1)
        found.append(_Axis(tensor, axis, uses[0].role, uses[0].scales, atoms))
    return found


def _usage(axes: Sequence[_Axis], num_atoms: int) -> csr_matrix:
    """Positions per atom (row) and axis (column)."""
    rows = [axis.atoms[axis.atoms >= 0] for axis in axes]
    columns = [np.full(len(row), number) for number, row in enumerate(rows)]
    if not axes:
        return csr_matrix((num_atoms, 0), dtype=np.int64)
    row, column = np.concatenate(rows), np.concatenate(columns)
    return coo_matrix((np.ones(len(row), dtype=np.int64), (row, column)), shape=(num_atoms, len(axes))).tocsr()


@dataclass(frozen=True)
class _Solved:
    """What groups are made of."""

    axes: list[_Axis]
    atoms: Atoms
    owners: dict[str, str]
    order: dict[str, int]
    """Place of each layer in the order of execution."""


def channel_groups(book: LabelBook, atoms: Atoms, owners: dict[str, str]) -> tuple[ChannelGroup, ...]:
    """All groups that some layer produces, in order of their first producer.

    Args:
        owners: module that owns each tensor.
    """
    axes = _axes(book, atoms.atom_of)
    order = {layer: place for place, layer in enumerate(book.producer_order)}
    solved = _Solved(axes, atoms, owners, order)
    usage = _usage(axes, int(atoms.atom_of.max()) + 1)
    usage.sort_indices()
    ends = usage.indptr.tolist()
    makers = _makers(solved)
    buckets: dict[tuple[bool, bytes, bytes], list[int]] = {}
    for atom in _atoms_in_order(axes, makers):
        place = slice(ends[atom], ends[atom + 1])
        key = (atom in atoms.reasons, usage.indices[place].tobytes(), usage.data[place].tobytes())
        buckets.setdefault(key, []).append(atom)
    numbers: Counter[str] = Counter()
    groups = []
    for (_, columns, _), members in buckets.items():
        touched = np.frombuffer(columns, dtype=usage.indices.dtype).tolist()
        layers = dict.fromkeys(makers[column] for column in touched if column in makers)
        producers = tuple(sorted(layers, key=order.__getitem__))
        numbers[producers[0]] += 1
        suffix = f"#{numbers[producers[0]]}" if numbers[producers[0]] > 1 else ""
        groups.append(_group(producers[0] + suffix, members, producers, [axes[column] for column in touched], solved))
    return tuple(sorted(groups, key=lambda group: order[group.producers[0]]))


def module_widths(book: LabelBook, atoms: Atoms, groups: tuple[ChannelGroup, ...]) -> tuple[Width, ...]:
    """Which groups the modules without tensors see."""
    if not book.widths:
        return ()
    group_of: dict[int, str] = {}
    for group in groups:
        for member in group.members if group.prunable else ():
            labels = book.uses[member.tensor, member.axis][0].labels
            places = [place for channel in member.positions for place in channel]
            group_of.update(dict.fromkeys(atoms.atom_of[labels[places]].tolist(), group.group_id))
    num_channels = {group.group_id: group.num_channels for group in groups}
    widths = []
    for module, labels in book.widths.items():
        seen = Counter(group_of.get(atom, "") for atom in atoms.atom_of[labels[labels > 0]].tolist())
        for group_id, count in seen.items():
            if group_id:
                per_channel = count // num_channels[group_id]
                widths.append(Width(module=module, group_id=group_id, num_per_channel=per_channel))
    return tuple(widths)


def _makers(solved: _Solved) -> dict[int, str]:
    """Columns of ``_usage`` that are output axes of weights, and the layer's name."""
    makers = {}
    for number, axis in enumerate(solved.axes):
        if axis.role == "producer":
            name = axis.tensor if axis.tensor in solved.order else solved.owners.get(axis.tensor, "")
            if name in solved.order:
                makers[number] = name
    return makers


def _atoms_in_order(axes: Sequence[_Axis], makers: dict[int, str]) -> Iterable[int]:
    seen: dict[int, None] = {}
    for number in makers:
        present = axes[number].atoms
        seen.update(dict.fromkeys(present[present >= 0].tolist()))
    return seen


def _group(
    group_id: str, atoms: list[int], producers: tuple[str, ...], touched: list[_Axis], solved: _Solved
) -> ChannelGroup:
    channel_of = np.full(int(solved.atoms.atom_of.max()) + 1, -1, dtype=np.int64)
    channel_of[atoms] = np.arange(len(atoms))
    members = [
        Member(
            tensor=axis.tensor,
            axis=axis.axis,
            positions=_positions(np.where(axis.atoms >= 0, channel_of[axis.atoms], -1), len(atoms)),
            role=axis.role,
            layer=solved.owners.get(axis.tensor, ""),
            scales=axis.scales,
        )
        for axis in touched
    ]
    reasons = _distinct(solved.atoms.reasons, atoms)
    if not reasons and len(atoms) == 1:
        reasons = [
            _ONE_CHANNEL if all(len(m.positions[0]) == 1 for m in members if m.role == "producer") else _ALL_TIED
        ]
    joined = frozenset().union(*(solved.atoms.joined_by.get(atom, frozenset()) for atom in atoms))
    return ChannelGroup(
        group_id=group_id,
        num_channels=len(atoms),
        members=tuple(members),
        prunable=not reasons,
        reason=_joined_text(reasons),
        inexact="" if reasons else _joined_text(_distinct(solved.atoms.inexact, atoms)),
        joined_by=tuple(sorted(joined)),
        producers=producers,
    )


def _distinct(reasons: dict[int, tuple[str, ...]], atoms: list[int]) -> list[str]:
    return list(dict.fromkeys(reason for atom in atoms for reason in reasons.get(atom, ())))


def _joined_text(reasons: list[str]) -> str:
    return "; ".join(reasons[:_MAX_REASONS]) + ("; ..." if len(reasons) > _MAX_REASONS else "")


def _positions(channels: NDArray[np.int64], count: int) -> tuple[tuple[int, ...], ...]:
    """Positions of each channel along one axis; all channels have equally many."""
    where = np.flatnonzero(channels >= 0)
    order = where[np.argsort(channels[where], kind="stable")]
    return tuple(map(tuple, order.reshape(count, -1).tolist()))
