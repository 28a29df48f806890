"""Which values of a network are stored, and in which width.

The order is that of ``model.state_dict()``. Floating-point tensors are stored in the width the policy gives their
layer, else in the default; integers and bools exactly. A tensor that the narrow width would spoil is stored in the next
wider one: where a finite value would become infinite, or where rounding would err by more than the format's own 2^-11
of the largest value of a parameter, or of any one value of a buffer (a running variance is divided by, so that its
smallest entries count).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from tersenet.core.policy import Policy, Raw
from tersenet.core.registry import unknown_name
from tersenet.errors import ModelError, PolicyError
from tersenet.graph import duplicate, unwrapped
from tersenet.pack.codecs import Array, codecs
from tersenet.pack.index import Dtype, Entry

SAME = "same"
"""Codec of a tensor that shares its memory with an earlier one, whose number is the parameter ``tensor``."""

_EXACT = {
    torch.int8: "int8",
    torch.int16: "int16",
    torch.int32: "int32",
    torch.int64: "int64",
    torch.uint8: "uint8",
    torch.bool: "bool",
}
_WIDTHS = {torch.float16: 16, torch.bfloat16: 32, torch.float32: 32, torch.float64: 64}
_ROUNDING = {"float16": 2.0**-11, "float32": 2.0**-24}


@dataclass(frozen=True, kw_only=True)
class Stored:
    """One tensor as it will stand in the file."""

    entry: Entry

    tensor: Tensor
    """The tensor of the model, sharing its memory."""

    stream: bytes
    """Its bytes; empty if the values are another's."""


def stored_tensors(model: nn.Module, *, policy: Policy, dtype: Dtype) -> Iterator[Stored]:
    """Encode the tensors of ``model.state_dict()``, one after the other.

    Args:
        policy: gives the width per layer (``storage``); a layer's entry covers all its tensors.
        dtype: width of all others.

    Raises:
        ModelError: the model has a state that is no tensor, or of a number format that cannot be stored.
        PolicyError: ``policy.storage`` names a layer that the model does not have.
    """
    model = unwrapped(model)
    _check_layers(model, policy)
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    seen: dict[tuple[object, ...], int] = {}
    for number, (name, tensor) in enumerate(model.state_dict().items()):
        if not isinstance(tensor, Tensor):
            raise ModelError(f"{name!r} is a {type(tensor).__name__}; only tensors can be stored in a packed file.")
        shape = tuple(tensor.shape)
        key = _memory(tensor)
        if key in seen:
            entry = Entry(name=name, shape=shape, codec=SAME, params={"tensor": seen[key]})
            yield Stored(entry=entry, tensor=tensor, stream=b"")
            continue
        if tensor.numel():
            seen[key] = number
        values = _as_array(tensor, name)
        width = _raw_dtype(values, asked=_asked(name, policy, dtype), is_parameter=name in parameters)
        encoded = codecs.get("raw").encode(values, {"dtype": width})
        entry = Entry(name=name, shape=shape, codec="raw", params=encoded.params)
        yield Stored(entry=entry, tensor=tensor, stream=encoded.stream)


def as_stored(model: nn.Module, *, policy: Policy | None = None, dtype: Dtype = "fp32") -> nn.Module:
    """A copy of the model with the values that a packed file would give back.

    What is measured on this copy is what a user of the file gets: trial and file agree.

    Args:
        model: stays as it is.
        policy: as for ``save_packed``; None stores everything as ``dtype``.
        dtype: as for ``save_packed``.

    Raises:
        ModelError: as for ``save_packed``.
        PolicyError: as for ``save_packed``.
    """
    rounded = duplicate(unwrapped(model))
    with torch.no_grad():
        for stored in stored_tensors(rounded, policy=policy or Policy(), dtype=dtype):
            if stored.entry.codec != SAME:
                values = codecs.get("raw").decode(stored.stream, stored.entry.shape, stored.entry.params)
                stored.tensor.copy_(torch.from_numpy(values))
    return rounded


def bytes_per_element(model: nn.Module, *, policy: Policy | None = None, dtype: Dtype = "fp32") -> dict[str, float]:
    """Bytes that one value of each floating-point tensor takes in the file, by name as in ``state_dict()``.

    Tensors that share another's memory take none. Widths follow the present values: training can change one.

    Raises:
        ModelError: as for ``save_packed``.
        PolicyError: as for ``save_packed``.
    """
    found = {}
    for stored in stored_tensors(model, policy=policy or Policy(), dtype=dtype):
        if stored.tensor.is_floating_point():
            width = np.dtype(str(stored.entry.params["dtype"])).itemsize if stored.entry.codec != SAME else 0
            found[stored.entry.name] = float(width)
    return found


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


def _memory(tensor: Tensor) -> tuple[object, ...]:
    return tensor.data_ptr(), tensor.device, tensor.dtype, tuple(tensor.shape), tensor.stride()


def _as_array(tensor: Tensor, name: str) -> Array:
    values = tensor.detach().cpu()
    if values.layout != torch.strided or values.is_quantized or values.dtype not in {*_EXACT, *_WIDTHS}:
        raise ModelError(
            f"{name!r} has number format {tensor.dtype} ({tensor.layout}), which a packed file cannot store. "
            "Convert it to float32."
        )
    if values.dtype == torch.bfloat16:
        values = values.float()
    return np.asarray(values.numpy())


def _raw_dtype(values: Array, *, asked: Dtype, is_parameter: bool) -> str:
    if values.dtype.kind != "f":
        return str(values.dtype)
    if values.dtype == np.float16 or (asked == "fp16" and _fits(values, "float16", is_parameter=is_parameter)):
        return "float16"
    if values.dtype == np.float32 or _fits(values, "float32", is_parameter=is_parameter):
        return "float32"
    return "float64"


def _fits(values: Array, dtype: str, *, is_parameter: bool) -> bool:
    """Whether every value survives rounding to ``dtype`` as well as that format rounds."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = values.astype(dtype).astype(values.dtype)
    finite = np.isfinite(values)
    if not np.array_equal(finite, np.isfinite(rounded)):
        return False
    if not finite.any():
        return True
    size = np.abs(values[finite])
    error = np.abs(rounded[finite] - values[finite])
    scale = size.max() if is_parameter else size
    return bool(np.all(error <= _ROUNDING[dtype] * scale))
