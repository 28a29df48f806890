"""Save a network as a packed file, and make a runnable network of one.

Reading needs the original architecture, uncompressed: the plan in the file is applied to a copy of it, without tracing,
and the values are filled in. No pickle anywhere; nothing in a file is believed before it is checked against the
file's length and the given model.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from tersenet.core.files import write_whole
from tersenet.core.plan import Plan
from tersenet.core.policy import Policy, Raw
from tersenet.errors import ArtifactError, PolicyError
from tersenet.graph import unwrapped
from tersenet.pack.codecs import codec
from tersenet.pack.container import FORMAT_VERSION, build_container, read_container
from tersenet.pack.index import Dtype, Entry, Index, read_index, write_index
from tersenet.pack.storage import SAME, owner, stored_tensors
from tersenet.transforms import materialize


@dataclass(frozen=True, kw_only=True)
class TensorSummary:
    """One tensor of a packed file."""

    name: str
    """As in ``model.state_dict()``."""

    shape: tuple[int, ...]

    codec: str
    """``raw float32``, ``raw float16``, ...; ``same as NAME`` for one that shares another's values."""

    num_bytes: int
    """Of its stream."""


@dataclass(frozen=True, kw_only=True)
class PackedInfo:
    """What a packed file says about itself."""

    version: int
    """Of the format."""

    policy: Policy

    plan: Plan

    provenance: dict[str, str]

    size_bytes: int
    """Of the file on disk: header, payload and index."""

    payload_bytes: int
    """Of all values."""

    index_bytes: int
    """Of the compressed index."""

    tensors: tuple[TensorSummary, ...]

    widened: tuple[str, ...]
    """Tensors that were to be fp16, but are stored wider because fp16 would have spoiled them."""


def save_packed(
    path: str | Path,
    model: nn.Module,
    *,
    plan: Plan,
    policy: Policy,
    provenance: Mapping[str, str],
    dtype: Dtype = "fp32",
) -> int:
    """Write the compressed network as one file; a failure leaves no part of it behind.

    Args:
        path: the file; an older one is replaced, in one step, once the new one is complete.
        model: the compressed network, ``materialize(original, plan)`` after fine-tuning; stays as it is.
        plan: what was cut from the original.
        policy: what the plan was made from; its ``storage`` overrides ``dtype`` per layer.
        provenance: facts about the run; names to values.
        dtype: width of floating-point values, ``fp32`` or ``fp16``.

    Returns:
        Bytes of the file on disk.

    Raises:
        NotFoundError: the folder does not exist.
        ArtifactError: the file cannot be written.
        ModelError: the model has a state that cannot be stored.
        PolicyError: the policy names a layer that the model does not have.
    """
    return write_whole(path, packed_bytes(model, plan=plan, policy=policy, provenance=provenance, dtype=dtype))


def packed_bytes(
    model: nn.Module, *, plan: Plan, policy: Policy, provenance: Mapping[str, str], dtype: Dtype = "fp32"
) -> bytes:
    """The content of the file that ``save_packed`` writes, equal for equal arguments.

    Raises:
        ModelError: as for ``save_packed``.
        PolicyError: as for ``save_packed``.
    """
    stored = list(stored_tensors(model, policy=policy, dtype=dtype))
    index = Index(
        entries=tuple(one.entry for one in stored),
        plan=plan,
        policy=policy,
        provenance=dict(provenance),
        dtype=dtype,
    )
    return build_container(write_index(index), b"".join(one.stream for one in stored))


def load(path: str | Path, model: nn.Module) -> nn.Module:
    """Make the compressed network that a packed file holds.

    Args:
        path: a file that ``save_packed`` wrote.
        model: the original architecture, uncompressed, with any weights; stays as it is.

    Returns:
        A plain module in eval mode, on the device of ``model``.

    Raises:
        NotFoundError: there is no such file.
        ArtifactError: the file is damaged, truncated, of a newer version, or made for another architecture.
    """
    model = unwrapped(model)
    index, streams, _ = _read(path)
    _check_architecture(index, model)
    try:
        compressed = materialize(model, index.plan)
    except (PolicyError, IndexError, RuntimeError) as error:
        raise ArtifactError(f"The plan of {str(path)!r} does not fit the model: {error}") from error
    _fill(compressed, index, streams)
    return compressed.eval()


def read_info(path: str | Path) -> PackedInfo:
    """What the file says about itself, without a model.

    Raises:
        NotFoundError: there is no such file.
        ArtifactError: the file is damaged, truncated or of a newer version.
    """
    index, streams, compressed_bytes = _read(path)
    tensors = []
    for entry, stream in zip(index.entries, streams, strict=True):
        tensors.append(_summary(entry, index.entries, len(stream)))
    return PackedInfo(
        version=FORMAT_VERSION,
        policy=index.policy,
        plan=index.plan,
        provenance=index.provenance,
        size_bytes=Path(path).stat().st_size,
        payload_bytes=sum(len(stream) for stream in streams),
        index_bytes=compressed_bytes,
        tensors=tuple(tensors),
        widened=tuple(entry.name for entry in index.entries if _is_widened(entry, index)),
    )


def _read(path: str | Path) -> tuple[Index, list[memoryview], int]:
    """The index, each tensor's stream (empty for ``same``) and the length of the compressed index."""
    container = read_container(path)
    try:
        index = read_index(container.index)
        return index, _cut_payload(index, container.payload), container.compressed_bytes
    except ArtifactError as error:
        raise ArtifactError(f"{str(path)!r} cannot be read: {error}") from None


