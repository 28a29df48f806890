"""Run an ONNX file in onnxruntime, and compare it with the network it was made from."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree  # the exporter flattens outputs with the same function

from tersenet.errors import ArtifactError, NotFoundError
from tersenet.export.onnx import as_tuple, require, single_precision
from tersenet.graph import duplicate, unwrapped


@dataclass(frozen=True, kw_only=True)
class OnnxCheck:
    """How far a file's outputs are from torch's on the same inputs."""

    max_abs_difference: float
    """Largest difference of any output value; nan if one is not a number."""

    max_relative_difference: float
    """The same over the largest value of that output in torch; the worst of all outputs."""

    agreement: float | None
    """Share of samples (of pixels, in segmentation) whose class, the argmax over axis 1 of the first output, is the
    same; None if that output has no axis of classes."""

    num_samples: int
    """Inputs compared."""


class OnnxRunner:
    """An ONNX file, loaded and ready to be called on the CPU."""

    def __init__(self, path: str | Path, *, num_threads: int | None = None) -> None:
        """Load the file.

        Args:
            path: the file.
            num_threads: threads for one pass; None lets onnxruntime use all cores.

        Raises:
            MissingExtraError: onnxruntime is not installed.
            NotFoundError: there is no such file.
            ArtifactError: onnxruntime cannot load the file.
        """
        require("onnxruntime")
        import onnxruntime

        if not Path(path).is_file():
            raise NotFoundError(f"There is no ONNX file {str(path)!r}.")
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.inter_op_num_threads = 1
        if num_threads is not None:
            options.intra_op_num_threads = num_threads
        try:
            self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            first = str(error).strip().partition("\n")[0][:300]
            raise ArtifactError(f"onnxruntime cannot load {str(path)!r}: {first}") from error
        inputs = self._session.get_inputs()
        self.input_names: tuple[str, ...] = tuple(value.name for value in inputs)
        """Names of the positional inputs, in order."""
        first_axes = [value.shape[0] for value in inputs if value.shape]
        fixed = [size for size in first_axes if isinstance(size, int)]
        self.fixed_batch_size: int | None = fixed[0] if fixed else None
        """The only batch size the file takes; None if it takes any."""

    def __call__(self, inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Outputs for one batch, flattened in the order in which the network returns them.

        Raises:
            ValueError: the number of inputs or the batch size is not the file's.
        """
        tensors = as_tuple(inputs)
        if len(tensors) != len(self.input_names):
            raise ValueError(f"the file takes {len(self.input_names)} inputs {self.input_names}, got {len(tensors)}")
        size = len(tensors[0]) if tensors and tensors[0].ndim else None
        if self.fixed_batch_size is not None and size != self.fixed_batch_size:
            raise ValueError(f"the file takes batches of {self.fixed_batch_size} only, got {size}")
        feed = {name: tensor.detach().cpu().numpy() for name, tensor in zip(self.input_names, tensors, strict=True)}
        return tuple(torch.from_numpy(output) for output in self._session.run(None, feed))

    def predict(self, inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Outputs for a batch of any size; a file with a fixed one is fed in pieces, the last filled up and cut again.

        Raises:
            ValueError: the number of inputs is not the file's.
        """
        size, tensors = self.fixed_batch_size, as_tuple(inputs)
        if size is None or not tensors or len(tensors[0]) == size:
            return self(tensors)
        wanted = len(tensors[0])
        rows = [torch.arange(start, start + size).clamp(max=wanted - 1) for start in range(0, wanted, size)]
        pieces = [self(tuple(tensor[chosen] for tensor in tensors)) for chosen in rows]
        return tuple(torch.cat(parts)[:wanted] for parts in zip(*pieces, strict=True))


@dataclass
class _Differences:
    """Running maxima per output, and counts."""

    difference: list[Tensor] = field(default_factory=list)
    largest: list[Tensor] = field(default_factory=list)
    agreeing: int = 0
    classified: int = 0
    num_samples: int = 0

    def add(self, expected: list[Tensor], found: tuple[Tensor, ...]) -> None:
        if [tuple(tensor.shape) for tensor in expected] != [tuple(tensor.shape) for tensor in found]:
            raise ArtifactError(
                f"The ONNX file gives outputs of shapes {[tuple(tensor.shape) for tensor in found]}, the network "
                f"{[tuple(tensor.shape) for tensor in expected]}. Export it again from this network."
            )
        if not self.difference:
            self.difference = [torch.zeros((), dtype=torch.float64) for _ in expected]
            self.largest = [torch.zeros((), dtype=torch.float64) for _ in expected]
        for place, (ours, theirs) in enumerate(zip(expected, found, strict=True)):
            if ours.numel():
                apart = (ours.double() - theirs.double()).abs().max()
                # torch's maximum keeps nan, Python's max would lose it.
                self.difference[place] = torch.maximum(self.difference[place], apart)
                self.largest[place] = torch.maximum(self.largest[place], ours.double().abs().max())
        if expected and expected[0].ndim >= 2 and expected[0].shape[1] >= 2:
            same = expected[0].argmax(dim=1) == found[0].argmax(dim=1)
            self.agreeing += int(same.sum())
            self.classified += same.numel()

    def relative(self) -> float:
        pairs = zip(self.difference, self.largest, strict=True)
        shares = [apart / largest if largest > 0 or apart > 0 else apart for apart, largest in pairs]
        return float(torch.stack(shares).max()) if shares else 0.0


def check_onnx(
    path: str | Path,
    model: nn.Module,
    batches: Iterable[Tensor | tuple[Tensor, ...]],
    *,
    num_threads: int | None = None,
) -> OnnxCheck:
    """Load the file in onnxruntime and compare it with torch on the same inputs.

    Args:
        path: the file.
        model: the network it was made from; stays as it is.
        batches: batches of inputs, without targets.
        num_threads: threads of onnxruntime; None for all cores.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        NotFoundError: there is no such file.
        ArtifactError: the file cannot be loaded, or its outputs have other shapes than the network's.
        ValueError: there are no batches.
    """
    runner = OnnxRunner(path, num_threads=num_threads)
    reference = duplicate(unwrapped(model)).cpu().eval().float()  # as the file was written
    differences = _Differences()
    with torch.inference_mode():
        for batch in batches:
            inputs = tuple(single_precision(tensor.cpu()) for tensor in as_tuple(batch))
            leaves = pytree.tree_leaves(reference(*inputs))
            differences.add([leaf for leaf in leaves if isinstance(leaf, Tensor)], runner.predict(inputs))
            differences.num_samples += len(inputs[0])
    if not differences.num_samples:
        raise ValueError("batches is empty, so there is nothing to compare")
    return OnnxCheck(
        max_abs_difference=float(torch.stack(differences.difference).max()),
        max_relative_difference=differences.relative(),
        agreement=differences.agreeing / differences.classified if differences.classified else None,
        num_samples=differences.num_samples,
    )
