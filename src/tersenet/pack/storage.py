"""Which values of a network are stored, and in which form.

The order is that of ``model.state_dict()``. The weight of a layer that the policy stores as clusters or linear
integers is stored as the coded weights that are given for it; batch norms may be folded (``pack/norms.py``). Everything
else is plain: floating-point tensors in the width the policy gives their layer, else in the default; integers and bools
exactly; kernels that are all zero are left out where that is shorter (``pack/sparse.py``). In a file with coded
weights, a number that fills a whole tensor is stored once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from tersenet.core.policy import Policy, Raw
from tersenet.core.registry import unknown_name
from tersenet.errors import ModelError, PolicyError
from tersenet.graph import duplicate, unwrapped
from tersenet.pack.codecs import Array, Encoded, decoded, encode_coded, num_bytes
from tersenet.pack.index import Dtype, Entry
from tersenet.pack.matching import MemoryKey, coded_by_memory, memory_of
from tersenet.pack.norms import Norms, folded_tensors
from tersenet.pack.plain import encode_plain, plain_array, without_repetition
from tersenet.pack.sparse import without_zeros
from tersenet.transforms.coded import CodedWeights

SAME = "same"
"""Codec of a tensor that shares its memory with an earlier one, whose number is the parameter ``tensor``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Stored:
    """One tensor as it will stand in the file."""

    name: str
    """As in ``model.state_dict()``."""

    tensor: Tensor
    """The tensor of the model, sharing its memory."""

    encoded: Encoded
    """Its values; codec ``same`` if they are another's."""

    @property
    def entry(self) -> Entry:
        """What the index says about it."""
        return Entry(
            name=self.name, shape=tuple(self.tensor.shape), codec=self.encoded.codec, params=self.encoded.params
        )

    def decoded(self) -> Array:
        """The values that a reader of the file finds."""
        return decoded(self.encoded, tuple(self.tensor.shape))


def stored_tensors(
    model: nn.Module,
    *,
    policy: Policy,
    dtype: Dtype,
    norms: Norms = "full",
    coded: Mapping[str, CodedWeights] | None = None,
) -> Iterator[Stored]:
    """Encode the tensors of ``model.state_dict()``, one after the other.

    Args:
        policy: gives the form per layer (``storage``); the width in an entry for plain numbers covers all its tensors.
        dtype: width of all others.
        norms: whether batch norms are folded.
        coded: weights of the layers that the policy stores as clusters or linear integers, by name of the tensor; the
            model's own values of them do not matter.

    Raises:
        ModelError: the model has a state that is no tensor, or of a number format that cannot be stored.
        PolicyError: ``policy.storage`` names a layer that the model does not have, or ``coded`` does not match it.
    """
    if norms not in ("full", "folded"):
        raise ValueError(f"norms must be 'full' or 'folded', got {norms!r}.")
    model = unwrapped(model)
    _check_layers(model, policy)
    by_memory = coded_by_memory(model, policy, coded or {})
    widths = partial(_asked, policy=policy, dtype=dtype)
    folded = folded_tensors(model, widths) if norms == "folded" else {}
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    seen: dict[MemoryKey, int] = {}
    for number, (name, tensor) in enumerate(model.state_dict().items()):
        if not isinstance(tensor, Tensor):
            raise ModelError(f"{name!r} is a {type(tensor).__name__}; only tensors can be stored in a packed file.")
        key = memory_of(tensor)
        if key in seen:
            encoded = Encoded(codec=SAME, params={"tensor": seen[key]})
        elif key in by_memory:
            encoded = encode_coded(by_memory[key])
        elif name in folded:
            encoded = folded[name]
        else:
            encoded = encode_plain(plain_array(tensor, name), asked=widths(name), strict=name not in parameters)
            encoded = without_zeros(encoded, tuple(tensor.shape))
        if by_memory:
            encoded = without_repetition(encoded)
        if tensor.numel():
            seen.setdefault(key, number)
        yield Stored(name=name, tensor=tensor, encoded=encoded)


def as_stored(
    model: nn.Module,
    *,
    policy: Policy | None = None,
    dtype: Dtype = "fp32",
    norms: Norms = "full",
    coded: Mapping[str, CodedWeights] | None = None,
) -> nn.Module:
    """A copy of the model with the values that a packed file would give back.

    What is measured on this copy is what a user of the file gets: trial and file agree.

    Args:
        model: stays as it is.
        policy: as for ``save_packed``; None stores everything as ``dtype``.
        dtype: as for ``save_packed``.
        norms: as for ``save_packed``.
        coded: as for ``save_packed``, but the copy takes these values, whatever the model holds.

    Raises:
        ModelError: as for ``save_packed``.
        PolicyError: as for ``save_packed``.
    """
    rounded = duplicate(unwrapped(model))
    with torch.no_grad():
        for stored in stored_tensors(rounded, policy=policy or Policy(), dtype=dtype, norms=norms, coded=coded):
            if stored.encoded.codec != SAME:
                stored.tensor.copy_(torch.from_numpy(stored.decoded()))
    return rounded


def bytes_per_element(
    model: nn.Module,
    *,
    policy: Policy | None = None,
    dtype: Dtype = "fp32",
    norms: Norms = "full",
    coded: Mapping[str, CodedWeights] | None = None,
) -> dict[str, float]:
    """Bytes that one value of each floating-point tensor takes in the file, by name as in ``state_dict()``.

    Tensors that share another's memory take none, nor do the statistics of folded norms. Widths follow the present
    values: training can change one. Of coded weights it is the average, codebooks or scales included.

    Raises:
        ModelError: as for ``save_packed``.
        PolicyError: as for ``save_packed``.
    """
    stored_ones = stored_tensors(model, policy=policy or Policy(), dtype=dtype, norms=norms, coded=coded)
    return {
        stored.name: num_bytes(stored.encoded) / max(1, stored.tensor.numel())
        for stored in stored_ones
        if stored.tensor.is_floating_point()
    }


def _check_layers(model: nn.Module, policy: Policy) -> None:
    layers = {name for name, _ in model.named_modules(remove_duplicate=False)}
    for layer in policy.storage:
        if layer not in layers:
            raise PolicyError(f"policy.storage: {unknown_name('layer', layer, sorted(layers - {''}))}")


def _asked(name: str, policy: Policy, dtype: Dtype) -> Dtype:
    """Width the policy gives the tensor: that of the innermost module that it names."""
    layer = owner(name, policy.storage)
    form = None if layer is None else policy.storage[layer]
    return form.dtype if isinstance(form, Raw) else dtype


def owner(name: str, layers: Mapping[str, object]) -> str | None:
    """The innermost of ``layers`` that the tensor ``name`` lies in; None if it lies in none."""
    inside = [layer for layer in layers if name.startswith(f"{layer}.")]
    return max(inside, key=len, default=None)
