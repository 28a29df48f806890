"""Where and how a network is run: device, number format, memory layout; used by measuring and by training alike.

Everything that could disturb the user's model (modes, device, gradients) is put back when a run is over.

Channels_last is offered to the *inputs* only: the backend follows the layout of the inputs, and the strides of the
user's weights stay as they were. Networks that ``view`` an activation cannot take it, so it is tried first.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from tersenet.core.registry import unknown_name
from tersenet.data.splits import Inputs, Source
from tersenet.errors import ModelError, TersenetError

Batch = tuple[Inputs, Any]
"""Inputs of one batch and their targets."""

CPU_NUMBERS_PER_PASS = 2**22
"""Inputs of one forward pass, in numbers: 27 images of 3x224x224, 256 of up to 3x73x73."""

GPU_NUMBERS_PER_PASS = 2**24
"""The same where small batches leave the device idle: 111 images of 3x224x224."""


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Device, number format and layout of one way to run a network."""

    device: torch.device

    dtype: torch.dtype = torch.float32
    """Floating-point inputs are cast to this, the format of the model's own parameters."""

    autocast: bool = False
    """Whether bfloat16 is used where that is safe; outputs come back as fp32."""

    channels_last: bool = False
    """Whether inputs with four axes are laid out channels last."""

    def put(self, inputs: Inputs) -> Inputs:
        """A copy of the inputs on the device, in the format and layout; a network may write into it."""
        if isinstance(inputs, tuple):
            return tuple(self._put(tensor) for tensor in inputs)
        return self._put(inputs)

    def put_targets(self, targets: Any) -> Any:
        """The same targets on the device, tensors inside tuples, lists and dicts included."""
        return _map_tensors(lambda tensor: tensor.to(self.device, non_blocking=True), targets)

    def precision(self) -> torch.autocast:
        """Context in which the network runs."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.autocast)

    def forward(self, model: nn.Module, inputs: Inputs) -> Any:
        """Outputs of the network, fp32 where it was autocast.

        Raises:
            ModelError: the network fails on these inputs; its own error is chained.
        """
        try:
            with self.precision():
                outputs = call(model, inputs)
        except TersenetError:
            raise
        except Exception as error:
            raise ModelError(f"The model fails on inputs of shape {shapes_of(inputs)}: {error}") from error
        return _map_tensors(_widen, outputs) if self.autocast else outputs

    def _put(self, tensor: Tensor) -> Tensor:
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        wants_layout = self.channels_last and tensor.ndim == 4
        layout = torch.channels_last if wants_layout else torch.preserve_format
        return tensor.to(device=self.device, dtype=dtype, memory_format=layout, non_blocking=True, copy=True)


class PlacedBatches:
    """Batches of a source, put in place one by one as they are asked for; can be gone through again.

    Without a ``batch_size``, ``samples_per_pass`` says it.
    """

    def __init__(
        self, source: Source, placement: Placement, *, batch_size: int | None, skip: int = 0, first: int | None = None
    ) -> None:
        self._source = source
        self._placement = placement
        self._batch_size = batch_size or samples_per_pass(source, placement.device.type)
        self._range = (skip, first)

    def __iter__(self) -> Iterator[Batch]:
        skip, first = self._range
        for inputs, targets in self._source.batches(self._batch_size, skip=skip, first=first):
            yield self._placement.put(inputs), self._placement.put_targets(targets)


def samples_per_pass(source: Source, device_type: str = "cpu", *, most: int = 256) -> int:
    """How many samples of this source one forward pass takes: ``most``, fewer where a sample is large.

    Activations grow with the inputs: at 224x224, the first layers of VGG-16 need some 26 MB a sample.
    """
    numbers = CPU_NUMBERS_PER_PASS if device_type == "cpu" else GPU_NUMBERS_PER_PASS
    for inputs, _ in itertools.islice(source.batches(1, first=1), 1):
        tensors = inputs if isinstance(inputs, tuple) else (inputs,)
        per_sample = sum(tensor.numel() for tensor in tensors) / num_in(inputs)
        return max(1, min(most, int(numbers / per_sample)))
    return most


def call(model: nn.Module, inputs: Inputs) -> Any:
    """``model(*inputs)`` for several inputs, ``model(inputs)`` for one."""
    return model(*inputs) if isinstance(inputs, tuple) else model(inputs)


def copied(inputs: Inputs) -> Inputs:
    """A copy, for a network that may write into its inputs."""
    return tuple(tensor.clone() for tensor in inputs) if isinstance(inputs, tuple) else inputs.clone()


def num_in(inputs: Inputs) -> int:
    """Samples in one batch of inputs."""
    return int((inputs[0] if isinstance(inputs, tuple) else inputs).shape[0])


def shapes_of(inputs: Inputs) -> str:
    """Their shapes, as an error names them."""
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    return ", ".join(str(tuple(tensor.shape)) for tensor in tensors)


def open_device(name: str) -> torch.device:
    """The device of this name.

    Raises:
        UnknownNameError: there is no such device here.
    """
    known = ["cpu"] + (["cuda"] if torch.cuda.is_available() else [])
    try:
        device = torch.device(name)
    except RuntimeError:
        raise unknown_name("device", name, known) from None
    if device.type not in known or (device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count()):
        raise unknown_name("device", name, known)
    return device


def placement_of(model: nn.Module) -> Placement:
    """Where the model is, in the format of its parameters; a model without any counts as fp32 on the CPU."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    tensor = next(itertools.chain(model.parameters(), model.buffers()), None)
    return Placement(device=torch.device("cpu") if tensor is None else tensor.device, dtype=dtype)


