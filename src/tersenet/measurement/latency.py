"""Time of one forward pass, measured fairly: the networks take turns, so that a busy moment of the machine hits all.

Medians and quartiles of single passes; on a shared machine a mean says more about the neighbours than about the
network.
"""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tersenet.core.metrics import Latency
from tersenet.export import OnnxRunner
from tersenet.graph import duplicate, unwrapped

MIN_ROUNDS = 5
"""Rounds that are timed even if the budget of seconds is over."""


def measure_latency(
    runners: Mapping[str, Callable[[], object]],
    *,
    num_runs: int = 50,
    warmup: int = 5,
    runtime: str = "torch",
    batch_size: int = 1,
    num_threads: int = 1,
    seconds_budget: float | None = None,
) -> dict[str, Latency]:
    """Time functions in turns: A B A B ..., one pass each.

    Args:
        runners: names to functions that make one pass and return when it is done.
        num_runs: timed passes of each.
        warmup: passes of each before the clock starts.
        runtime: what the passes run in, ``torch`` or ``onnxruntime``; noted in the result.
        batch_size: inputs per pass; noted in the result.
        num_threads: threads the runtime has; noted in the result, not set here.
        seconds_budget: stop early once this much time is used, warm-up included, but not before 5 passes of each.

    Returns:
        Median and quartiles in milliseconds, by name.

    Raises:
        ValueError: no runners, or a count out of range.
    """
    if not runners or num_runs < 1 or warmup < 0:
        raise ValueError(
            f"needs a runner, num_runs >= 1 and warmup >= 0, got {len(runners)} runners, {num_runs=}, {warmup=}"
        )
    begin = time.perf_counter()
    times: dict[str, list[float]] = {name: [] for name in runners}
    with _no_collection():
        for current in range(warmup + num_runs):
            is_over = seconds_budget is not None and time.perf_counter() - begin > seconds_budget
            num_timed = current - warmup
            if is_over and num_timed < 0:
                continue
            if is_over and num_timed >= MIN_ROUNDS:
                break
            for name, runner in runners.items():
                start = time.perf_counter_ns()
                runner()
                if num_timed >= 0:
                    times[name].append((time.perf_counter_ns() - start) / 1e6)
    facts = {"runtime": runtime, "batch_size": batch_size, "num_threads": num_threads}
    return {name: _summarise(values, facts) for name, values in times.items()}


def compare_latency(
    dense: nn.Module,
    compressed: nn.Module,
    example_inputs: Tensor | tuple[Tensor, ...],
    *,
    onnx_paths: tuple[Path, Path] | None = None,
    batch_sizes: Sequence[int] = (1,),
    num_threads: int = 1,
    num_runs: int = 200,
    seconds_budget: float = 5.0,
) -> dict[str, tuple[Latency, ...]]:
    """Time the original and the compressed network in torch and, where there are files, in onnxruntime.

    In torch: eval mode, inference mode, channels_last, on the device of each network.

    Args:
        dense: the original; stays as it is.
        compressed: the compressed network; stays as it is.
        example_inputs: one batch of positional inputs; repeated or cut to each batch size.
        onnx_paths: the ONNX files of both; not timed if None or if onnxruntime is not installed. A file with a fixed
            batch size is timed at that size only.
        batch_sizes: inputs per pass.
        num_threads: threads of either runtime; torch's own setting is put back afterwards.
        num_runs: timed passes of each network, at most.
        seconds_budget: seconds per runtime and batch size, for both networks together.

    Returns:
        ``dense`` and ``compressed``, each with one ``Latency`` per runtime and batch size, in the same order.
    """
    inputs = (example_inputs,) if isinstance(example_inputs, Tensor) else tuple(example_inputs)
    found: dict[str, list[Latency]] = {"dense": [], "compressed": []}

    def add(runners: Mapping[str, Callable[[], object]], runtime: str, batch_size: int) -> None:
        measured = measure_latency(
            runners,
            num_runs=num_runs,
            runtime=runtime,
            batch_size=batch_size,
            num_threads=num_threads,
            seconds_budget=seconds_budget,
        )
        for name, latency in measured.items():
            found[name].append(latency)

    with _torch_threads(num_threads):
        models = {"dense": _ready(dense), "compressed": _ready(compressed)}
        for size in batch_sizes:
            batch = _batch_of(inputs, size)
            add({name: _torch_runner(model, batch) for name, model in models.items()}, "torch", size)
    if onnx_paths is not None and importlib.util.find_spec("onnxruntime") is not None:
        sessions = [OnnxRunner(path, num_threads=num_threads) for path in onnx_paths]
        for size in batch_sizes:
            if all(session.fixed_batch_size in (None, size) for session in sessions):
                batch = _batch_of(inputs, size)
                add(
                    {name: _onnx_runner(one, batch) for name, one in zip(found, sessions, strict=True)},
                    "onnxruntime",
                    size,
                )
    return {name: tuple(values) for name, values in found.items()}


def _summarise(values: Sequence[float], facts: Mapping[str, object]) -> Latency:
    low, median, high = np.percentile(values, [25.0, 50.0, 75.0])
    numbers = {"median_ms": float(median), "low_ms": float(low), "high_ms": float(high), "num_runs": len(values)}
    return Latency.model_validate({**facts, **numbers})


def _ready(model: nn.Module) -> nn.Module:
    ready = duplicate(unwrapped(model)).eval()
    if all(parameter.ndim != 5 for parameter in ready.parameters()):
        ready = ready.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return ready


def _torch_runner(model: nn.Module, batch: tuple[Tensor, ...]) -> Callable[[], object]:
    first = next((tensor for tensor in model.parameters() if tensor.is_floating_point()), torch.empty(0))
    device = first.device
    placed = tuple(
        tensor.to(
            device,
            dtype=first.dtype if tensor.is_floating_point() else tensor.dtype,
            memory_format=torch.channels_last if tensor.ndim == 4 else torch.preserve_format,
        )
        for tensor in batch
    )

    def run() -> object:
        with torch.inference_mode():
            outputs = model(*placed)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return outputs

    return run


def _onnx_runner(session: OnnxRunner, batch: tuple[Tensor, ...]) -> Callable[[], object]:
    return lambda: session(batch)


def _batch_of(inputs: tuple[Tensor, ...], size: int) -> tuple[Tensor, ...]:
    return tuple(
        tensor[torch.arange(size, device=tensor.device) % len(tensor)].contiguous() if tensor.ndim else tensor
        for tensor in inputs
    )


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """A garbage collection in the middle of a pass would be counted as the network's."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@contextlib.contextmanager
def _torch_threads(num_threads: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(num_threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)
