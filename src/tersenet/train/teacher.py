"""What the original network says about training batches, computed once.

Every distilled step asks the original network about an augmented batch, a fifth of the time of tuning a CIFAR ResNet.
Batches of an epoch are drawn from (seed, epoch) alone, so all tunings of a run ask the same questions: before and
after weights are coded, at every bound that is tried for ``max_top1_drop``, for another policy in the same folder. The
answers stay beside the checkpoint. They are looked up by what a batch holds, not by where it stands in an epoch: a
batch that differs in one bit is computed, so training ends with the same weights, bit for bit, with and without them.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from tersenet.core.files import write_whole
from tersenet.core.version import __version__
from tersenet.data.splits import Inputs
from tersenet.measurement.placement import Placement
from tersenet.models import weights_hash

LIMIT_BYTES = 256_000_000
"""What the answers of all epochs of one training may take on the disk; later epochs are not kept."""


class Teacher:
    """The original network in the placement it is asked in, and what it said before."""

    def __init__(self, model: nn.Module, placement: Placement, *, folder: Path | None = None, seed: int = 0) -> None:
        """Keep answers in ``folder``, if there is one.

        Args:
            model: in eval mode, on the device; not changed.
            placement: how it is run.
            folder: must exist; None: nothing is kept.
            seed: of the training, which draws its batches; only part of the files' names.
        """
        self._model = model
        self._placement = placement
        self._folder = folder
        self._name = None if folder is None else f"teacher-{_signature(model, placement)}-{seed}"
        self._epoch = 0
        self._known: dict[bytes, Tensor] = {}
        self._said: dict[bytes, Tensor] = {}
        self._is_whole = True

    def begin(self, epoch: int) -> None:
        """Read what is known of an epoch's batches; a damaged file counts as absent."""
        self._epoch, self._known, self._said, self._is_whole = epoch, {}, {}, True
        path = self._path()
        if path is None or not path.exists():
            return
        try:
            kept = load_file(path)
            parts = torch.split(kept["outputs"], kept["sizes"].tolist())
            self._known = {bytes(row.numpy()): part for row, part in zip(kept["digests"], parts, strict=True)}
        except (SafetensorError, OSError, KeyError, RuntimeError, ValueError):
            self._known = {}

    def answer(self, inputs: Inputs) -> Any:
        """Outputs for one batch, as the source yields it, on the device."""
        digest = _digest(inputs) if self._folder is not None and self._is_whole else None
        found = None if digest is None else self._known.get(digest)
        outputs = self.ask(inputs) if found is None else found.to(self._placement.device)
        if digest is not None:
            self._remember(digest, outputs)
        return outputs

    def ask(self, inputs: Inputs) -> Any:
        """Outputs of the network itself for one batch."""
        with torch.no_grad():
            return self._placement.forward(self._model, self._placement.put(inputs))

    def end(self) -> None:
        """Keep what was said in this epoch, unless it is known already or takes too much room."""
        path = self._path()
        if path is None or not self._is_whole or not self._said or self._said.keys() <= self._known.keys():
            return
        outputs = list(self._said.values())
        if len({(part.dtype, part.shape[1:]) for part in outputs}) != 1:
            return
        tensors = {
            "digests": torch.tensor([list(digest) for digest in self._said], dtype=torch.uint8),
            "sizes": torch.tensor([len(part) for part in outputs]),
            "outputs": torch.cat(outputs),
        }
        write_whole(path, save(tensors))

    def _remember(self, digest: bytes, outputs: Any) -> None:
        """Hold an answer for the end of the epoch; none, if they are not tensors or become too many."""
        self._is_whole = isinstance(outputs, Tensor) and outputs.ndim > 0
        if self._is_whole:
            self._said[digest] = outputs.detach().cpu()
            num_bytes = len(self._said) * outputs.numel() * outputs.element_size()
            self._is_whole = self._epoch * num_bytes <= LIMIT_BYTES
        if not self._is_whole:
            self._said = {}

    def _path(self) -> Path | None:
        return None if self._folder is None else self._folder / f"{self._name}-{self._epoch}.safetensors"


def _digest(inputs: Inputs) -> bytes | None:
    """sha256 of a batch; None for one that is not on the CPU, which would take longer to fetch than to ask about."""
    digest = hashlib.sha256()
    for tensor in inputs if isinstance(inputs, tuple) else (inputs,):
        if tensor.device.type != "cpu":
            return None
        digest.update(f"{tuple(tensor.shape)} {tensor.dtype} ".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()


def _signature(model: nn.Module, placement: Placement) -> str:
    """Name of everything that decides the last bits of an answer."""
    how = f"{__version__} {torch.__version__} {torch.backends.cpu.get_cpu_capability()} {torch.get_num_threads()}"
    return hashlib.sha256(f"{how} {placement} {weights_hash(model)}".encode()).hexdigest()[:12]
