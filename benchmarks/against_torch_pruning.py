"""tersenet and Torch-Pruning side by side: what is cut, is it exact, how fast? Makes docs/torch-pruning.md.

The networks are those of coupling.py, and ResNet-20 for CIFAR with padded shortcuts (option A). Each gets random
weights and norm statistics and loses two fifths of the channels of every group, drawn at random, by either library.
The cut network is then compared, in float64, with the original in which exactly the numbers that went are zero. Which
these are is read off a copy whose weights are their own positions and which is cut by the same draws. Exact means the
same as in coupling.py. Seconds are processor seconds of one core in fp32: tracing, and cutting.

Torch-Pruning is used as its README shows: ``BasePruner``, ``ignored_layers`` (the layers that make the outputs),
``num_heads`` of attention, ``output_transform`` for outputs that are no lists; static attributes of torchvision's ViT
are set by hand after the cut. Needs the extra ``benchmark``. Goes on where it was stopped.

    OMP_NUM_THREADS=1 python benchmarks/against_torch_pruning.py --suite hand-written
"""

from __future__ import annotations

import argparse
import copy
import gc
import importlib
import json
import signal
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from coupling import REMOVED, Network, row_of, suites
from rows import RESULTS, ResultFile, print_rows

from tersenet.errors import TersenetError
from tersenet.graph import duplicate, tensors_in, trace
from tersenet.testing.invariant import MAX_DIFFERENCE, MIN_EFFECT, outputs
from tersenet.testing.networks import randomize
from tersenet.testing.toy_joins import OptionAResNet
from tersenet.transforms import relative_difference

PAGE = Path(__file__).parent.parent / "docs" / "torch-pruning.md"
OURS, THEIRS = "tersenet", "torch-pruning"
COLUMNS = ("suite", "network", "library", "trace_seconds", "cut_seconds", "params_ratio", "exact", "reason")
MAX_SECONDS = 60
"""Processor seconds that a library gets for tracing and cutting one network."""

SMALL_ENOUGH = (
    "alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "googlenet", "inception_v3",
    "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_x_400mf", "regnet_y_400mf", "resnet18",
    "resnext50_32x4d", "shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "vgg11_bn", "vit_b_16",
)  # fmt: skip
"""One of each family of torchvision's classifiers; ``--networks`` takes others."""


PROSE = """[Torch-Pruning](https://github.com/VainF/Torch-Pruning) 1.6.1 finds coupled channels from the graph of
autograd and one rule per kind of layer; tersenet runs labels of channels through the operators of `torch.export`.
Both cut the same networks here, with random weights and norm statistics: 40 % of the channels of every group, drawn
at random, residual streams included. Exact means: in float64 the cut network differs by at most 1e-9 of the largest
output from the original in which exactly the numbers that went are zero, and zeroing changed at least 1e-3.

Torch-Pruning is used as its README shows: `BasePruner` with `pruning_ratio=0.4`, `ignored_layers` (the layers that
make the outputs, which it does not look for itself; tersenet's are given to it), `num_heads` of attention, and
`output_transform` for outputs that are no lists of tensors. After the cut, `hidden_dim` of torchvision's ViT is set by
hand, as the README asks. Forwards stay as they are written (for YOLO its examples replace C2f by a module without
`chunk`). Where a norm runs over the channels themselves (layer norm, group norm), no cut can be exact:
Torch-Pruning cuts such channels, tersenet leaves them whole unless it is told otherwise. Seconds are processor seconds
of one core in fp32: to trace, and to cut (tersenet: plan and copy; Torch-Pruning: in place). Parameters are those that
are left; of a group's channels Torch-Pruning keeps 60 % rounded down, tersenet rounded to the nearest."""


def all_suites() -> dict[str, Callable[[], Iterator[tuple[str, Callable[[], Network]]]]]:
    """The suites of coupling.py and the ResNet of the papers."""
    return {**suites(), "cifar": _option_a}


def _option_a() -> Iterator[tuple[str, Callable[[], Network]]]:
    def build() -> Network:
        images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
        return randomize(OptionAResNet(3), seed=0).eval(), (images,)

    yield "resnet20_option_a", build