def placement_for(model: nn.Module, device: str, *, autocast: bool = False) -> Placement:
    """Placement on ``device`` in the format of the model's parameters, without a layout.

    Raises:
        UnknownNameError: there is no such device here.
    """
    here = placement_of(model)
    return replace(here, device=open_device(device), autocast=autocast and here.dtype == torch.float32)


def has_fast_bf16(device: torch.device) -> bool:
    """Whether the processor computes in bfloat16 itself rather than emulating it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return _cpu_has("_is_avx512_bf16_supported") or has_tiles(device)


def has_tiles(device: torch.device) -> bool:
    """Whether the processor multiplies whole tiles of bfloat16 (AMX)."""
    return device.type == "cpu" and _cpu_has("_is_amx_tile_supported")


def _cpu_has(check: str) -> bool:
    return bool(getattr(torch.cpu, check, lambda: False)())


@contextmanager
def evaluating(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The model in eval mode on ``device`` without gradients; modes and device are put back afterwards."""
    with kept_modes(model), on_device(model, device), torch.no_grad():
        model.eval()
        yield


@contextmanager
def on_device(model: nn.Module, device: torch.device) -> Iterator[None]:
    """The model on ``device``, afterwards where it was."""
    home = placement_of(model).device
    is_there = home.type == device.type and device.index in (None, home.index)
    if is_there:
        yield
        return
    model.to(device)
    try:
        yield
    finally:
        model.to(home)


@contextmanager
def kept_modes(model: nn.Module) -> Iterator[None]:
    """Whatever happens inside, every module is afterwards in the mode it was in."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def takes_channels_last(model: nn.Module, inputs: Inputs, placement: Placement) -> bool:
    """Whether the model, in eval mode, runs on the first two of these inputs in channels_last layout."""
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    if not any(tensor.ndim == 4 for tensor in tensors):
        return False
    few = tuple(tensor[:2] for tensor in tensors)
    trial = Placement(device=placement.device, dtype=placement.dtype, autocast=placement.autocast, channels_last=True)
    try:
        trial.forward(model, trial.put(few if isinstance(inputs, tuple) else few[0]))
    except ModelError:
        return False
    return True


class HeldBatches:
    """Batches kept in memory; each pass gets copies of the inputs, since a network may write into them."""

    def __init__(self, batches: list[Batch]) -> None:
        self._batches = batches

    def __iter__(self) -> Iterator[Batch]:
        for inputs, targets in self._batches:
            yield copied(inputs), targets


def hold(batches: Iterable[Batch], *, limit_bytes: int) -> Iterable[Batch]:
    """The batches kept in memory if their inputs fit into ``limit_bytes``, else ``batches`` itself."""
    held: list[Batch] = []
    num_bytes = 0
    for inputs, targets in batches:
        tensors = inputs if isinstance(inputs, tuple) else (inputs,)
        num_bytes += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        if num_bytes > limit_bytes:
            return batches
        held.append((inputs, targets))
    return HeldBatches(held)


def _map_tensors(function: Callable[[Tensor], Tensor], thing: Any) -> Any:
    if isinstance(thing, Tensor):
        return function(thing)
    if type(thing) in (tuple, list):
        return type(thing)(_map_tensors(function, part) for part in thing)
    if type(thing) is dict:
        return {key: _map_tensors(function, part) for key, part in thing.items()}
    return thing


def _widen(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype == torch.bfloat16 else tensor
