"""Which networks can be cut, how much of them, how fast, and is it exact? Makes docs/networks.md.

Each network gets random weights and norm statistics. It is traced; two fifths of the channels of every group that may
be cut are drawn and removed; the cut network is compared with the one in which the same channels are zero, in float64.
Exact means: they differ by at most 1e-9 of the largest output, and zeroing changed the outputs by at least 1e-3 of
it. Seconds are processor seconds of one core, in fp32; cutting is the plan and the copy. Shares are of the costs that
lie in channels that may be cut. Goes on where it was stopped; a network that has a row is left out.

    OMP_NUM_THREADS=1 python benchmarks/coupling.py --suite torchvision
"""

from __future__ import annotations

import argparse
import gc
import importlib
import json
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from rows import RESULTS, ResultFile, print_rows

from tersenet.errors import TersenetError
from tersenet.graph import ModelGraph, prunable_ratio, trace
from tersenet.testing.invariant import MAX_DIFFERENCE, MIN_EFFECT, outputs
from tersenet.testing.networks import randomize
from tersenet.testing.popular import POPULAR, popular
from tersenet.transforms import materialize, plan_for, relative_difference, simulate

PAGE = Path(__file__).parent.parent / "docs" / "networks.md"
REMOVED = 0.4
COLUMNS = (
    "suite", "network", "trace_seconds", "cut_seconds", "prunable_macs_ratio", "prunable_params_ratio", "exact",
    "reason",
)  # fmt: skip
_OPTIONS: dict[str, dict[str, object]] = {
    "googlenet": {"init_weights": False, "aux_logits": True},
    "inception_v3": {"init_weights": False, "aux_logits": True},
}
_SIZES = {"inception_v3": 299, "googlenet": 96, "maxvit_t": 224, "vit_h_14": 56}
"""Side of the images where 64 does not do."""

_declared: list[object] = []

Network = tuple[nn.Module, tuple[Tensor, ...]]


def torchvision() -> Any:
    """The library; beside a build of torch for processors it lacks two declarations, which are made up for."""
    try:
        return importlib.import_module("torchvision")
    except RuntimeError:
        library: Any = torch.library
        library = library.Library("torchvision", "DEF")
        library.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        library.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        _declared.append(library)  # what it declares goes when it does
        return importlib.import_module("torchvision")


def suites() -> dict[str, Callable[[], Iterator[tuple[str, Callable[[], Network]]]]]:
    """Networks by suite: names, and functions that build one with its inputs."""
    return {"hand-written": _hand_written, "torchvision": _classifiers}


def _hand_written() -> Iterator[tuple[str, Callable[[], Network]]]:
    def build(name: str) -> Network:
        model, images = popular(name)
        return model, (images,)

    for name in POPULAR:
        yield name, lambda name=name: build(name)  # type: ignore[misc]


def _classifiers() -> Iterator[tuple[str, Callable[[], Network]]]:
    zoo = torchvision().models

    def build(name: str) -> Network:
        size = _SIZES.get(name, 64)
        options = dict(_OPTIONS.get(name, {}))
        if name.startswith("vit_"):
            options["image_size"] = size
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model = zoo.get_model(name, weights=None, **options)
        images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
        return randomize(model, seed=0).eval(), (images,)

    for name in sorted(zoo.list_models(module=zoo)):
        yield name, lambda name=name: build(name)  # type: ignore[misc]


def row_of(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, object]:
    """Trace, cut and compare one network; the model is turned to float64 on the way."""
    begin = time.process_time()
    try:
        graph = trace(model, inputs)
    except TersenetError as error:
        return {"exact": None, "reason": str(error)}
    row: dict[str, object] = {"trace_seconds": round(time.process_time() - begin, 3)}
    kept = drawn(graph, seed=0)
    begin = time.process_time()
    plan = plan_for(model, graph, kept)
    smaller = materialize(model, plan)
    row["cut_seconds"] = round(time.process_time() - begin, 4)
    row["macs"], row["num_params"] = graph.macs, graph.num_params
    row["prunable_macs_ratio"] = round(prunable_ratio(graph, "macs"), 4)
    row["prunable_params_ratio"] = round(prunable_ratio(graph, "params"), 4)
    row["params_ratio"] = round(sum(parameter.numel() for parameter in smaller.parameters()) / graph.num_params, 4)
    del smaller
    model.double()
    inputs = tuple(value.double() if value.is_floating_point() else value for value in inputs)
    try:
        cut = outputs(materialize(model, plan), inputs)
    except (RuntimeError, ValueError, TypeError) as error:
        return row | {"exact": False, "reason": f"the cut network does not run: {error}"[:200]}
    gc.collect()
    dense = outputs(model, inputs)
    zeroed = outputs(simulate(model, graph, plan), inputs)
    difference, effect = relative_difference(cut, zeroed), relative_difference(dense, zeroed)
    exact = difference <= MAX_DIFFERENCE and effect >= MIN_EFFECT
    reason = None if exact else f"differs by {difference:.2g}, zeroing changes {effect:.2g}"
    return row | {"difference": difference, "effect": effect, "exact": exact, "reason": reason}


