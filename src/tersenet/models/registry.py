"""The networks known by name."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from tersenet.core.registry import Registry
from tersenet.errors import ModelError

Builder = Callable[[int], nn.Module]
"""Number of classes to an untrained network."""

_BUILDERS: Registry[tuple[Builder, int]] = Registry("model")


def register(name: str, *, num_classes: int) -> Callable[[Builder], Builder]:
    """Enter a builder under ``name``; ``num_classes`` is what it is called with unless the caller says otherwise."""

    def enter(builder: Builder) -> Builder:
        _BUILDERS.add(name, (builder, num_classes))
        return builder

    return enter


def names() -> list[str]:
    """All built-in networks, sorted."""
    return _BUILDERS.names()


def build(name: str, *, num_classes: int | None = None) -> nn.Module:
    """Build an untrained network, in training mode; weights are drawn from torch's global generator.

    Args:
        name: one of ``names()``.
        num_classes: outputs; None is the number of classes of the data set the network was designed for.

    Raises:
        UnknownNameError: no network has this name.
        ModelError: ``num_classes`` is not positive.
    """
    builder, usual_classes = _BUILDERS.get(name)
    if num_classes is not None and num_classes < 1:
        raise ModelError(f"num_classes={num_classes}: a network needs at least 1 output. Give the number of classes.")
    return builder(usual_classes if num_classes is None else num_classes)
