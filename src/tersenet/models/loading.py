"""From what a user writes to a network: a built-in name, ``path/to/file.py:factory`` or ``package.module:factory``."""

from __future__ import annotations

from torch import nn

from tersenet.core.importing import import_object
from tersenet.errors import ModelError, TersenetError
from tersenet.models.registry import build


def load_model(spec: str, *, num_classes: int | None = None) -> nn.Module:
    """Make the network that ``spec`` names.

    Args:
        spec: a built-in name, or file or module and the name of a factory, an ``nn.Module`` class (both called
            without arguments) or an ``nn.Module`` instance.
        num_classes: outputs of a built-in network; a factory decides for itself.

    Raises:
        UnknownNameError: no built-in network, or nothing in the file, has this name.
        NotFoundError: the file or module does not exist.
        ModelError: the file or factory fails, or gives something that is not an ``nn.Module``.
    """
    if ":" not in spec and not spec.endswith(".py"):
        return build(spec, num_classes=num_classes)
    found = import_object(spec, what="model")
    if isinstance(found, nn.Module):
        return found
    if not callable(found):
        raise ModelError(
            f"model={spec!r} is a {type(found).__name__}. Name a function or class that makes an nn.Module, "
            "or an nn.Module."
        )
    try:
        made = found()
    except TersenetError:
        raise
    except Exception as error:
        raise ModelError(
            f"model={spec!r} failed when called without arguments: {type(error).__name__}: {error}. "
            "Name a factory that needs none."
        ) from error
    if not isinstance(made, nn.Module):
        raise ModelError(f"model={spec!r} returned a {type(made).__name__}. It must return an nn.Module.")
    return made