def their_row(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, object]:
    """Trace, cut and compare one network by Torch-Pruning; the model itself stays as it is."""
    heads = output_layers(model, inputs)
    cut, positions = duplicate(model), numbered(model)
    double = tuple(value.double() if value.is_floating_point() else value for value in inputs)
    try:
        with limited(MAX_SECONDS):
            times = cut_by_theirs(cut, inputs, heads, seed=0)
            cut_by_theirs(positions, double, heads, seed=0)
    except Exception as error:  # whatever stops it is the result
        return {"exact": None, "reason": f"{type(error).__name__}: {error}".partition("\n")[0][:200]}
    left = sum(parameter.numel() for parameter in cut.parameters())
    row: dict[str, object] = dict(zip(COLUMNS[3:5], times, strict=True))
    row["params_ratio"] = round(left / sum(parameter.numel() for parameter in model.parameters()), 4)
    try:
        found = outputs(cut.double(), double)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        return row | {"exact": False, "reason": f"the cut network does not run: {error}".partition("\n")[0][:200]}
    dense = duplicate(model).double()
    expected = outputs(zeroed(dense, positions), double)
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        return row | {"exact": False, "reason": "the cut network's outputs have other shapes"}
    difference, effect = relative_difference(found, expected), relative_difference(outputs(dense, double), expected)
    exact = difference <= MAX_DIFFERENCE and effect >= MIN_EFFECT
    row |= {"difference": difference, "effect": effect, "exact": exact}
    return row | {"reason": None if exact else _reason(model, cut, difference, effect)}


def cut_by_theirs(model: nn.Module, inputs: tuple[Tensor, ...], heads: list[str], *, seed: int) -> tuple[float, float]:
    """Cut in place; returns processor seconds of tracing and of cutting."""
    library = importlib.import_module("torch_pruning")
    modules = dict(model.named_modules())
    begin = time.process_time()
    with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        pruner = library.pruner.BasePruner(
            model,
            inputs[0] if len(inputs) == 1 else inputs,
            importance=library.importance.RandomImportance(),
            pruning_ratio=REMOVED,
            ignored_layers=[modules[name] for name in heads],
            output_transform=tensors_in,  # it takes lists of tensors only
            num_heads={one: one.num_heads for one in modules.values() if isinstance(one, nn.MultiheadAttention)},
            in_channel_groups={},  # the defaults are dictionaries that all pruners share
            out_channel_groups={},
        )
        middle = time.process_time()
        pruner.step()
    end = time.process_time()
    follow_by_hand(model)
    return round(middle - begin, 3), round(end - middle, 4)


def follow_by_hand(model: Any) -> None:
    """What the README leaves to the user: sizes that a forward keeps for itself, here those of torchvision's ViT."""
    if type(model).__name__ == "VisionTransformer":
        model.hidden_dim = model.conv_proj.out_channels


def output_layers(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[str]:
    """Layers that make the outputs, to be ignored; found by our own tracing, else the last linear layer."""
    try:
        graph = trace(model, inputs)
    except TersenetError:
        return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)][-1:]
    modules = dict(model.named_modules())
    made = [name for group in graph.channel_groups if "outputs" in group.reason for name in group.producers]
    return [name for name in dict.fromkeys(made) if name in modules]


def numbered(model: nn.Module) -> nn.Module:
    """A copy in float64 in which every parameter holds its own positions, counted from 0."""
    made = duplicate(model).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.copy_(torch.arange(parameter.numel(), dtype=torch.float64).view_as(parameter))
    return made


def zeroed(dense: nn.Module, positions: nn.Module) -> nn.Module:
    """A copy of ``dense`` in which everything is zero whose position is gone."""
    made = duplicate(dense)
    left = dict(positions.named_parameters())
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            stays = torch.zeros(parameter.numel(), dtype=torch.bool)
            stays[left[name].detach().flatten().round().long()] = True
            parameter.mul_(stays.view_as(parameter))
    return made


