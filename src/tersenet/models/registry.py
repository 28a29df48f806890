"""The networks known by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from tersenet.core.registry import Registry
from tersenet.errors import ModelError

Builder = Callable[[int], nn.Module]
"""Number of classes to an untrained network."""


@dataclass(frozen=True, kw_only=True)
class _Known:
    build: Builder
    num_classes: int
    input_shape: tuple[int, ...]


_KNOWN: Registry[_Known] = Registry("model")


def register(name: str, *, num_classes: int, input_shape: tuple[int, ...]) -> Callable[[Builder], Builder]:
    """Enter a builder under ``name``.

    Args:
        num_classes: what it is called with unless the caller says otherwise.
        input_shape: of one image of the data set that the network was designed for, (C, H, W).
    """

    def enter(builder: Builder) -> Builder:
        _KNOWN.add(name, _Known(build=builder, num_classes=num_classes, input_shape=input_shape))
        return builder

    return enter


def names() -> list[str]:
    """All built-in networks, sorted."""
    return _KNOWN.names()


def build(name: str, *, num_classes: int | None = None) -> nn.Module:
    """Build an untrained network, in training mode; weights are drawn from torch's global generator.

    Args:
        name: one of ``names()``.
        num_classes: outputs; None is the number of classes of the data set the network was designed for.

    Raises:
        UnknownNameError: no network has this name.
        ModelError: ``num_classes`` is not positive.
    """
    known = _KNOWN.get(name)
    if num_classes is not None and num_classes < 1:
        raise ModelError(f"num_classes={num_classes}: a network needs at least 1 output. Give the number of classes.")
    return known.build(known.num_classes if num_classes is None else num_classes)


def input_shape(name: str) -> tuple[int, ...]:
    """Shape of one input that a built-in network was designed for, (C, H, W).

    Raises:
        UnknownNameError: no network has this name.
    """
    return _KNOWN.get(name).input_shape
