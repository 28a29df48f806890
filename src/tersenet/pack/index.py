"""The index of a packed file: names, shapes, codecs, plan, policy and provenance as one compact JSON text.

The file must be small, so nothing is said twice: names are split into modules and the kinds of tensors a module has,
lists of positions are stored once and referred to, cuts are differences between neighbours.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, ValidationError

from tersenet.core.plan import Cut, Plan
from tersenet.core.policy import KernelDecision, Policy
from tersenet.errors import ArtifactError
from tersenet.pack.codecs import Params
from tersenet.pack.sets import MAX_POSITIONS, BlockSet, decode_sets, encode_set

Dtype = Literal["fp32", "fp16"]
"""Width in which floating-point values are stored where the policy does not say otherwise."""

Count = Annotated[int, Field(ge=0, le=1 << 40)]
Shape = Annotated[tuple[Count, ...], Field(max_length=32)]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor of the file, in the order of ``model.state_dict()``."""

    name: str

    shape: tuple[int, ...]

    codec: str
    """Name of its codec; ``same`` for a tensor whose values are another's."""

    params: Params


@dataclass(frozen=True, kw_only=True)
class Index:
    """Everything a packed file says besides the values themselves."""

    entries: tuple[Entry, ...]

    plan: Plan

    policy: Policy

    provenance: dict[str, str]

    dtype: Dtype


class _PlanText(BaseModel, frozen=True, extra="forbid"):
    keeps: tuple[Count, ...]
    cuts: tuple[int, ...]
    others: tuple[str, ...]
    attributes: dict[str, dict[str, int | tuple[int, ...]]]
    kept: dict[str, Count]


class _IndexText(BaseModel, frozen=True, extra="forbid"):
    leaves: tuple[tuple[str, ...], ...]
    modules: tuple[str, ...]
    kinds: tuple[Count, ...]
    shapes: tuple[Shape, ...]
    codecs: tuple[dict[str, int | float | str], ...]
    uses: tuple[Count, ...]
    sets: tuple[BlockSet, ...]
    plan: _PlanText
    policy: dict[str, Any]
    provenance: dict[str, str]
    dtype: Dtype


def write_index(index: Index) -> bytes:
    """The index as JSON, equal for equal content."""
    sets = _Sets()
    names = [entry.name for entry in index.entries]
    specs = [{"codec": entry.codec, **entry.params} for entry in index.entries]
    codecs: list[dict[str, int | float | str]] = []
    codecs += (spec for spec in specs if spec not in codecs)
    text = {
        **_write_names(names),
        "shapes": [entry.shape for entry in index.entries],
        "codecs": codecs,
        "uses": [codecs.index(spec) for spec in specs],
        "plan": _write_plan(index.plan, names, sets),
        "policy": _write_policy(index.policy, sets),
        "provenance": index.provenance,
        "dtype": index.dtype,
        "sets": sets.encoded,
    }
    return json.dumps(text, separators=(",", ":"), ensure_ascii=False).encode()


def read_index(raw: bytes) -> Index:
    """The index from JSON, every reference in it checked.

    Raises:
        ArtifactError: the text is no index, or refers to what is not there.
    """
    try:
        text = _IndexText.model_validate_json(raw, strict=True)
        names = _read_names(text)
        sets = decode_sets(text.sets)
        _check_references(text, sets)
        return Index(
            entries=_read_entries(text, names),
            plan=_read_plan(text.plan, names, sets),
            policy=_read_policy(text.policy, sets),
            provenance=text.provenance,
            dtype=text.dtype,
        )
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:100]
        raise ArtifactError(f"its index makes no sense at {where or 'its top'!r}: {first['msg'][:200]}.") from None
    except IndexError:
        raise ArtifactError("its index refers to an entry that is not there.") from None


class _Sets:
    """Lists of positions, each stored once."""

    def __init__(self) -> None:
        self.encoded: list[BlockSet] = []
        self._left = MAX_POSITIONS
        self._numbers: dict[tuple[int, ...], int] = {}

    def number(self, positions: Sequence[int]) -> int:
        key = tuple(positions)
        if key not in self._numbers:
            self._left -= len(key)
            if self._left < 0:
                raise ArtifactError(f"The plan names more than {MAX_POSITIONS} positions, too many for a packed file.")
            self._numbers[key] = len(self.encoded)
            self.encoded.append(encode_set(key))
        return self._numbers[key]


def _write_names(names: Sequence[str]) -> dict[str, Any]:
    leaves: list[list[str]] = []
    modules, kinds = [], []
    for module, group in groupby(names, key=lambda name: name.rpartition(".")[0]):
        leaf = [name.rpartition(".")[2] for name in group]
        if leaf not in leaves:
            leaves.append(leaf)
        modules.append(module)
        kinds.append(leaves.index(leaf))
    return {"leaves": leaves, "modules": modules, "kinds": kinds}


