"""Copies of modules, as ``copy.deepcopy`` makes them, several times faster.

A search copies a network for every trial, and ``deepcopy`` spends nearly all of its time on the dozen empty
dictionaries of hooks and the plain numbers that every module holds.
"""

from __future__ import annotations

import copy
from collections import OrderedDict

from torch import nn

from tersenet.errors import ModelError

_AS_THEY_ARE = (int, float, str, bool, complex, bytes, type(None))
_EMPTY = (dict, OrderedDict, list, set)


def duplicate(model: nn.Module, memo: dict[int, object] | None = None) -> nn.Module:
    """A deep copy.

    Args:
        memo: as ``copy.deepcopy`` takes it: identity of objects to what stands for them in the copy.

    Raises:
        ModelError: the module holds something that cannot be copied.
    """
    try:
        return _copied(model, {} if memo is None else memo)
    except Exception as error:
        raise ModelError(
            f"The model cannot be copied: {one_line(error)}. Modules must survive copy.deepcopy; a tensor that was "
            "computed with gradients and kept as an attribute does not (detach it, or delete it first)."
        ) from error


def _copied(module: nn.Module, memo: dict[int, object]) -> nn.Module:
    known = memo.get(id(module))
    if isinstance(known, nn.Module):
        return known
    if not _is_plain(type(module)):
        return copy.deepcopy(module, memo)
    made = module.__class__.__new__(module.__class__)
    memo[id(module)] = made
    for name, value in module.__dict__.items():
        if name == "_compiled_call_impl":
            continue  # as nn.Module says of itself: compiled code is not copied
        if isinstance(value, nn.Module):
            made.__dict__[name] = _copied(value, memo)
        elif name == "_modules":
            made.__dict__[name] = type(value)(
                (key, child if child is None else _copied(child, memo)) for key, child in value.items()
            )
        elif type(value) in _AS_THEY_ARE:
            made.__dict__[name] = value
        elif type(value) in _EMPTY and not value:
            made.__dict__[name] = type(value)()
        else:
            made.__dict__[name] = copy.deepcopy(value, memo)
    return made


def _is_plain(kind: type[nn.Module]) -> bool:
    """Whether copying the attributes is all that ``deepcopy`` does; torch's own modules only patch old pickles."""
    return (
        not hasattr(kind, "__deepcopy__")
        and kind.__reduce_ex__ is object.__reduce_ex__
        and kind.__reduce__ is object.__reduce__
        and kind.__getstate__ is nn.Module.__getstate__
        and kind.__setstate__.__module__.startswith("torch.nn.modules.")
    )


def one_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind if it has none."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0][:200].rstrip(".") if lines else type(error).__name__
