"""Save a network as a packed file, and make a runnable network of one.

Reading needs the original architecture, uncompressed: the plan in the file is applied to a copy of it, without tracing,
and the values are filled in. No pickle anywhere; nothing in a file is believed before it is checked against the
file's length and the given model.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from tersenet.core.files import write_whole
from tersenet.core.plan import Plan
from tersenet.core.policy import Policy
from tersenet.errors import ArtifactError, PolicyError
from tersenet.graph import unwrapped
from tersenet.pack.codecs import codec
from tersenet.pack.container import build_container
from tersenet.pack.entropy import SymbolReader, encode_streams
from tersenet.pack.index import Dtype, Index, write_index
from tersenet.pack.matching import check_values
from tersenet.pack.norms import Norms
from tersenet.pack.reading import Contents, coding_of, read_contents
from tersenet.pack.storage import SAME, stored_tensors
from tersenet.transforms import materialize, without_parametrizations
from tersenet.transforms.coded import CodedWeights


def save_packed(
    path: str | Path,
    model: nn.Module,
    *,
    plan: Plan,
    policy: Policy,
    provenance: Mapping[str, str],
    dtype: Dtype = "fp32",
    norms: Norms = "full",
    coded: Mapping[str, CodedWeights] | None = None,
) -> int:
    """Write the compressed network as one file; a failure leaves no part of it behind.

    Args:
        path: the file; an older one is replaced, in one step, once the new one is complete.
        model: the compressed network, ``materialize(original, plan)`` after fine-tuning; stays as it is.
        plan: what was cut from the original.
        policy: what the plan was made from; its ``storage`` overrides ``dtype`` per layer.
        provenance: facts about the run; names to values.
        dtype: width of floating-point values that are stored plainly, ``fp32`` or ``fp16``.
        norms: ``full``, or ``folded``: batch norms as one scale and one shift per channel, half their bytes. A folded
            network computes the same in eval mode only, so fine-tune it before, not after.
        coded: the weight of each layer that ``policy.storage`` stores as clusters or linear integers, by name of the
            tensor; the model holds exactly their values.

    Returns:
        Bytes of the file on disk.

    Raises:
        NotFoundError: the folder does not exist.
        ArtifactError: the file cannot be written.
        ModelError: the model has a state that cannot be stored.
        PolicyError: the policy names a layer that the model does not have, or ``coded`` matches not it or the model.
    """
    content = packed_bytes(
        model, plan=plan, policy=policy, provenance=provenance, dtype=dtype, norms=norms, coded=coded
    )
    return write_whole(path, content)


def packed_bytes(
    model: nn.Module,
    *,
    plan: Plan,
    policy: Policy,
    provenance: Mapping[str, str],
    dtype: Dtype = "fp32",
    norms: Norms = "full",
    coded: Mapping[str, CodedWeights] | None = None,
) -> bytes:
    """The content of the file that ``save_packed`` writes, equal for equal arguments.

    Raises:
        ModelError: as for ``save_packed``.
        PolicyError: as for ``save_packed``.
    """
    stored = list(stored_tensors(model, policy=policy, dtype=dtype, norms=norms, coded=coded))
    check_values(unwrapped(model), coded or {})
    index = Index(
        entries=tuple(one.entry for one in stored),
        plan=plan,
        policy=policy,
        provenance=dict(provenance),
        dtype=dtype,
    )
    symbols = encode_streams([one.encoded.symbols for one in stored if one.encoded.symbols is not None])
    return build_container(write_index(index), b"".join([*(one.encoded.plain for one in stored), symbols]))


def load(path: str | Path, model: nn.Module) -> nn.Module:
    """Make the compressed network that a packed file holds.

    Args:
        path: a file that ``save_packed`` wrote.
        model: the original architecture, uncompressed, with any weights; stays as it is. Where torch computes weights
            (weight norm, spectral norm), with that or without.

    Returns:
        A plain module in eval mode, on the device of ``model``.

    Raises:
        NotFoundError: there is no such file.
        ArtifactError: the file is damaged, truncated, of a newer version, or made for another architecture.
    """
    model, _ = without_parametrizations(unwrapped(model))
    contents = read_contents(path)
    _check_architecture(contents.index, model)
    try:
        compressed = materialize(model, contents.index.plan)
    except (PolicyError, IndexError, RuntimeError) as error:
        raise ArtifactError(f"The plan of {str(path)!r} does not fit the model: {error}") from error
    try:
        _fill(compressed, contents)
    except ArtifactError as error:
        raise ArtifactError(f"{str(path)!r} cannot be read: {error}") from None
    return compressed.eval()


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


def _fill(model: nn.Module, contents: Contents) -> None:
    """Put the values into the network, whose shapes have been checked: they bound what the stream may claim."""
    entries = contents.index.entries
    tensors = model.state_dict()
    shared = {int(entry.params["tensor"]) for entry in entries if entry.codec == SAME}
    values: dict[int, Tensor] = {}
    reader = SymbolReader(contents.coded)
    with torch.no_grad():
        for number, (entry, plain) in enumerate(zip(entries, contents.plain, strict=True)):
            if entry.codec == SAME:
                tensors[entry.name].copy_(values[int(entry.params["tensor"])])
                continue
            symbols = reader.read(entry.shape, coding_of(entry))
            found = torch.from_numpy(codec(entry.codec).decode(plain, symbols, entry.shape, entry.params))
            tensors[entry.name].copy_(found)
            if number in shared:
                values[number] = found
    reader.finish()