def _cut_payload(index: Index, payload: memoryview) -> list[memoryview]:
    streams = []
    start = 0
    for number, entry in enumerate(index.entries):
        if entry.codec == SAME:
            _check_same(entry, number, index.entries)
            length = 0
        else:
            length = codec(entry.codec).num_bytes(entry.shape, entry.params)
        if length > len(payload) - start:
            raise ArtifactError(f"its tensor {entry.name!r} claims {length} bytes, {len(payload) - start} are left.")
        streams.append(payload[start : start + length])
        start += length
    if start != len(payload):
        raise ArtifactError(f"its payload has {len(payload) - start} bytes that belong to no tensor.")
    return streams


def _check_same(entry: Entry, number: int, entries: tuple[Entry, ...]) -> None:
    source = entry.params.get("tensor")
    if type(source) is int and 0 <= source < number:
        first = entries[source]
        if first.codec != SAME and first.shape == entry.shape:
            return
    raise ArtifactError(f"its tensor {entry.name!r} refers to no earlier tensor of its shape.")


def _summary(entry: Entry, entries: tuple[Entry, ...], num_bytes: int) -> TensorSummary:
    if entry.codec == SAME:
        described = f"same as {entries[int(entry.params['tensor'])].name}"
    else:
        described = " ".join([entry.codec, *(str(value) for value in entry.params.values())])
    return TensorSummary(name=entry.name, shape=entry.shape, codec=described, num_bytes=num_bytes)


def _is_widened(entry: Entry, index: Index) -> bool:
    layer = owner(entry.name, index.policy.storage)
    form = None if layer is None else index.policy.storage[layer]
    asked = form.dtype if isinstance(form, Raw) else index.dtype
    return asked == "fp16" and entry.params.get("dtype") in ("float32", "float64")


def _check_architecture(index: Index, model: nn.Module) -> None:
    """Names first, then what is cut, then the shapes that result; the first difference is the error."""
    originals = model.state_dict()
    names = [entry.name for entry in index.entries]
    for place, (ours, theirs) in enumerate(zip(originals, names, strict=False)):
        if ours != theirs:
            raise _mismatch(f"tensor {place} is {theirs!r} in the file and {ours!r} in the model")
    if len(originals) != len(names):
        longer, place = max(names, list(originals), key=len), min(len(names), len(originals))
        where = "file" if longer is names else "model"
        raise _mismatch(f"only the {where} has the tensor {longer[place]!r}")
    shapes = _cut_shapes(index.plan, model)
    for entry in index.entries:
        if shapes[entry.name] != entry.shape:
            raise _mismatch(
                f"{entry.name!r} has shape {tuple(originals[entry.name].shape)} in the model, so {shapes[entry.name]} "
                f"after the cut, and {entry.shape} in the file"
            )
    _check_attributes(index.plan, model)


def _cut_shapes(plan: Plan, model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor after the cut; a cut of one name of a tied tensor cuts all of them."""
    tensors: dict[str, Tensor] = {**model.state_dict(keep_vars=True), **dict(model.named_buffers())}
    cut_to = {id(tensor): list(tensor.shape) for tensor in tensors.values()}
    for cut in plan.cuts:
        keep = plan.keeps[cut.keep]
        tensor = tensors.get(cut.tensor)
        if tensor is None:
            nearest = difflib.get_close_matches(cut.tensor, list(tensors), n=1)
            raise _mismatch(f"the plan cuts {cut.tensor!r}, the nearest name in the model is {nearest}")
        if not -tensor.ndim <= cut.axis < tensor.ndim or keep[-1] >= tensor.shape[cut.axis]:
            shape = tuple(tensor.shape)
            raise _mismatch(
                f"the plan keeps position {keep[-1]} on axis {cut.axis} of {cut.tensor!r} with shape {shape}"
            )
        cut_to[id(tensor)][cut.axis] = len(keep)
    return {name: tuple(cut_to[id(tensor)]) for name, tensor in tensors.items()}


def _check_attributes(plan: Plan, model: nn.Module) -> None:
    # Only numbers that the module has already can be set, so that a file cannot put a number in place of a method.
    modules = dict(model.named_modules(remove_duplicate=False))
    for name, attributes in plan.attributes.items():
        for attribute in attributes:
            value = vars(modules[name]).get(attribute) if name in modules else None
            if not isinstance(value, int | tuple | list):
                raise _mismatch(f"the plan sets {attribute!r} of the module {name!r}, which has no such number")


def _mismatch(difference: str) -> ArtifactError:
    return ArtifactError(
        f"The packed file was made for another network: {difference}. "
        "Give the original, uncompressed network it was made from."
    )


def _fill(model: nn.Module, index: Index, streams: list[memoryview]) -> None:
    tensors = model.state_dict()
    values: dict[int, Tensor] = {}
    with torch.no_grad():
        for number, (entry, stream) in enumerate(zip(index.entries, streams, strict=True)):
            if entry.codec != SAME:
                values[number] = torch.from_numpy(codec(entry.codec).decode(stream, entry.shape, entry.params))
            tensors[entry.name].copy_(values[number if entry.codec != SAME else int(entry.params["tensor"])])