def drawn(graph: ModelGraph, *, seed: int) -> dict[str, tuple[int, ...]]:
    """Channels that stay, at random, by group."""
    rng = np.random.default_rng(seed)
    kept = {}
    for group in graph.channel_groups:
        count = max(1, group.num_channels - round(REMOVED * group.num_channels))
        if group.prunable:
            kept[group.group_id] = tuple(sorted(rng.choice(group.num_channels, count, replace=False).tolist()))
    return kept


def page(rows: list[dict[str, Any]], *, command: str) -> str:
    """The page of the documentation."""
    lines = [
        "# Networks that can be cut",
        "",
        f"Made by `{command}`; do not edit.",
        "",
        "Each network has random weights and norm statistics. Of every group of channels that may be cut, 40 % are",
        "drawn and removed, and the outputs compared with those of the network in which the same channels are zero, in",
        "float64: exact is a difference of at most 1e-9 of the largest output, where zeroing itself changed at least",
        "1e-3 of it. The shares are of multiply-accumulates and parameters that lie in channels that may be cut.",
        "Seconds are processor seconds of one core in fp32; cutting is the plan and the copy.",
    ]
    for suite in dict.fromkeys(row["suite"] for row in rows):
        own = sorted((row for row in rows if row["suite"] == suite), key=lambda row: str(row["network"]))
        exact = [row for row in own if row["exact"]]
        lines += ["", f"## {suite}", "", _summary(own, exact), ""]
        lines += ["| network | trace s | cut s | MACs | parameters | exact |", "|---|---:|---:|---:|---:|---|"]
        lines += [_line(row) for row in own]
    return "\n".join(lines) + "\n"


def _summary(rows: list[dict[str, Any]], exact: list[dict[str, Any]]) -> str:
    text = f"{len(exact)} of {len(rows)} are exact."
    if exact:
        middle = {key: statistics.median(float(row[key]) for row in exact) for key in COLUMNS[2:5]}
        text += (
            f" Medians: {middle['trace_seconds']:.2f} s to trace, {middle['cut_seconds']:.3f} s to cut, "
            f"{middle['prunable_macs_ratio']:.0%} of the MACs."
        )
    return text


def _line(row: dict[str, Any]) -> str:
    shown = [f"{row[key]:.{places}f}" if key in row else "-" for key, places in zip(COLUMNS[2:4], (2, 3), strict=True)]
    shown += [f"{row[key]:.1%}" if key in row else "-" for key in COLUMNS[4:6]]
    return f"| {row['network']} | " + " | ".join(shown) + f" | {'yes' if row['exact'] else row['reason']} |"


def main() -> None:
    """Measure what is missing, print the table, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=list(suites()), default="hand-written")
    parser.add_argument("--networks", nargs="*", help="only these")
    arguments = parser.parse_args()
    command = "OMP_NUM_THREADS=1 python benchmarks/coupling.py --suite SUITE"
    file = ResultFile("coupling", command=command)
    for name, build in suites()[arguments.suite]():
        if file.has(suite=arguments.suite, network=name) or (arguments.networks and name not in arguments.networks):
            continue
        begin = time.process_time()
        row = {"suite": arguments.suite, "network": name} | row_of(*build())
        file.add(row, seconds=time.process_time() - begin)
        print_rows([row], COLUMNS)
        gc.collect()
        PAGE.write_text(page(json.loads((RESULTS / "coupling.json").read_text())["rows"], command=command))


if __name__ == "__main__":
    main()
