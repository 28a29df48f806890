"""tersenet: learns by reinforcement learning how far each layer of a trained CNN can be compressed.

Names are loaded when they are first used, so that the command line answers ``--help`` without loading torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from tersenet.core.version import __version__

if TYPE_CHECKING:
    from tersenet import data
    from tersenet.api import apply, compress, measure
    from tersenet.core.metrics import Metrics
    from tersenet.core.policy import Policy
    from tersenet.core.target import Target
    from tersenet.errors import TersenetError
    from tersenet.graph import trace
    from tersenet.pack import load
    from tersenet.transforms import materialize

_HOMES = {
    "apply": "tersenet.api",
    "compress": "tersenet.api",
    "measure": "tersenet.api",
    "Metrics": "tersenet.core.metrics",
    "Policy": "tersenet.core.policy",
    "Target": "tersenet.core.target",
    "TersenetError": "tersenet.errors",
    "trace": "tersenet.graph",
    "load": "tersenet.pack",
    "materialize": "tersenet.transforms",
}

__all__ = [
    "Metrics",
    "Policy",
    "Target",
    "TersenetError",
    "__version__",
    "apply",
    "compress",
    "data",
    "load",
    "materialize",
    "measure",
    "trace",
]


def __getattr__(name: str) -> object:
    if name == "data":
        return importlib.import_module("tersenet.data")
    if name not in _HOMES:
        raise AttributeError(f"module 'tersenet' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
