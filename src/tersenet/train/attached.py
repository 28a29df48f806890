"""Forms of storage as parametrisations: while they are attached, a layer computes with what its file will hold."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from tersenet.errors import PolicyError
from tersenet.graph import unwrapped
from tersenet.transforms.coded import CodedWeights
from tersenet.transforms.parametrized import own_class

Weights = TypeVar("Weights", bound=CodedWeights)


class StoredForm(nn.Module):
    """From the latent weights, which an optimiser may change, to those that will be stored."""

    def __init__(self, latent: Tensor, *, learns_latent: bool) -> None:
        super().__init__()
        self.was_trained = latent.requires_grad
        self.learns_latent = learns_latent and latent.requires_grad
        """Whether the latent weights are trained while this is attached."""
        self.later_names: dict[str, list[str]] = {}
        """Parameters behind the weight in each module that owns it, by path of the weight, to keep their order."""

    @abstractmethod
    def coded(self, latent: Tensor) -> CodedWeights:
        """What is stored; ``values()`` are the weights that ``forward`` gives."""


def attach(
    model: nn.Module, coded: Mapping[str, Weights], make: Callable[[Weights, Tensor], StoredForm], *, way_out: str
) -> None:
    """Put a form on each named weight, in place; tensors that are one stay one.

    Args:
        model: any mode, any device.
        coded: by name of the weight, as in ``state_dict()``.
        make: the form of a weight, from what was coded and the weight itself.
        way_out: the last sentence of an error.

    Raises:
        PolicyError: the model has no such weight, or its shape is another, or it has a form already; nothing is
            changed.
    """
    model = unwrapped(model)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    for name, weights in coded.items():
        if name not in parameters:
            raise PolicyError(f"The model has no parameter {name!r} that is plain. {way_out}")
        if parameters[name].shape != weights.shape:
            shapes = f"{tuple(parameters[name].shape)}, but {weights.shape} was coded"
            raise PolicyError(f"The shape of {name!r} is {shapes}. {way_out}")
    done: set[int] = set()
    for name, weights in coded.items():
        latent = parameters[name]
        if id(latent) in done:
            continue
        done.add(id(latent))
        form = make(weights, latent)
        for path, module in list(model.named_modules()):
            for attribute in [own for own, held in module._parameters.items() if held is latent]:
                order = list(module._parameters)
                form.later_names[f"{path}.{attribute}"] = order[order.index(attribute) + 1 :]
                parametrize.register_parametrization(module, attribute, form)
        latent.requires_grad_(form.learns_latent)


def detach(model: nn.Module, kind: type[StoredForm]) -> dict[str, CodedWeights]:
    """Take all forms of this kind off again, in place: plain modules remain, whose weights are ``values()``.

    Returns:
        What the forms had learned, by name of the weight as in ``state_dict()``; under its first name where it has
        several.
    """
    model = unwrapped(model)
    found: dict[str, CodedWeights] = {}
    done: set[int] = set()
    for path, module in list(model.named_modules()):
        for attribute, form, latent in _forms_of(module, kind):
            coded = form.coded(latent)
            own_class(module)
            parametrize.remove_parametrizations(module, attribute, leave_parametrized=False)
            for name in form.later_names[f"{path}.{attribute}"]:
                if name in module._parameters:  # it may have a form itself
                    module._parameters[name] = module._parameters.pop(name)
            if id(latent) not in done:
                done.add(id(latent))
                found[f"{path}.{attribute}" if path else attribute] = coded
                with torch.no_grad():
                    latent.requires_grad_(form.was_trained).copy_(torch.from_numpy(coded.values()))
    return found


def _forms_of(module: nn.Module, kind: type[StoredForm]) -> list[tuple[str, StoredForm, nn.Parameter]]:
    """Attribute, form and latent weights of a module's own weights."""
    if not parametrize.is_parametrized(module):
        return []
    return [
        (attribute, chain[0], cast(nn.Parameter, chain.original))
        for attribute, chain in cast(nn.ModuleDict, module.parametrizations).items()
        if isinstance(chain, parametrize.ParametrizationList) and isinstance(chain[0], kind)
    ]
