"""Write a network as one self-contained ONNX file that stock runtimes load, not much larger than its weights.

The exporter of torch folds batch norms into convolutions and shares equal constants; what it leaves behind for
debugging (stack traces, shapes of inner values) is taken out. onnxruntime 1.31 reads IR version 13 and opset 26 at
most, so both are pinned well below that.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import re
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tersenet.core.files import write_whole
from tersenet.errors import MissingExtraError, ModelError
from tersenet.export.encodings import LinearEncoding, check_coded, coded_constants, encode_weights, opset_for
from tersenet.export.slim import drop_defaults, store_as_fp16, strip
from tersenet.graph import duplicate, unwrapped
from tersenet.transforms.coded import CodedWeights

OPSET = 20
"""Newest operator set that is written."""

MAX_IR_VERSION = 10
"""IR version that belongs to opset 20; newer ones only add what is not used here."""

_LAST_OF_IR_10 = 21
_IR_OF_INT2 = 13
"""IR version that belongs to opset 25, the newest that onnxruntime 1.31 reads."""

_NOISY_LOGGERS = ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
_COLOURS = re.compile("\x1b\\[[0-9;]*m")


def export_onnx(
    path: str | Path,
    model: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...],
    *,
    opset: int = OPSET,
    weights_fp16: bool = False,
    coded: Mapping[str, CodedWeights] | None = None,
    encoding: LinearEncoding = "folded",
) -> int:
    """Write the network in eval mode as one ONNX file; a failure leaves no part of it behind.

    Inputs and arithmetic are in single precision, whatever the network's own: every runtime knows that.

    Args:
        path: the file.
        model: stays as it is.
        example_inputs: one batch of positional inputs, batch axis first. The file takes any batch size if the
            network does, else the one given here.
        opset: operator set, 18 to 20.
        weights_fp16: store as fp16 the tensors whose values fp16 holds exactly, widened again when the file is
            loaded: a file of half the size with the same results. Batch norms then stay apart in the file, since
            folding would make other weights of them; onnxruntime folds them at load.
        coded: weights that are shared values or small integers, by name as in ``state_dict()``; the network holds
            their ``values()``. They are stored as codes and decoded once, when the file is loaded; what else fp16
            holds exactly is stored as fp16, and batch norms behind coded layers become one scale and one shift per
            channel (``encodings.py``).
        encoding: ``dequantize`` stores linear weights of 8, 4 and 2 bits as ONNX's own INT8, INT4 (opset 21) and
            INT2 (opset 25) behind a ``DequantizeLinear``, which onnxruntime computes again at every pass.

    Returns:
        Bytes of the file on disk.

    Raises:
        MissingExtraError: onnx or onnxscript is not installed.
        ModelError: the network cannot be exported, or does not hold what ``coded`` stands for.
        NotFoundError: the folder does not exist.
        ArtifactError: the file cannot be written.
    """
    require("onnx", "onnxscript")
    if not 18 <= opset <= OPSET:
        raise ValueError(f"opset must be between 18 and {OPSET}, got {opset}.")
    coded = coded or {}
    check_coded(unwrapped(model), coded)
    inputs = tuple(single_precision(tensor.detach().cpu()) for tensor in as_tuple(example_inputs))
    frozen = duplicate(unwrapped(model)).cpu().eval().float()
    opset = max(opset, opset_for(coded, encoding))
    with torch.no_grad(), _quiet():
        proto = _export(frozen, inputs, opset=opset, fold_norms=not (weights_fp16 or coded), coded=coded)
    if coded:
        encode_weights(proto, coded, encoding=encoding)
        drop_defaults(proto)
    if weights_fp16 or coded:
        store_as_fp16(proto)
    strip(proto)
    proto.ir_version = min(proto.ir_version, MAX_IR_VERSION) if opset <= _LAST_OF_IR_10 else _IR_OF_INT2
    return write_whole(path, proto.SerializeToString(deterministic=True))


def as_tuple(inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """One input or several as a tuple of positional inputs."""
    return (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)


def single_precision(tensor: Tensor) -> Tensor:
    """Floating-point numbers as fp32, everything else as it is."""
    return tensor.float() if tensor.is_floating_point() else tensor


def require(*libraries: str) -> None:
    """Make sure that optional libraries are there.

    Raises:
        MissingExtraError: one is not installed.
    """
    for library in libraries:
        if importlib.util.find_spec(library) is None:
            raise MissingExtraError(library, "onnx")


def _export(
    model: nn.Module,
    inputs: tuple[Tensor, ...],
    *,
    opset: int,
    fold_norms: bool,
    coded: Mapping[str, CodedWeights],
) -> Any:
    """The protobuf, with a free batch axis where the network allows it."""

    def attempt(example: tuple[Tensor, ...], *, free_batch: bool) -> Any:
        # AUTO lets the exporter fix a size that the forward has hard-coded, where DYNAMIC would refuse the network.
        shapes = tuple({0: torch.export.Dim.AUTO} if tensor.ndim else None for tensor in example)
        program = torch.onnx.export(
            model,
            example,
            dynamo=True,
            external_data=False,
            dynamic_shapes=shapes if free_batch else None,
            opset_version=opset,
            optimize=fold_norms,
            verbose=False,
        )
        assert program is not None
        proto = program.model_proto  # made anew at each access
        if not fold_norms:
            _tidy(proto, coded)
        return proto

    with contextlib.suppress(Exception):  # whatever is wrong, the second attempt says it too
        proto = attempt(_at_least_two(inputs), free_batch=True)
        if _has_free_output(proto):
            return proto
    try:
        return attempt(inputs, free_batch=False)
    except Exception as error:
        raise ModelError(
            f"The network cannot be exported to ONNX: {_reason(error)}. Run torch.export.export(model, example_inputs) "
            "to see which line of its forward is in the way."
        ) from error


def _reason(error: BaseException) -> str:
    """What stood at the beginning: the exporter wraps it into advice for its own developers, with colours."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in _COLOURS.sub("", str(error)).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300].rstrip('.')}" if lines else type(error).__name__


def _has_free_output(proto: Any) -> bool:
    # A forward that walks through its batch leaves a file whose input is free and whose outputs are not: with a larger
    # batch such a file would drop samples without a word.
    return any(axis.dim_param for value in proto.graph.output for axis in value.type.tensor_type.shape.dim)


def _tidy(proto: Any, coded: Mapping[str, CodedWeights]) -> None:
    """What the exporter's own optimisation does, except for folding batch norms and what would change coded weights."""
    import onnxscript.optimizer

    names = coded_constants(proto, coded).keys()

    def should_fold(node: Any) -> bool | None:
        return False if any(value is not None and value.name in names for value in node.inputs) else None

    onnxscript.optimizer.fold_constants(proto, **({"should_fold": should_fold} if names else {}))
    onnxscript.optimizer.remove_unused_nodes(proto)


def _at_least_two(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    # The exporter takes a batch of one for a constant.
    return tuple(torch.cat([tensor, tensor]) if tensor.ndim and len(tensor) == 1 else tensor for tensor in inputs)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes for its own developers off the user's screen."""
    loggers = [logging.getLogger(name) for name in _NOISY_LOGGERS]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        # Raised by torch about its own use of its own classes (2.10 to 2.13).
        warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning)
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)  # what fails is raised as well
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
