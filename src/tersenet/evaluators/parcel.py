"""One object for several processes of this machine, which share the memory of its tensors and arrays.

Everything but the numbers is pickled; the numbers lie in one file, which each process maps into its memory privately:
pages are shared until somebody writes into them, and what is written stays with the writer. A user's code that works
in place on what it is given therefore works here as it does in one process.

What a user's file defines (``path/to/file.py:name``) is pickled by value, since no other process finds such a module
by its name, and since the file may have changed by the time a process is started anew. Criteria of the user's own
travel along.

Needs ray, for the cloudpickle it brings along.
"""

from __future__ import annotations

import io
import mmap
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tersenet import criteria
from tersenet.core.importing import modules_of_files
from tersenet.errors import ModelError

_ALIGNMENT = 64
"""Bytes to whose multiples numbers are aligned in the file."""


@dataclass(frozen=True)
class Parcel:
    """A packed object; small itself, and good for as long as its file is there."""

    code: bytes
    """The pickled object without its numbers."""

    path: Path
    """File with the numbers."""

    spans: tuple[tuple[int, int], ...]
    """Where each array lies in the file: first byte and the one after the last."""

    def opened(self) -> Any:
        """The object; to be called in any process of this machine, as often as needed."""
        buffers: list[memoryview] = []
        if self.spans:
            with self.path.open("rb") as file:
                mapped = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
            buffers = [mapped[start:stop] for start, stop in self.spans]
        own, thing = pickle.loads(self.code, buffers=buffers)  # noqa: S301 (made by pack, in this run)
        criteria.use_again(own)
        return thing


def pack(thing: object, path: Path) -> Parcel:
    """Pack an object; its numbers are written to ``path``.

    Raises:
        ModelError: something in it cannot be sent to another process; the message says what.
    """
    buffers: list[pickle.PickleBuffer] = []
    code = _pickled(thing, buffers)
    spans = []
    with path.open("wb") as file:
        for buffer in buffers:
            file.write(b"\0" * (-file.tell() % _ALIGNMENT))
            start = file.tell()
            file.write(buffer.raw())
            spans.append((start, file.tell()))
        file.write(b"\0")  # an empty file cannot be mapped
    return Parcel(code, path, tuple(spans))


def _pickled(thing: object, buffers: list[pickle.PickleBuffer]) -> bytes:
    from ray import cloudpickle

    class Pickler(cloudpickle.CloudPickler):  # type: ignore[misc]  # ray comes without types for it
        def reducer_override(self, part: object) -> Any:
            if type(part) is Tensor and _is_plain(part):
                return _tensor, _parts(part)
            return super().reducer_override(part)

    stream = io.BytesIO()
    with _by_value(cloudpickle, modules_of_files()):
        try:
            Pickler(stream, protocol=5, buffer_callback=buffers.append).dump((criteria.own(), thing))
        except Exception as error:
            where = _culprit(thing, cloudpickle)
            raise ModelError(
                f"What measures trials cannot be sent to worker processes{where}: {type(error).__name__}: {error}. "
                "Keep locks, open files and connections out of models, metrics and data, or set workers to 1."
            ) from error
    return stream.getvalue()


@contextmanager
def _by_value(cloudpickle: Any, modules: list[ModuleType]) -> Iterator[None]:
    for module in modules:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in modules:
            cloudpickle.unregister_pickle_by_value(module)


def _culprit(thing: object, cloudpickle: Any) -> str:
    """The attribute that cannot be pickled, as part of a sentence; nothing if that is none of them alone."""
    for name, part in vars(thing).items() if hasattr(thing, "__dict__") else ():
        try:
            cloudpickle.dumps(part)
        except Exception:
            return f" ({name.lstrip('_').replace('_', ' ')})"
    return ""


def _is_plain(tensor: Tensor) -> bool:
    """Whether a tensor is its numbers and nothing else."""
    return (
        tensor.device.type == "cpu"
        and tensor.layout == torch.strided
        and not (tensor.requires_grad or tensor.is_quantized or tensor.is_conj() or tensor.is_neg())
        and not tensor.__dict__
    )


def _parts(tensor: Tensor) -> tuple[pickle.PickleBuffer, torch.dtype, tuple[int, ...], tuple[int, ...], int]:
    own = tensor.detach()
    if own.untyped_storage().nbytes() != own.numel() * own.element_size():
        own = own.clone()  # only what is seen of a larger one; dense, so that its bytes are its storage
    content = torch.empty(0, dtype=torch.uint8).set_(own.untyped_storage())
    return (
        pickle.PickleBuffer(content.numpy().data),
        own.dtype,
        tuple(own.shape),
        own.stride(),
        int(own.storage_offset()),
    )


def _tensor(content: Any, dtype: torch.dtype, shape: tuple[int, ...], stride: tuple[int, ...], offset: int) -> Tensor:
    if not len(content):
        return torch.empty(shape, dtype=dtype)
    return torch.frombuffer(content, dtype=torch.uint8).view(dtype).as_strided(shape, stride, offset)
