"""From what a user writes to live objects: network with weights, data, metric and loss. torch is imported on use."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tersenet.errors import ModelError, NotFoundError, PolicyError, UnknownNameError, WeightsError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tersenet.core.policy import Policy
    from tersenet.core.rules import ChannelRules
    from tersenet.data import Data
    from tersenet.measurement import Task
    from tersenet.models import WeightsInfo

DATA_VARIABLE = "TERSENET_DATA"
"""Environment variable: folder that holds ``cifar10/`` and ``mnist/``."""

_IN_FOLDER = ("cifar10", "mnist")


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network and where its weights came from."""

    module: nn.Module
    name: str
    weights: WeightsInfo | None
    is_trained: bool
    """Whether it can be compressed: with weights, or made by the user's own factory."""


@dataclass(frozen=True, kw_only=True)
class Opened:
    """Everything a command works on."""

    network: Network
    data: Data
    task: Task


def open_all(
    model: str, data: str, *, weights: Path | None, metric: str | None, loss: str | None, seed: int, device: str
) -> Opened:
    """Open what the options name, the cheap things first, so that a typing error is found at once.

    Raises:
        TersenetError: something does not exist or cannot be used; the message says why.
    """
    check_device(device)
    task = open_task(metric, loss)
    opened = open_data(data)
    network = open_network(model, weights=weights, num_classes=opened.num_classes, seed=seed)
    return Opened(network=network, data=opened, task=task)


def resolve_data(spec: str) -> str:
    """``cifar10`` to ``cifar10:$TERSENET_DATA/cifar10`` where the variable is set; everything else as it is."""
    folder = os.environ.get(DATA_VARIABLE)
    if spec in _IN_FOLDER and folder:
        return f"{spec}:{Path(folder) / spec}"
    return spec


def open_data(spec: str) -> Data:
    """Open a data set by its name.

    Raises:
        TersenetError: it cannot be found or read; the message says why.
    """
    from tersenet.data import open_data as open_resolved

    resolved = resolve_data(spec)
    if resolved in _IN_FOLDER:
        raise NotFoundError(
            f"data={spec!r} lacks the path. Write {spec}:PATH, or set {DATA_VARIABLE} to the folder that holds {spec}/."
        )
    return open_resolved(resolved)


def open_network(spec: str, *, weights: Path | None, num_classes: int | None, seed: int) -> Network:
    """Make the network and load its weights.

    Args:
        spec: a built-in name, or file or module and the name of a factory.
        weights: file, or None.
        num_classes: outputs of a built-in network.
        seed: of the initial weights, where none are loaded.

    Raises:
        TersenetError: network or weights cannot be used; the message says why.
    """
    import torch

    from tersenet import models

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = models.load_model(spec, num_classes=num_classes)
    info = None if weights is None else models.load_weights(module, weights)
    name = spec.rpartition(":")[2] if ":" in spec else spec
    return Network(module=module, name=name, weights=info, is_trained=info is not None or spec not in models.names())


def require_weights(network: Network) -> None:
    """Refuse a network that has only its random initial weights.

    Raises:
        WeightsError: it is a built-in one and no weights were given.
    """
    if not network.is_trained:
        raise WeightsError(
            f"{network.name} comes untrained, as all built-in networks do. Give --weights FILE, or --train-epochs N to "
            "train it first."
        )


def saw_search(network: Network, unseen: bool) -> bool:
    """Whether search accuracies are optimistic: what the user says, else what the weights say, else yes."""
    if unseen:
        return False
    said = network.weights.saw_search if network.weights is not None else None
    return True if said is None else said


def open_task(metric: str | None, loss: str | None) -> Task:
    """The user's own metric and loss, imported; classification where there are none.

    Raises:
        TersenetError: a file or name does not exist, or cannot be called.
    """
    from tersenet.measurement import Task

    task: dict[str, Any] = {}
    if metric is not None:
        task = {"metric": _callable(metric, "metric"), "metric_name": metric.rpartition(":")[2]}
    if loss is not None:
        task["loss"] = _callable(loss, "loss")
    return Task(**task)


def example_inputs(shapes: list[str], *, seed: int) -> tuple[Tensor, ...]:
    """Two random samples per input, for networks that are inspected without data.

    Args:
        shapes: one ``3,32,32`` per input, without the batch axis.
        seed: of the random numbers.

    Raises:
        ModelError: a shape is not a list of positive numbers.
    """
    import torch

    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn((2, *_shape(text)), generator=generator) for text in shapes)


def read_policy(path: Path) -> Policy:
    """Read a policy that was written by a run or by hand.

    Raises:
        NotFoundError: there is no such file.
        PolicyError: it is not a policy; the entry that is wrong is named.
    """
    from pydantic import ValidationError

    from tersenet.core.policy import Policy

    try:
        return Policy.model_validate_json(path.read_bytes())
    except (FileNotFoundError, IsADirectoryError):
        raise NotFoundError(f"There is no policy file {path}. A run writes policy.json into its folder.") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise PolicyError(f"{path} is not a policy: {where + ': ' if where else ''}{first['msg']}.") from None


def read_rules(path: Path) -> ChannelRules:
    """Read rules for channels: TOML if the file's name ends so, else JSON.

    Raises:
        NotFoundError: there is no such file.
        PolicyError: it holds no rules; the entry that is wrong is named.
    """
    import json
    import tomllib

    from pydantic import ValidationError

    from tersenet.core.rules import ChannelRules

    try:
        text = path.read_text(encoding="utf-8")
        content = tomllib.loads(text) if path.suffix == ".toml" else json.loads(text)
        return ChannelRules.model_validate(content)
    except (FileNotFoundError, IsADirectoryError):
        raise NotFoundError(f"--rules: there is no file {path}.") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        known = "everything, by_type, by_name with lower_bound, round_to, pruning_ratio, criterion, or false"
        raise PolicyError(f"--rules {path}: {where}: {first['msg']}. A rule file has {known}.") from None
    except ValueError as error:  # not TOML, not JSON, not UTF-8
        raise PolicyError(f"--rules {path} is not {path.suffix.lstrip('.').upper() or 'JSON'}: {error}.") from None


def check_device(device: str) -> None:
    """Refuse a device that torch does not know or this machine does not have.

    Raises:
        UnknownNameError: there is no such device here.
    """
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError:
        kind = ""
    if kind not in ("cpu", "cuda"):
        raise UnknownNameError(f"--device {device!r} is not known. Known: cpu, cuda, cuda:N.")
    if kind == "cuda" and not torch.cuda.is_available():
        raise UnknownNameError(f"--device {device!r}: torch finds no CUDA device here. Use --device cpu.")


def _callable(spec: str, what: str) -> Callable[..., Any]:
    from tersenet.core.importing import import_object

    found = import_object(spec, what=what)
    if not callable(found):
        raise ModelError(f"--{what} {spec!r} is a {type(found).__name__}, it must be a function.")
    return cast("Callable[..., Any]", found)


def _shape(text: str) -> tuple[int, ...]:
    try:
        sizes = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise ModelError(f"--input-shape {text!r} is not a shape. Give it without the batch axis, for example 3,32,32.")
    return sizes
