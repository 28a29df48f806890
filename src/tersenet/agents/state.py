"""Random generators, networks and optimisers as flat dicts of arrays, and back; no pickle."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import nn

from tersenet.core.protocols import State
from tersenet.errors import StudyError


def rng_state(rng: np.random.Generator) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """State of a generator as the bytes of a JSON text."""
    return np.frombuffer(json.dumps(rng.bit_generator.state).encode(), dtype=np.uint8).copy()


def restore_rng(rng: np.random.Generator, state: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> None:
    """Put a state of ``rng_state`` back; both generators must be of the same kind."""
    rng.bit_generator.state = json.loads(state.tobytes().decode())


def module_state(prefix: str, module: nn.Module) -> State:
    """Copies of a module's parameters and buffers, under ``prefix.name``."""
    return {f"{prefix}.{name}": tensor.numpy().copy() for name, tensor in module.state_dict().items()}


def restore_module(prefix: str, module: nn.Module, state: Mapping[str, object]) -> None:
    """Put parameters of ``module_state`` back.

    Raises:
        StudyError: names or shapes differ, so the state belongs to another network.
    """
    saved = _under(prefix, state)
    own = module.state_dict()
    if {name: array.shape for name, array in saved.items()} != {name: tuple(t.shape) for name, t in own.items()}:
        raise StudyError(
            f"The saved {prefix} does not fit this agent: it was made for other observations, actions or hidden "
            "sizes. Continue with the settings the study began with."
        )
    module.load_state_dict({name: torch.from_numpy(array.copy()) for name, array in saved.items()})


def optimizer_state(prefix: str, optimizer: torch.optim.Optimizer) -> State:
    """Copies of an optimiser's moments and counters, under ``prefix.parameter number.name``."""
    return {
        f"{prefix}.{number}.{name}": np.array(value.numpy() if isinstance(value, torch.Tensor) else value)
        for number, entries in optimizer.state_dict()["state"].items()
        for name, value in entries.items()
    }


def restore_optimizer(prefix: str, optimizer: torch.optim.Optimizer, state: Mapping[str, object]) -> None:
    """Put moments of ``optimizer_state`` back; settings such as the learning rate stay the optimiser's own."""
    entries: dict[int, dict[str, torch.Tensor]] = {}
    for key, array in _under(prefix, state).items():
        number, _, name = key.partition(".")
        entries.setdefault(int(number), {})[name] = torch.from_numpy(array.copy())
    optimizer.load_state_dict({"state": entries, "param_groups": optimizer.state_dict()["param_groups"]})


class Memory(Protocol):
    """What an agent remembers of past episodes."""

    def state_dict(self) -> State:
        """Its arrays, as copies."""
        ...

    def load_state_dict(self, state: State) -> None:
        """Put saved arrays back."""
        ...


@dataclass(frozen=True)
class AgentState:
    """The parts of an agent that every trial changes, each under its name; counters are the agent's own matter."""

    modules: Mapping[str, nn.Module]
    optimizers: Mapping[str, torch.optim.Optimizer]
    rng: np.random.Generator
    memories: Mapping[str, Memory] = field(default_factory=dict)

    def save(self) -> State:
        """All parts, as copies."""
        state: State = {"rng": rng_state(self.rng)}
        for name, module in self.modules.items():
            state |= module_state(name, module)
        for name, optimizer in self.optimizers.items():
            state |= optimizer_state(name, optimizer)
        for name, memory in self.memories.items():
            state |= {f"{name}.{key}": array for key, array in memory.state_dict().items()}
        return state

    def restore(self, state: State) -> None:
        """Put what ``save`` returned back.

        Raises:
            StudyError: the state is of an agent with other sizes.
        """
        for name, memory in self.memories.items():
            memory.load_state_dict(_under(name, state))
        for name, module in self.modules.items():
            restore_module(name, module, state)
        for name, optimizer in self.optimizers.items():
            restore_optimizer(name, optimizer, state)
        restore_rng(self.rng, state["rng"])


def _under(prefix: str, state: Mapping[str, object]) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    start = f"{prefix}."
    return {name[len(start) :]: np.asarray(array) for name, array in state.items() if name.startswith(start)}
