"""State of a training after an epoch, on disk, so that an interrupted one goes on as if nothing had happened.

The order of the data, augmentation and dropout are drawn anew for every epoch from (seed, epoch), so no random state
has to be kept. Read with ``weights_only``: a checkpoint cannot run code.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tersenet.core.files import write_whole
from tersenet.errors import NotFoundError, TrainingError
from tersenet.train.config import TrainConfig

_VERSION = 1


@dataclass(kw_only=True)
class TrainState:
    """Everything that changes while training."""

    epoch: int
    """Epochs that are done."""

    model: dict[str, Tensor]
    optimizer: dict[str, Any]

    best_model: dict[str, Tensor]
    best_epoch: int
    best_quality: float

    history: list[dict[str, float]]
    """One ``EpochPoint`` per epoch, as plain numbers."""

    autocast: bool
    """What ``auto`` came out as when training began."""

    channels_last: bool
    """What ``auto`` came out as when training began."""


def run_key(model: nn.Module, config: TrainConfig, *, num_train: int, num_search: int) -> dict[str, str]:
    """What must be equal for a checkpoint to belong to a run: configuration, data sizes, initial weights."""
    digest = hashlib.sha256()
    for name, parameter in sorted(model.named_parameters()):
        digest.update(f"{name} {tuple(parameter.shape)} {parameter.dtype}".encode())
        digest.update(parameter.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    numbers = {name: str(value) for name, value in config.model_dump().items() if name != "device"}
    return numbers | {
        "training samples": str(num_train),
        "search samples": str(num_search),
        "initial weights": digest.hexdigest()[:16],
    }


def save_checkpoint(path: Path, state: TrainState, key: dict[str, str]) -> None:
    """Write the state; the file at ``path`` is either the old or the new one, never a part.

    Raises:
        ArtifactError: the file cannot be written.
        TrainingError: the folder is gone.
    """
    content = io.BytesIO()
    torch.save(
        {"version": _VERSION, "key": key, "state": {field.name: getattr(state, field.name) for field in fields(state)}},
        content,
    )
    try:
        write_whole(path, content.getvalue())
    except NotFoundError:
        raise TrainingError(
            f"The folder {path.parent} was deleted or moved while the training went on. Put it back and run the same "
            "command again to go on, or run the command to start anew."
        ) from None


def load_checkpoint(path: Path, key: dict[str, str]) -> TrainState:
    """Read the state of the run that ``key`` describes, tensors on the CPU.

    Raises:
        TrainingError: the file is damaged, of another version or of another run.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        found_key, state = content["key"], TrainState(**content["state"])
        version = content["version"]
    except (RuntimeError, EOFError, KeyError, TypeError, ValueError, pickle.UnpicklingError) as error:
        raise TrainingError(f"Checkpoint {path} cannot be read ({error}). Delete it to start anew.") from error
    if version != _VERSION:
        raise TrainingError(f"Checkpoint {path} has version {version}, this is {_VERSION}. Delete it to start anew.")
    for name in key:
        if found_key.get(name) != key[name]:
            raise TrainingError(
                f"Checkpoint {path} belongs to another run: {name} was {found_key.get(name)}, now it is {key[name]}. "
                "Go on with what it was, or delete the checkpoint to train from the start."
            )
    return state
