"""The staircase of a runtime: in which blocks channels should be removed so that removing them saves time.

Runtimes compute channels in blocks: in onnxruntime on a processor with AVX-512 a 3x3 convolution of 255 channels takes
up to twice as long as one of 256, and one of 241 as long as one of 256. Which blocks is measured here, on convolutions
as wide as those of the network at hand; what follows from the times is a function of its own, ``choose_block``.
"""

from __future__ import annotations

import functools
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from tersenet.core.staircase import Probed, Staircase
from tersenet.errors import SearchError
from tersenet.export import OnnxRunner
from tersenet.export.chain import write_chain
from tersenet.graph import Layer, ModelGraph

BLOCKS = (1, 2, 4, 8, 16, 32)
"""What is chosen from."""

NUM_KINDS = 3
"""Kinds of convolutions that are measured, at most."""

SHORTEST, LONGEST = 2, 16
"""Convolutions in a row in one pass, as in a network, so that layouts need not be changed between them."""

AIMED_MACS = 20_000_000
"""Of one pass, about half a millisecond: what the runtime does besides is little then, and few passes are disturbed.
Small convolutions get longer chains, and large ones smaller feature maps, but none below 4 wide."""

REPEATS, PASSES = 7, 4
"""The time is the median over repeats of the fastest of some passes; a pass that others disturb is not the fastest."""


def choose_block(probed: Sequence[Probed]) -> int:
    """The smallest block beyond which rounding channels up costs time.

    With W the largest count of a kind of convolution, counts W-1, W-2, W-4, W-8 and W-16 are those that lie farthest
    below W among the multiples of half a block of 2, 4, 8, 16 and 32. Rounding up to a block b is *free* if

        sum log(t(W) / t(W - b/2))  <=  1/2 sum log(w(W) / w(W - b/2)),    w(c) = c^2,

    over all kinds where both were measured: time t rises by less than half, in logarithms, of what the work w does. On
    a flat step it does not rise, on a straight line it rises like the work; half-way between leaves room for noise. The
    block is the largest one that is free; 1 if none is. All larger ones cost, and all smaller ones would keep counts
    to choose from that take as long as a larger count, or longer.

    Args:
        probed: measured times; the order does not matter.

    Returns:
        One of ``BLOCKS``; the same for the same times.
    """
    return max((block for block in BLOCKS[1:] if _is_free(probed, block)), default=1)


def _is_free(probed: Sequence[Probed], block: int) -> bool:
    times = works = 0.0
    for kind in probed:
        top = max(kind.times_ms)
        below = top - block // 2
        if below in kind.times_ms:
            times += math.log(kind.times_ms[top] / kind.times_ms[below])
            works += 2.0 * math.log(top / below)
    return works > 0.0 and times <= 0.5 * works


def probe_staircase(graph: ModelGraph) -> Staircase:
    """Measure convolutions like those of a network in onnxruntime with one thread, and choose the block.

    Takes two or three seconds the first time. A process measures each kind of convolution once, so that what is shown
    before a run is what the run uses.

    Raises:
        MissingExtraError: onnxruntime or onnx is not installed.
        SearchError: the network has no convolution to go by.
    """
    kinds = typical_layers(graph)
    if not kinds:
        raise SearchError(
            "round_to='auto' measures convolutions like those of the network, and it has none without groups. Give a "
            "number; 8 suits most processors."
        )
    probed = tuple(_probe(layer.kernel_size, layer.output_shape[1:], top_count(layer)) for layer in kinds)
    return Staircase(round_to=choose_block(probed), runtime="onnxruntime", probed=probed)


def typical_layers(graph: ModelGraph) -> list[Layer]:
    """Convolutions without groups, the one with most multiply-accumulates of each width; at most three widths, those
    with most of them together first."""
    by_width: dict[int, list[Layer]] = {}
    for layer in graph.layers:
        if layer.op == "conv" and layer.conv_groups == 1:
            by_width.setdefault(top_count(layer), []).append(layer)
    widths = sorted(by_width, key=lambda width: sum(layer.macs for layer in by_width[width]), reverse=True)
    return [max(by_width[width], key=lambda layer: layer.macs) for width in widths[:NUM_KINDS]]


def top_count(layer: Layer) -> int:
    """The largest number of channels that is measured for a layer: its own, up to a multiple of the largest block."""
    return -(-layer.out_channels // BLOCKS[-1]) * BLOCKS[-1]


@functools.cache
def _probe(kernel_size: tuple[int, ...], positions: tuple[int, ...], top: int) -> Probed:
    positions, length = size_of_pass(positions, top**2 * math.prod(kernel_size))
    with tempfile.TemporaryDirectory() as folder:
        runners = {}
        for count in (top, *(top - block // 2 for block in BLOCKS[1:])):
            path = Path(folder) / f"{count}.onnx"
            runners[count] = make_runner(path, count, kernel_size, positions, length)
        return Probed(kernel_size=kernel_size, positions=positions, times_ms=time_in_turns(runners))


def size_of_pass(positions: tuple[int, ...], macs_each: int) -> tuple[tuple[int, ...], int]:
    """Feature maps that are not too large for one pass, all sides smaller by the same factor, and the length of the
    chain.

    Args:
        positions: size of the maps in the network.
        macs_each: multiply-accumulates of one position.
    """
    factor = min(1.0, AIMED_MACS / (SHORTEST * macs_each * math.prod(positions))) ** (1.0 / len(positions))
    smaller = tuple(min(size, max(4, int(factor * size))) for size in positions)
    length = AIMED_MACS // (macs_each * math.prod(smaller))
    return smaller, min(LONGEST, max(SHORTEST, length))


def make_runner(
    path: Path, count: int, kernel_size: tuple[int, ...], positions: tuple[int, ...], length: int
) -> Callable[[], object]:
    """A function that makes one pass through convolutions of ``count`` channels, in onnxruntime with one thread."""
    write_chain(path, num_channels=count, kernel_size=kernel_size, positions=positions, length=length)
    runner = OnnxRunner(path, num_threads=1)
    images = np.random.default_rng(0).standard_normal((1, count, *positions), dtype=np.float32)
    batch = (torch.from_numpy(images),)
    return lambda: runner(batch)


def time_in_turns(runners: Mapping[int, Callable[[], object]]) -> dict[int, float]:
    """Milliseconds of each function, by its key: all take turns, so that a busy moment hits all alike."""
    found: dict[int, list[float]] = {count: [] for count in runners}
    for repeat in range(REPEATS + 1):
        for count, run in runners.items():
            fastest = min(_milliseconds(run) for _ in range(PASSES))
            if repeat > 0:  # the first is to warm up
                found[count].append(fastest)
    return {count: statistics.median(times) for count, times in found.items()}


def _milliseconds(run: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    run()
    return (time.perf_counter_ns() - start) / 1e6
