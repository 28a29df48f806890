"""Plan to a really smaller network: a copy whose tensors and module attributes follow the plan.

The copy is made with the cut tensors put in place of the originals, so that only what stays is copied and tied
tensors stay tied. Nothing is traced or run.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from tersenet.core.mask import Mask
from tersenet.core.plan import Plan
from tersenet.errors import PolicyError
from tersenet.graph import duplicate, unwrapped
from tersenet.transforms.attributes import KNOWN, attributes_after
from tersenet.transforms.tensors import tensors_by_name


def materialize(model: nn.Module, plan: Plan) -> nn.Module:
    """Build the smaller network; the given model is left as it is.

    Training flags, devices, floating-point types, ``requires_grad`` and hooks are those of the model; gradients are
    not copied. Behind ``torch.compile`` the user's own module is cut and returned.

    Raises:
        PolicyError: the plan was made for another model.
        ModelError: the model cannot be copied.
    """
    model = unwrapped(model)
    tensors = tensors_by_name(model)
    smaller = _cut_tensors(tensors, plan)
    # deepcopy looks a tensor up here before it copies it
    copied = duplicate(model, {id(tensors[name]): tensor for name, tensor in smaller.items()})
    modules = dict(copied.named_modules(remove_duplicate=False))
    for name, attributes in plan.attributes.items():
        if name not in modules:
            raise PolicyError(f"The plan names a module {name!r} that this model does not have. {_OTHER_MODEL}")
        for attribute, value in attributes.items():
            if attribute not in KNOWN:
                raise PolicyError(f"The plan sets {name}.{attribute}; only these may be set: {', '.join(KNOWN)}.")
            setattr(modules[name], attribute, value)
        _check_attributes(name, modules[name])
    return copied


_OTHER_MODEL = "Was the plan made for another model?"


def _cut_tensors(tensors: Mapping[str, Tensor], plan: Plan) -> dict[str, Tensor]:
    smaller = {name: masked(tensors, name, mask) for name, mask in plan.masks.items()}
    indices: dict[tuple[int, torch.device], Tensor] = {}
    for cut in plan.cuts:
        tensor = tensors.get(cut.tensor)
        if tensor is None:
            raise PolicyError(f"The plan cuts {cut.tensor!r}, which this model does not have. {_OTHER_MODEL}")
        if not 0 <= cut.axis < tensor.ndim or plan.keeps[cut.keep][-1] >= tensor.shape[cut.axis]:
            raise PolicyError(
                f"The plan keeps position {plan.keeps[cut.keep][-1]} on axis {cut.axis} of {cut.tensor!r}, whose "
                f"shape is {tuple(tensor.shape)}. {_OTHER_MODEL}"
            )
        key = (cut.keep, tensor.device)
        if key not in indices:
            indices[key] = torch.from_numpy(np.asarray(plan.keeps[cut.keep], dtype=np.int64)).to(tensor.device)
        source = smaller.get(cut.tensor, tensor).detach()
        smaller[cut.tensor] = source.index_select(cut.axis, indices[key])
    return {name: _dressed(tensor, tensors[name]) for name, tensor in smaller.items()}


def masked(tensors: Mapping[str, Tensor], name: str, mask: Mask) -> Tensor:
    """The weights of one tensor, zero where the mask says so.

    Raises:
        PolicyError: there is no such tensor, or the mask has another shape.
    """
    tensor = tensors.get(name)
    if tensor is None:
        raise PolicyError(f"The plan prunes inside {name!r}, which this model does not have. {_OTHER_MODEL}")
    fits = len(mask.shape) == tensor.ndim and all(m in (1, s) for m, s in zip(mask.shape, tensor.shape, strict=True))
    if not fits:
        raise PolicyError(
            f"The plan's mask of {name!r} has shape {mask.shape}, the weight has {tuple(tensor.shape)}. {_OTHER_MODEL}"
        )
    return tensor.detach().masked_fill(~torch.from_numpy(mask.array()).to(tensor.device), 0.0)


def _dressed(cut: Tensor, original: Tensor) -> Tensor:
    """The cut tensor with the memory layout and kind of the original."""
    if original.ndim in (4, 5) and not original.is_contiguous():
        layout = torch.channels_last if original.ndim == 4 else torch.channels_last_3d
        cut = cut.contiguous(memory_format=layout) if original.is_contiguous(memory_format=layout) else cut
    if isinstance(original, nn.Parameter):
        return nn.Parameter(cut, requires_grad=original.requires_grad)
    return cut


def _check_attributes(name: str, module: nn.Module) -> None:
    shapes = {own: tuple(tensor.shape) for own, tensor in module._parameters.items() if tensor is not None}
    shapes.update({own: tuple(tensor.shape) for own, tensor in module._buffers.items() if tensor is not None})
    wrong = attributes_after(module, shapes)
    if wrong:
        attribute, value = next(iter(wrong.items()))
        raise PolicyError(
            f"After the cut {name}.{attribute} is {getattr(module, attribute)}, but its tensors need {value}. "
            f"{_OTHER_MODEL}"
        )