def _reason(model: nn.Module, cut: nn.Module, difference: float, effect: float) -> str:
    after = dict(cut.named_modules())
    kinds = {
        type(module).__name__
        for name, module in model.named_modules()
        if isinstance(module, nn.LayerNorm | nn.GroupNorm)
        and module.weight is not None
        and module.weight.shape != after[name].weight.shape
    }
    norms = f"cuts channels that {' and '.join(sorted(kinds))} reads, which no cut can leave exact; " if kinds else ""
    return f"{norms}differs by {difference:.2g}, zeroing changes {effect:.2g}"


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    """Stops what takes longer than this in processor time."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"no end within {seconds:.0f} processor seconds")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0.0)
        signal.signal(signal.SIGPROF, before)


def our_row(model: nn.Module, inputs: tuple[Tensor, ...]) -> dict[str, object]:
    """The same by tersenet, see ``coupling.row_of``."""
    row = row_of(copy.deepcopy(model), inputs)
    return {key: value for key, value in row.items() if key in (*COLUMNS, "difference", "effect")}


def page(rows: list[dict[str, Any]], *, command: str) -> str:
    """The page of the documentation."""
    lines = [
        "# Beside Torch-Pruning",
        "",
        f"Made by `{command}`; do not edit.",
        "",
        PROSE,
    ]
    for suite in dict.fromkeys(row["suite"] for row in rows):
        names = sorted({str(row["network"]) for row in rows if row["suite"] == suite})
        found = {(str(row["network"]), str(row["library"])): row for row in rows if row["suite"] == suite}
        lines += ["", f"## {suite}", ""]
        lines += [_summary(library, [found[name, library] for name in names]) for library in (OURS, THEIRS)]
        lines += [
            _verdict(names, found),
            "",
            "| network | library | trace s | cut s | parameters left | exact |",
            "|---|---|---:|---:|---:|---|",
        ]
        lines += [_line(found[name, library]) for name in names for library in (OURS, THEIRS)]
    return "\n".join(lines) + "\n"


def _summary(library: str, rows: list[dict[str, Any]]) -> str:
    exact = sum(row["exact"] is True for row in rows)
    wrong = sum(row["exact"] is False for row in rows)
    stopped = sum(row["exact"] is None for row in rows)
    text = f"- {library}: {exact} of {len(rows)} exact, {wrong} wrong or not running, {stopped} stopped."
    timed = [row for row in rows if "cut_seconds" in row]
    if timed:
        trace, cut = (statistics.median(float(row[key]) for row in timed) for key in COLUMNS[3:5])
        text += f" Medians: {trace:.2f} s to trace, {cut:.3f} s to cut."
    return text


def _verdict(names: list[str], found: dict[tuple[str, str], dict[str, Any]]) -> str:
    ours, theirs = ({name for name in names if found[name, library]["exact"]} for library in (OURS, THEIRS))
    only = [f"only by {library}: {', '.join(sorted(own)) or 'none'}" for library, own in
            ((OURS, ours - theirs), (THEIRS, theirs - ours))]  # fmt: skip
    return f"- Exact by both: {len(ours & theirs)}; {'; '.join(only)}."


def _line(row: dict[str, Any]) -> str:
    shown = [f"{row[key]:.{places}f}" if key in row else "-" for key, places in zip(COLUMNS[3:5], (2, 3), strict=True)]
    shown.append(f"{row['params_ratio']:.1%}" if "params_ratio" in row else "-")
    verdict = "yes" if row["exact"] else str(row["reason"]).replace("|", "/")
    return f"| {row['network']} | {row['library']} | {' | '.join(shown)} | {verdict} |"


def main() -> None:
    """Measure what is missing, print the table, write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=list(all_suites()), default="hand-written")
    parser.add_argument("--networks", nargs="*", help="only these; of torchvision's, one of each family otherwise")
    arguments = parser.parse_args()
    command = "OMP_NUM_THREADS=1 python benchmarks/against_torch_pruning.py --suite SUITE"
    file = ResultFile("torch_pruning", command=command)
    chosen = arguments.networks or (SMALL_ENOUGH if arguments.suite == "torchvision" else None)
    for name, build in all_suites()[arguments.suite]():
        if (chosen and name not in chosen) or file.has(suite=arguments.suite, network=name):
            continue
        begin = time.process_time()
        model, inputs = build()
        found = {library: cut(model, inputs) for library, cut in ((THEIRS, their_row), (OURS, our_row))}
        seconds = (time.process_time() - begin) / len(found)
        for library, row in found.items():
            whole = {"suite": arguments.suite, "network": name, "library": library} | row
            file.add(whole, seconds=seconds)
            print_rows([whole], COLUMNS)
        gc.collect()
    PAGE.write_text(page(json.loads((RESULTS / "torch_pruning.json").read_text())["rows"], command=command))


if __name__ == "__main__":
    main()
