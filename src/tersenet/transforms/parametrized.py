"""What taking a parametrisation off needs beside torch's own function."""

from __future__ import annotations

from torch import nn


def own_class(module: nn.Module) -> None:
    """Give a parametrised module a class of its own, before a parametrisation is taken off.

    Torch makes one class per parametrised module, which a deep copy then shares: without this, taking the
    parametrisation off a copy would take the property off the original.
    """
    shared = type(module)
    content = {name: value for name, value in vars(shared).items() if name not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, content)
