"""From a live module to a flat graph of ATen operators, without touching the module.

A copy that shares the tensors is put in eval mode and exported with ``torch.export``; the sizes of the example inputs
are used as they are, since the exported graph is only read, never run. Parameters are known by identity: a tensor that
has several names is called by its first one.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from types import SimpleNamespace

import torch
from torch import Tensor, nn

from tersenet.errors import ModelError, TraceError
from tersenet.graph.copying import duplicate, one_line
from tersenet.graph.lines import line_of_error
from tersenet.graph.model_graph import TensorInfo

_STATISTICS = ("running_mean", "running_var")


@dataclass(frozen=True)
class Exported:
    """The flat graph and the names that go with it."""

    graph_module: torch.fx.GraphModule

    placeholders: dict[str, str]
    """Graph input to the name of the parameter or buffer it stands for."""

    user_inputs: frozenset[str]
    """Graph inputs that are the model's own inputs."""

    modules: dict[str, str]
    """Weight to the first module that owns it."""

    tensors: tuple[TensorInfo, ...]

    inputs: tuple[Tensor, ...]

    reads_all: bool
    """Whether the forward reads every parameter."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The user's own module behind ``torch.compile``.

    Raises:
        ModelError: the model is wrapped for several devices.
    """
    if not isinstance(model, nn.Module):
        raise ModelError(f"model must be a torch.nn.Module, got {type(model).__name__}.")
    if isinstance(model, nn.DataParallel | nn.parallel.DistributedDataParallel):
        raise ModelError(f"model is wrapped in {type(model).__name__}. Give the module inside: model.module.")
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else model


def all_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers with all their names, tied ones several times."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def first_names(model: nn.Module) -> dict[int, str]:
    """Identity of each parameter and buffer to its first name."""
    names: dict[int, str] = {}
    for name, tensor in all_tensors(model):
        names.setdefault(id(tensor), name)
    return names


def export_model(model: nn.Module, example_inputs: Tensor | tuple[Tensor, ...], *, training: bool = False) -> Exported:
    """Export a copy of ``model`` in eval mode, or in training mode if ``training`` is set.

    Raises:
        ModelError: the model or the inputs are not what they should be.
        TraceError: the forward pass cannot be exported; the message names the line.
    """
    live = unwrapped(model)
    # the exporter computes with stand-ins, so that the copy may share all tensors
    trial = duplicate(live, {id(tensor): tensor for _, tensor in all_tensors(live)}).train(training)
    for module in trial.modules():
        # hooks that keep activations would hand out the tracer's stand-ins to the user
        module._forward_hooks.clear()
        module._backward_hooks.clear()
    inputs = _prepared(trial, example_inputs)
    try:
        _flatten_outputs(trial)
        with torch.no_grad(), _quiet():
            program = torch.export.export(trial, inputs, strict=False)
    except Exception as error:
        raise TraceError(f"The model cannot be traced: {_cause(error)}") from error
    names = dict(all_tensors(trial))
    first = first_names(trial)
    signature = program.graph_signature
    targets = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    placeholders = {node: first[id(names[name])] for node, name in targets.items() if name in names}
    return Exported(
        graph_module=program.graph_module,
        placeholders=placeholders,
        user_inputs=frozenset(name for name in signature.user_inputs if isinstance(name, str)),
        modules=_owners(trial, first),
        tensors=_tensor_infos(trial, first),
        inputs=inputs,
        reads_all=_reads_all(program.graph_module, placeholders, {first[id(p)] for p in trial.parameters()}),
    )


def tensors_in(made: object) -> list[Tensor]:
    """The tensors in what a forward returned, in order: tuples, lists, dicts and data classes, nested at will."""
    if isinstance(made, Tensor):
        return [made]
    if dataclasses.is_dataclass(made) and not isinstance(made, type):
        made = [getattr(made, field.name) for field in dataclasses.fields(made)]
    elif isinstance(made, Mapping):
        made = list(made.values())
    elif isinstance(made, SimpleNamespace):
        made = list(vars(made).values())
    return [tensor for part in made for tensor in tensors_in(part)] if isinstance(made, list | tuple) else []


def _flatten_outputs(model: nn.Module) -> None:
    """Let the forward return its tensors in one tuple, since the exporter refuses data classes."""
    forward = model.forward

    @functools.wraps(forward)
    def flat(*args: object, **kwargs: object) -> tuple[Tensor, ...]:
        return tuple(tensors_in(forward(*args, **kwargs)))

    model.forward = flat


def _reads_all(graph_module: torch.fx.GraphModule, placeholders: dict[str, str], parameters: set[str]) -> bool:
    given = [node for node in graph_module.graph.nodes if node.op == "placeholder" and node.users]
    return parameters <= {placeholders[node.name] for node in given if node.name in placeholders}


@contextmanager
def _quiet() -> Iterator[None]:
    """What the exporter would like to be different in the model, or prints before it fails, is no use to its user."""
    disabled = logging.root.manager.disable
    logging.disable(max(disabled, logging.WARNING))
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)


def _prepared(model: nn.Module, example_inputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    for position, value in enumerate(inputs):
        if not isinstance(value, Tensor):
            raise ModelError(
                f"example_inputs must be tensors, the forward's positional arguments in order; number {position} "
                f"is {type(value).__name__}."
            )
    if not inputs or any(value.ndim == 0 for value in inputs):
        raise ModelError("example_inputs must hold at least one tensor, each with a batch axis.")
    parameter = next((p for p in model.parameters() if p.is_floating_point()), None)
    if parameter is None:
        return inputs
    dtype = parameter.dtype
    return tuple(v.to(parameter.device, dtype if v.is_floating_point() else v.dtype) for v in inputs)


def _owners(model: nn.Module, first: dict[int, str]) -> dict[str, str]:
    owners: dict[str, str] = {}
    for module_name, module in model.named_modules():
        for tensor in [*module._parameters.values(), *module._buffers.values()]:
            if tensor is not None:
                owners.setdefault(first[id(tensor)], module_name)
    return owners


def _tensor_infos(model: nn.Module, first: dict[int, str]) -> tuple[TensorInfo, ...]:
    parameters = {id(parameter) for parameter in model.parameters()}
    infos = []
    for name, tensor in all_tensors(model):
        if first[id(tensor)] == name and tensor.is_floating_point():
            is_parameter = id(tensor) in parameters
            is_statistic = not is_parameter and name.rpartition(".")[2] in _STATISTICS
            infos.append(
                TensorInfo(name=name, shape=tuple(tensor.shape), is_parameter=is_parameter, is_statistic=is_statistic)
            )
    return tuple(infos)


def _cause(error: BaseException) -> str:
    """The error in one line, with the last line of the forward that is not torch's own."""
    message = f"{type(error).__name__}: {one_line(error)}."
    line = line_of_error(error.__traceback__)
    if line:
        message += f" It comes from {line}"
    if "data-dependent" in str(error) or "GuardOnDataDependent" in type(error).__name__:
        message += " (the forward decides by the values of a tensor, which cannot be traced; make it unconditional)"
    return message
