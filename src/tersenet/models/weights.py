"""Reading and writing weights: safetensors, or a PyTorch state dict read without running pickle code.

Nothing is copied into the network before everything has been checked, so that an error leaves it as it was.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from tersenet.errors import NotFoundError, WeightsError

SPLIT_KEY = "tersenet.trained_on_split"
"""Metadata: ``train`` where the search split was left out of the training, anything else where it was not."""

_PREFIXES = ("module.", "_orig_mod.")
_NESTED_KEYS = ("state_dict", "model_state_dict", "model")
_NUM_LISTED = 3


@dataclass(frozen=True)
class WeightsInfo:
    """Where weights came from."""

    path: str

    sha256: str
    """Of the file, hexadecimal."""

    saw_search: bool | None
    """Whether they were trained on images of the search split; None if the file does not say."""

    trained_on: str | None
    """The split the file says it was trained on."""

    metadata: dict[str, str]


def weights_hash(model: nn.Module) -> str:
    """sha256 over names, shapes and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        # as bytes, since numpy has no bfloat16
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_weights(model: nn.Module, path: str | Path) -> WeightsInfo:
    """Copy the weights of a file into ``model``, in place.

    Args:
        model: receives the weights; untouched if anything is wrong.
        path: a ``.safetensors`` file, or a state dict saved by ``torch.save`` (also one inside a checkpoint under
            ``state_dict``, or with the prefix ``module.``).

    Raises:
        NotFoundError: there is no such file.
        WeightsError: the file is damaged, keys or shapes do not fit, or a value is NaN or infinite.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        problem = "is a folder" if path.is_dir() else "does not exist"
        raise NotFoundError(f"weights: {path} {problem}. Give a .safetensors file or a saved state dict.")
    found, metadata = _read_safetensors(path) if path.suffix == ".safetensors" else (_read_pickled(path), {})
    found = _without_prefix(found)
    state = model.state_dict(keep_vars=True)
    _check_fit(state, found, path)
    _check_values(found, path)
    model.load_state_dict(found, strict=False)  # strictness: _check_fit, which knows tied weights
    trained_on = metadata.get(SPLIT_KEY)
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return WeightsInfo(str(path), digest, None if trained_on is None else trained_on != "train", trained_on, metadata)


def save_weights(model: nn.Module, path: str | Path, *, metadata: Mapping[str, str]) -> None:
    """Write parameters and buffers as safetensors; the file appears whole or not at all.

    Tied weights are written once, under their first name.

    Args:
        model: read only; may be on any device.
        path: file to write; missing folders are made.
        metadata: texts for the header; set ``tersenet.trained_on_split`` to say what the weights have seen.
    """
    path = Path(path).expanduser()
    state = model.state_dict(keep_vars=True)
    aliases = _aliases(state)
    tensors = {name: state[name].detach().cpu().contiguous().clone() for name in state if aliases[name] == name}
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=path.name, suffix=".part")
    os.close(handle)
    try:
        save_file(tensors, temporary, metadata={"format": "pt", **metadata})
        Path(temporary).chmod(0o644)  # mkstemp makes files that only their owner may read
        Path(temporary).replace(path)
    finally:
        Path(temporary).unlink(missing_ok=True)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise WeightsError(
            f"weights: {path} is no whole safetensors file ({error}). Download or save it again."
        ) from error


def _read_pickled(path: Path) -> dict[str, Tensor]:
    try:
        found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged pickle can fail in any way
        # torch's own text recommends weights_only=False, which is just what must not be done
        told = "" if isinstance(error, pickle.UnpicklingError) else str(error).strip()
        reason = told.splitlines()[0] if told else type(error).__name__
        raise WeightsError(
            f"weights: {path} cannot be read as a state dict ({reason}). Whole pickled networks are refused, since "
            "reading them runs code: save model.state_dict(), or use safetensors."
        ) from error
    for key in _NESTED_KEYS:
        if isinstance(found, Mapping) and isinstance(found.get(key), Mapping):
            found = found[key]
    if not isinstance(found, Mapping) or not all(isinstance(value, Tensor) for value in found.values()):
        raise WeightsError(f"weights: {path} holds no state dict (name to tensor). Save model.state_dict().")
    return {str(name): value for name, value in found.items()}


def _without_prefix(found: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in _PREFIXES:
        if found and all(name.startswith(prefix) for name in found):
            return _without_prefix({name.removeprefix(prefix): value for name, value in found.items()})
    return found


def _aliases(state: Mapping[str, Tensor]) -> dict[str, str]:
    """Each name to the first name of the same tensor."""
    first: dict[int, str] = {}
    return {name: first.setdefault(id(tensor), name) for name, tensor in state.items()}


def _check_fit(state: Mapping[str, Tensor], found: Mapping[str, Tensor], path: Path) -> None:
    aliases = _aliases(state)
    given = {aliases[name] for name in found if name in aliases}
    missing = [
        name for name in state if aliases[name] not in given and not name.endswith("num_batches_tracked")
    ]  # files from before PyTorch 0.4.1 have no such counters
    unexpected = [name for name in found if name not in state]
    shapes = [
        f"{name} {tuple(found[name].shape)} instead of {tuple(state[name].shape)}"
        for name in found
        if name in state and found[name].shape != state[name].shape
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:_NUM_LISTED])}{', ...' if len(names) > _NUM_LISTED else ''}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("of the wrong shape", shapes))
        if names
    ]
    if problems:
        raise WeightsError(
            f"weights: {path} does not fit the network; {'; '.join(problems)}. "
            "Choose the network these weights were trained with (and its number of classes)."
        )


def _check_values(found: Mapping[str, Tensor], path: Path) -> None:
    bad = [name for name, value in found.items() if value.is_floating_point() and not bool(torch.isfinite(value).all())]
    if bad:
        raise WeightsError(
            f"weights: {path} holds NaN or infinity in {', '.join(bad[:_NUM_LISTED])}. "
            "The training diverged or the file is damaged: use another checkpoint."
        )