def _read_names(text: _IndexText) -> list[str]:
    if not len(text.shapes) == len(text.uses) or len(text.modules) != len(text.kinds):
        raise ArtifactError("its index lists names, shapes and codecs of different lengths.")
    names: list[str] = []
    for module, kind in zip(text.modules, text.kinds, strict=True):
        leaves = text.leaves[kind]
        # Before the names are made: few bytes of an index can tell of very many of them.
        if len(names) + len(leaves) > len(text.shapes):
            break
        names += [f"{module}.{leaf}" if module else leaf for leaf in leaves]
    else:
        if len(names) == len(text.shapes) and len(set(names)) == len(names):
            return names
    raise ArtifactError("its index does not have one name for each tensor.")


def _check_references(text: _IndexText, sets: Sequence[tuple[int, ...]]) -> None:
    # Each reference is checked position by position later, so many references to one long list would take forever.
    references = [*text.plan.keeps, *text.plan.kept.values()]
    if sum(len(sets[number]) for number in references) > 2 * MAX_POSITIONS:
        raise ArtifactError("its plan refers to the same lists of positions too often.")


def _read_entries(text: _IndexText, names: Sequence[str]) -> tuple[Entry, ...]:
    entries = []
    for name, shape, use in zip(names, text.shapes, text.uses, strict=True):
        spec = text.codecs[use]
        kind = spec.get("codec")
        if not isinstance(kind, str):
            raise ArtifactError(f"its index names no codec for {name!r}.")
        params = {key: value for key, value in spec.items() if key != "codec"}
        entries.append(Entry(name=name, shape=shape, codec=kind, params=params))
    return tuple(entries)


def _write_plan(plan: Plan, names: Sequence[str], sets: _Sets) -> dict[str, Any]:
    others = sorted({cut.tensor for cut in plan.cuts} - set(names))
    numbers = {name: number for number, name in enumerate([*names, *others])}
    cuts: list[int] = []
    tensor = keep = 0
    for cut in plan.cuts:
        cuts += [numbers[cut.tensor] - tensor, cut.axis, cut.keep - keep]
        tensor, keep = numbers[cut.tensor], cut.keep
    return {
        "keeps": [sets.number(keep) for keep in plan.keeps],
        "cuts": cuts,
        "others": others,
        "attributes": plan.attributes,
        "kept": {group: sets.number(kept) for group, kept in plan.kept_channels.items()},
    }


def _read_plan(text: _PlanText, names: Sequence[str], sets: Sequence[tuple[int, ...]]) -> Plan:
    if len(text.cuts) % 3:
        raise ArtifactError("its plan is cut off.")
    known = [*names, *text.others]
    cuts = []
    tensor = keep = 0
    for step, axis, keep_step in zip(*[iter(text.cuts)] * 3, strict=True):
        tensor, keep = tensor + step, keep + keep_step
        if tensor < 0:
            raise ArtifactError("its plan refers to a tensor that is not there.")
        cuts.append(Cut(tensor=known[tensor], axis=axis, keep=keep))
    return Plan(
        keeps=tuple(sets[number] for number in text.keeps),
        cuts=tuple(cuts),
        attributes=text.attributes,
        kept_channels={group: sets[number] for group, number in text.kept.items()},
    )


def _write_policy(policy: Policy, sets: _Sets) -> dict[str, Any]:
    channels = {}
    for group, decision in policy.channels.items():
        channels[group] = decision.model_dump(exclude_defaults=True)
        if decision.keep is not None:
            channels[group]["keep"] = sets.number(decision.keep)
    storage = {layer: form.model_dump() for layer, form in policy.storage.items()}
    text = {"version": policy.version, "channels": channels, "storage": storage}
    return text | ({"kernels": _write_kernels(policy)} if policy.kernels else {})


def _write_kernels(policy: Policy) -> dict[str, Any]:
    """What was decided inside layers; masks as the share they keep, since the zeros are in the weights."""
    kernels = {}
    for layer, decision in policy.kernels.items():
        if decision.mask is not None:
            share = max(1e-9, float(decision.mask.array().mean()))
            decision = KernelDecision(unit=decision.unit, keep_ratio=share, criterion=decision.criterion)
        kernels[layer] = decision.model_dump(exclude_defaults=True)
    return kernels


def _read_policy(text: Mapping[str, Any], sets: Sequence[tuple[int, ...]]) -> Policy:
    content = dict(text)
    channels = content.get("channels")
    if isinstance(channels, dict):
        content["channels"] = {group: _read_decision(decision, sets) for group, decision in channels.items()}
    return Policy.model_validate(content)


def _read_decision(decision: Any, sets: Sequence[tuple[int, ...]]) -> Any:
    if not isinstance(decision, dict) or "keep" not in decision:
        return decision
    number = decision["keep"]
    if type(number) is not int or number < 0:
        raise ArtifactError("its policy refers to a list of channels that is not there.")
    return {**decision, "keep": sets[number]}
