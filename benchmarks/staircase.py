"""Latency at half the MACs by the block in which channels are removed, and the block that `round_to=auto` finds.

Networks have random weights, since only the time counts; every block gets the policy with the same share of each group,
decoded to at most half the network's MACs. All files of a network take turns in onnxruntime with one thread, batch 1.
`is_auto` marks the row of the block that the probe finds. Prints all rows; writes benchmarks/results/staircase.json.

    python benchmarks/staircase.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from rows import ResultFile, print_rows

from tersenet import Policy, Target, models
from tersenet.api import CompressOptions
from tersenet.api.prepare import Prepared, prepare
from tersenet.api.tuning import redecode
from tersenet.export import OnnxRunner, export_onnx
from tersenet.measurement.staircase import probe_staircase, time_in_turns
from tersenet.testing.networks import randomize
from tersenet.transforms import make_plan, materialize

MACS_RATIO = 0.5
BLOCKS = (1, 2, 4, 8, 16)
NETWORKS = {"mobilenet_v2": (3, 64, 64), "vgg16_bn_cifar": (3, 32, 32)}
"""Networks with wide groups, and the shape of an input."""

COLUMNS = ("network", "round_to", "is_auto", "macs_ratio", "latency_ms", "speedup")


def rows_of(network: str) -> list[dict[str, object]]:
    """The dense network, then one row per block."""
    model = randomize(models.build(network), seed=0).eval()
    inputs = (torch.randn(2, *NETWORKS[network], generator=torch.Generator().manual_seed(0)),)
    cuts = {block: prepared(model, inputs, block) for block in BLOCKS}
    found = probe_staircase(cuts[1].graph).round_to
    with tempfile.TemporaryDirectory() as folder:
        runners = {0: runner(model, inputs, Path(folder) / "dense.onnx")}
        ratios = {0: 1.0}
        for block, cut in cuts.items():
            policy = redecode(cut, Policy())
            small = materialize(model, make_plan(model, cut.graph, policy, seed=0))
            runners[block] = runner(small, inputs, Path(folder) / f"{block}.onnx")
            ratios[block] = cut.cost_ratios(policy)["macs"]
        times = time_in_turns(runners)
    return [
        {
            "network": network,
            "round_to": block or None,
            "is_auto": block == found,
            "macs_ratio": ratios[block],
            "latency_ms": times[block],
            "speedup": times[0] / times[block],
        }
        for block in runners
    ]


def prepared(model: nn.Module, inputs: tuple[Tensor, ...], block: int) -> Prepared:
    """The network with its budget and blocks."""
    options = CompressOptions(recipe_options={"round_to": block, "prune_residual": True})
    return prepare(model, inputs, target=Target(max_macs_ratio=MACS_RATIO), recipe="uniform", options=options)


def runner(model: nn.Module, inputs: tuple[Tensor, ...], path: Path) -> Callable[[], object]:
    """One pass of one input in onnxruntime."""
    export_onnx(path, model, inputs)
    session = OnnxRunner(path, num_threads=1)
    one = tuple(tensor[:1] for tensor in inputs)
    return lambda: session(one)


def main() -> None:
    """Measure what is missing, print all rows."""
    file = ResultFile("staircase", command="OMP_NUM_THREADS=1 python benchmarks/staircase.py")
    for network in NETWORKS:
        if not file.has(network=network):
            started = time.perf_counter()
            rows = rows_of(network)
            share = (time.perf_counter() - started) / len(rows)
            for row in rows:
                file.add(row, seconds=share)
    print_rows(file.rows, COLUMNS)


if __name__ == "__main__":
    main()
