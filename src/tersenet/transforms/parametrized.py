"""Weights that torch itself computes from others: parametrisations, and the older hooks of weight and spectral norm.

Both are taken off with the numbers left that the layer computes with in eval mode. Torch's own functions for that
leave traces on copies and on the order of parameters; what that needs is here.
"""

from __future__ import annotations

from torch import nn
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm, SpectralNormLoadStateDictPreHook
from torch.nn.utils.weight_norm import WeightNorm

from tersenet.graph import duplicate, unwrapped


def without_parametrizations(model: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The model itself where torch computes none of its weights, else a copy in which they are plain numbers.

    Training the copy goes on from these numbers, without the norm. Its tensors are named and ordered as those of
    a network that never had one.

    Returns:
        The network, and the names of the layers that were made plain.

    Raises:
        ModelError: the model cannot be copied.
    """
    inner = unwrapped(model)
    computed = tuple(name for name, module in inner.named_modules() if _is_computed(module))
    if not computed:
        return model, ()
    copied = _copy(inner)
    was_training = {name: module.training for name, module in copied.named_modules()}
    copied.eval()
    for name in computed:
        take_off(copied.get_submodule(name))
    for name, module in copied.named_modules():
        module.training = was_training[name]
    return copied, computed


def take_off(module: nn.Module) -> None:
    """Make what torch computes for one module plain parameters; a module without is left as it is.

    Args:
        module: in eval mode, since spectral norm changes its numbers in every pass of training.
    """
    names = [hook.name for hook in _hooks(module)]
    for hook in _hooks(module):
        remove = remove_weight_norm if isinstance(hook, WeightNorm) else remove_spectral_norm
        remove(module, hook.name)
    before_loading = module._load_state_dict_pre_hooks
    for key, wrapped in list(before_loading.items()):
        # torch looks for its own hook, but it is wrapped, so it stays and then asks for numbers that are gone
        if isinstance(getattr(wrapped, "hook", wrapped), SpectralNormLoadStateDictPreHook):
            del before_loading[key]
    if parametrize.is_parametrized(module):
        own_class(module)
        assert isinstance(module.parametrizations, nn.ModuleDict)
        for name in list(module.parametrizations):
            parametrize.remove_parametrizations(module, name, leave_parametrized=True)
            names.append(name)
    if "weight" in names:  # comes before the bias in all of torch's layers
        rest = {name: module._parameters.pop(name) for name in list(module._parameters) if name != "weight"}
        module._parameters.update(rest)


def own_class(module: nn.Module) -> None:
    """Give a parametrised module a class of its own, before a parametrisation is taken off.

    Torch makes one class per parametrised module, which a deep copy then shares: without this, taking the
    parametrisation off a copy would take the property off the original.
    """
    shared = type(module)
    content = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, content)


def _is_computed(module: nn.Module) -> bool:
    return parametrize.is_parametrized(module) or bool(_hooks(module))


def _hooks(module: nn.Module) -> list[WeightNorm | SpectralNorm]:
    return [hook for hook in module._forward_pre_hooks.values() if isinstance(hook, WeightNorm | SpectralNorm)]


def _copy(model: nn.Module) -> nn.Module:
    """A copy although weight norm's hook keeps a tensor that was computed with gradients."""
    kept = (getattr(module, hook.name) for module in model.modules() for hook in _hooks(module))
    return duplicate(model, {id(tensor): tensor.detach().clone() for tensor in kept})
