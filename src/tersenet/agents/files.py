"""What an agent has learned, as a file that another search can begin with: weights of its networks, nothing else.

No optimiser, replay or random state: these belong to one search. A file is safetensors; its header names the format,
the recipe and the network it was trained on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import nn

from tersenet.core.files import write_whole
from tersenet.core.protocols import State
from tersenet.errors import NotFoundError, WeightsError

FORMAT = "tersenet-agent-1"

NETWORKS = ("encoder", "actor", "critic")
"""First parts of the names that are kept; target networks begin as copies."""


@dataclass(frozen=True, kw_only=True)
class Knowledge:
    """An agent's networks, as read from a file."""

    recipe: str
    """Which recipe's agent it is."""

    network: str
    """What it was trained on, for the provenance."""

    weights: State
    """By name as in the agent's ``state_dict``."""

    sha256: str
    """Of the file, hexadecimal."""


def network_weights(state: State) -> State:
    """The weights among an agent's saved state."""
    return {name: array for name, array in state.items() if name.partition(".")[0] in NETWORKS}


def write_agent(path: Path, state: State, *, recipe: str, network: str) -> int:
    """Write the networks of a saved agent; returns the bytes of the file."""
    weights = {name: np.ascontiguousarray(array) for name, array in network_weights(state).items()}
    return write_whole(path, save(weights, metadata={"format": FORMAT, "recipe": recipe, "network": network}))


def read_agent(path: str | Path) -> Knowledge:
    """Read what ``write_agent`` wrote.

    Raises:
        NotFoundError: there is no such file.
        WeightsError: it is no agent's file, is damaged, or holds a number that is not finite.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise NotFoundError(f"agent: {path} is no file. Give the agent.safetensors of a finished run.")
    try:
        with safe_open(path, "np") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            header = dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(f"agent: {path} is no whole safetensors file ({error}). Copy it again.") from error
    if header.get("format") != FORMAT or "recipe" not in header:
        raise WeightsError(f"agent: {path} holds no agent. Give the agent.safetensors of a finished run.")
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise WeightsError(f"agent: {name} in {path} holds NaN or infinity. Train the agent again.")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Knowledge(recipe=header["recipe"], network=header.get("network", ""), weights=weights, sha256=digest)


def load_networks(networks: Mapping[str, nn.Module], weights: State) -> None:
    """Copy weights into networks, all or nothing.

    Raises:
        WeightsError: names or shapes differ.
    """
    own = {f"{part}.{name}": tensor for part, network in networks.items() for name, tensor in _tensors(network)}
    for name in sorted(own.keys() | weights.keys()):
        sizes = [tuple(found[name].shape) if name in found else None for found in (own, weights)]
        if sizes[0] != sizes[1]:
            raise WeightsError(
                f"agent: {name} has shape {sizes[1]} in the file and {sizes[0]} here. The file's agent was made with "
                "another state, another size, or another number of bounds. Repeat the settings it was trained with."
            )
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(torch.from_numpy(np.array(weights[name])))


def _tensors(network: nn.Module) -> list[tuple[str, torch.Tensor]]:
    return list(network.state_dict().items())
