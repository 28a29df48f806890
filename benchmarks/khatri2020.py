"""Kernels switched off and on while the network trains: MNIST, the VGG-like network, beside dense training and he2018.

`dense` trains the network itself, one row per seed; all rows that go on from a trained network start from seed 0's.
Every row says its unit: a filter (for the hidden linear layer a neuron) with everything coupled to it, or a 2-D kernel
(for linear layers a weight). `kernels_ratio` counts units that are on, `params_ratio` parameters of the delivered
network, `nonzero_ratio` those that are not zero, `size_bytes` its packed file. Methods, each with its target:

- `khatri2020-aec`, at most 14 % of the parameters, and `khatri2020-ceca`, at most 6 %; `khatri2020-ceca1`, 1 %;
- `-fixed`: what is off stays off; `-random`, `-magnitude`: the controls at the same number of decisions;
- `-kernel`: 2-D kernels, at most 6 % of the parameters not zero; MACs of a dense runtime hardly fall;
- `khatri2020-scratch`: from new weights, without a teacher, at most 30 % of the MACs, which is what makes it fast;
  label smoothing in its place. `speedup` is dense seconds of the same seed over all of its seconds, rounds and tuning;
- `dense-short`, `khatri2020-scratch-short`: both with five epochs of training the whole, or of tuning, both with label
  smoothing, so that what switching saves is not mistaken for what a shorter schedule saves;
- `he2018`, at most 6 %: AMC on the same network, tuned for as many epochs as the others train in all.

Top-1 is measured on the whole test split, `drop` from the base. `seconds` are by the clock and go on after a stop;
`cpu_seconds` are the processor's, report and files included, and missing where a row was interrupted. Prints all rows,
medians over seeds, and whether what must hold does; writes benchmarks/results/khatri2020.json. A run that was stopped
goes on where it was, row by row and inside a row. On one core a row takes about nine minutes. `--tiny` only sees that
everything runs, on 600 images.

    python benchmarks/khatri2020.py --data DATA_FOLDER --work WORK_FOLDER [--jobs METHOD:SEED ...] [--tiny]
"""

from __future__ import annotations

import math
import statistics
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parent))
from rows import ResultFile, command_line, parsed, print_rows, run_fields, size_fields

from tersenet import Target, data, models
from tersenet.api import CompressOptions, TrainOptions, compress, train
from tersenet.core.summary import RunSummary
from tersenet.data import Data, First, SearchSplit, TestSplit, TrainSplit
from tersenet.graph import trace

NETWORK = "vgg_small_mnist"
BASE_SEED = 0
BASE_MUST = 99.4
DENSE_EPOCHS = 8
SHORT_EPOCHS = 5
LABEL_SMOOTHING = 0.1
EPOCHS: dict[str, object] = {"live_epochs": 2.5, "finetune_epochs": 8}
CECA: dict[str, object] = {"mode": "auto_ceca", **EPOCHS}
SCRATCH: dict[str, object] = {
    "mode": "auto_ceca",
    "start": "scratch",
    "trials": 10,
    "live_epochs": 1.0,
    "live_learning_rate": 0.1,
    "ramp": 0.3,
    "finetune_learning_rate": 0.1,
    "label_smoothing": LABEL_SMOOTHING,
}
Row = dict[str, object]


@dataclass(frozen=True, kw_only=True)
class Given:
    """What was asked for on the command line."""

    mnist: Data
    work: Path
    command: str
    is_tiny: bool


METHODS: dict[str, tuple[Target, dict[str, object]]] = {
    "khatri2020-aec": (Target(max_params_ratio=0.14), {"mode": "auto_aec", **EPOCHS}),
    "khatri2020-ceca": (Target(max_params_ratio=0.06), CECA),
    "khatri2020-ceca-fixed": (Target(max_params_ratio=0.06), {**CECA, "reactivate": False}),
    "khatri2020-ceca-random": (Target(max_params_ratio=0.06), {**CECA, "agent": "random"}),
    "khatri2020-ceca-magnitude": (Target(max_params_ratio=0.06), {**CECA, "agent": "magnitude"}),
    "khatri2020-scratch": (Target(max_macs_ratio=0.3), {**SCRATCH, "finetune_epochs": 8}),
    "khatri2020-scratch-short": (Target(max_macs_ratio=0.3), {**SCRATCH, "finetune_epochs": SHORT_EPOCHS}),
    "khatri2020-ceca1": (Target(max_params_ratio=0.01), CECA),
    "khatri2020-ceca-kernel": (Target(max_size_ratio=0.08), {**CECA, "unit": "kernel", "max_nonzero_ratio": 0.06}),
    "he2018": (
        Target(max_params_ratio=0.06),
        {"finetune_epochs": 11, "trials": 100, "lower_bound": 0.04, "round_to": 1},
    ),
}
"""What may be left, and settings of the recipe."""

DENSE: dict[str, tuple[int, float]] = {"dense": (DENSE_EPOCHS, 0.0), "dense-short": (SHORT_EPOCHS, LABEL_SMOOTHING)}
"""Trainings of the whole network: epochs and label smoothing."""

FROM_NEW_WEIGHTS = ("dense-short", "khatri2020-scratch", "khatri2020-scratch-short")

SEEDS = {"khatri2020-ceca1": (0,), "khatri2020-ceca-kernel": (0,), "he2018": (0,)}

COLUMNS = (
    "method", "seed", "unit", "top1_before", "top1_untuned", "top1", "num_kernels", "kernels_ratio", "num_params",
    "params_ratio", "nonzero_ratio", "macs_ratio", "size_bytes", "num_off", "num_woken", "epochs", "seconds",
    "cpu_seconds",
)  # fmt: skip
MEDIAN_COLUMNS = (
    "method", "unit", "seeds", "top1", "drop", "least_drop", "most_drop", "params_ratio", "size_bytes", "epochs",
    "seconds", "speedup", "cpu_speedup",
)  # fmt: skip

TINY = {"trials": 3, "finetune_epochs": 1}
TINY_IMAGES = 600


def default_jobs() -> list[str]:
    """Every row: the base first, then seed by seed, so that a stopped benchmark is still balanced."""
    methods = [*DENSE, *METHODS]
    return [f"{method}:{seed}" for seed in (0, 1, 2) for method in methods if seed in SEEDS.get(method, (0, 1, 2))]


def opened(root: Path, *, is_tiny: bool) -> Data:
    """MNIST, or a little of it."""
    mnist = data.mnist(root / "mnist")
    if not is_tiny:
        return mnist
    return replace(
        mnist,
        train=TrainSplit(First(mnist.train.source, TINY_IMAGES)),
        search=SearchSplit(First(mnist.search.source, TINY_IMAGES)),
        test=TestSplit(First(mnist.test.source, TINY_IMAGES)),
        num_trial_samples=TINY_IMAGES // 2,
    )


def dense_row(given: Given, method: str, seed: int) -> Row:
    """The network trained without compression."""
    started, out = time.process_time(), given.work / f"{method}-{seed}"
    was_begun = out.exists()
    torch.manual_seed(seed)
    model = models.build(NETWORK)
    epochs, label_smoothing = DENSE[method]
    epochs = 1 if given.is_tiny else epochs
    result = train(
        model,
        data=given.mnist,
        seed=seed,
        epochs=epochs,
        out=out,
        options=TrainOptions(model_name=NETWORK, label_smoothing=label_smoothing),
    )
    graph = trace(model.eval(), given.mnist.example_inputs())
    return {
        "network": NETWORK,
        "data": "mnist",
        "method": method,
        "seed": seed,
        "unit": "filter",
        "top1": result.metrics.top1,
        "params_ratio": 1.0,
        "kernels_ratio": 1.0,
        "num_kernels": sum(group.num_channels for group in graph.channel_groups if group.prunable),
        "num_params": graph.num_params,
        "size_bytes": graph.original_bytes,
        "epochs": epochs,
        "seconds": result.seconds,
        "cpu_seconds": None if was_begun else time.process_time() - started,
    }


def base_of(given: Given) -> nn.Module:
    """The trained network that all others start from."""
    weights = given.work / f"dense-{BASE_SEED}" / "weights.safetensors"
    if not weights.exists():
        dense_row(given, "dense", BASE_SEED)
    model = models.build(NETWORK)
    models.load_weights(model, weights)
    return model.eval()


def compressed_row(given: Given, method: str, seed: int) -> Row:
    """One row of a method that starts from the base, or is compared with it."""
    target, settings = METHODS[method]
    if given.is_tiny:
        settings = {**settings, **TINY, **({"live_epochs": 1.0} if "live_epochs" in settings else {})}
    base, out = base_of(given), given.work / f"{method}-{seed}"
    was_begun, started = out.exists(), time.process_time()
    run = compress(
        base,
        data=given.mnist,
        target=target,
        recipe=method.split("-")[0],
        seed=seed,
        options=CompressOptions(
            recipe_options=settings,
            controls=(),
            weights_saw_search=False,
            out=out,
            model_name=NETWORK,
            command=given.command,
        ),
    ).run
    row = row_of(run, method=method, seed=seed, settings=settings)
    return row | {"cpu_seconds": None if was_begun else time.process_time() - started}


def row_of(run: RunSummary, *, method: str, seed: int, settings: Mapping[str, object]) -> Row:
    """What a finished run says."""
    live_epochs = float(str(settings.get("live_epochs", 0.0)))
    epochs = int(str(settings["finetune_epochs"]))
    search_seconds = run.seconds.get("search", 0.0) + run.seconds.get("confirm", 0.0)
    unit, num_on, num_all = units_of(run)
    left = run.compressed.num_nonzero or run.compressed.num_params or 0
    return {
        **run_fields(run, seed=seed, epochs=epochs),
        "method": method,
        "unit": unit,
        "top1": run.compressed.top1,
        "drop": (run.dense.top1 or 0.0) - (run.compressed.top1 or 0.0),
        "kernels_ratio": num_on / num_all,
        "num_kernels": num_on,
        "num_params": run.compressed.num_params,
        "nonzero_ratio": left / (run.dense.num_params or 1),
        "nonzero_macs_ratio": (run.compressed.nonzero_macs or run.compressed.macs or 0) / (run.dense.macs or 1),
        **size_fields(run.compressed, run.original_bytes),
        "num_trials": len(run.trials),
        "num_off": sum(point.num_off for point in run.rounds),
        "num_woken": sum(point.num_woken for point in run.rounds),
        "base_epochs": DENSE_EPOCHS,
        "epochs": live_epochs + epochs,
        "search_seconds": search_seconds,
        "finetune_seconds": run.seconds["finetune"],
        "seconds": search_seconds + run.seconds["finetune"],
    }


def units_of(run: RunSummary) -> tuple[str, int, int]:
    """What was switched, how many of it are on at the end, and of how many."""
    if run.recipe_config.get("unit") != "kernel":
        groups = [group for group in run.groups if group.prunable]
        return "filter", sum(group.num_kept for group in groups), sum(group.num_channels for group in groups)
    layers = [layer for layer in run.layers if layer.name in run.rounds[0].num_on]
    sizes = {layer.name: layer.shape_before[0] * layer.shape_before[1] for layer in layers}
    masks = {name: decision.mask for name, decision in run.policy.kernels.items()}
    kept = {name: int(mask.array().sum()) for name, mask in masks.items() if mask is not None}
    return "kernel", sum(kept.get(name, size) for name, size in sizes.items()), sum(sizes.values())


def medians(rows: Iterable[Row]) -> list[Row]:
    """Median, lowest and highest over seeds, per method."""
    rows = list(rows)
    dense = {row["seed"]: row for row in rows if row["method"] == "dense"}
    base = number(dense[BASE_SEED]["top1"]) if BASE_SEED in dense else math.nan
    found = []
    for method in dict.fromkeys(str(row["method"]) for row in rows):
        own = [row for row in rows if row["method"] == method]
        drops = [number(row.get("drop", base - number(row["top1"]))) for row in own]
        found.append(
            {
                "method": method,
                "unit": own[0].get("unit"),
                "seeds": len(own),
                "top1": statistics.median(number(row["top1"]) for row in own),
                "drop": statistics.median(drops),
                "least_drop": min(drops),
                "most_drop": max(drops),
                "params_ratio": statistics.median(number(row["params_ratio"]) for row in own),
                "size_bytes": statistics.median(number(row.get("size_bytes")) for row in own),
                "epochs": own[0].get("epochs"),
                "seconds": statistics.median(number(row["seconds"]) for row in own),
                "speedup": speedup(own, dense, "seconds"),
                "cpu_speedup": speedup(own, dense, "cpu_seconds"),
            }
        )
    return found


def speedup(rows: list[Row], dense: Mapping[object, Row], which: str) -> float | None:
    """Median of dense seconds over a method's own, of the same seed; only of networks that begin untrained."""
    pairs = [(dense[row["seed"]].get(which), row.get(which)) for row in rows if row["seed"] in dense]
    found = [number(before) / number(after) for before, after in pairs if before and after]
    return statistics.median(found) if found and rows[0]["method"] in FROM_NEW_WEIGHTS else None


def verdicts(rows: Iterable[Row]) -> list[str]:
    """What must hold, each with what was measured; what has no rows yet is named as missing."""
    rows = list(rows)
    by_method = {str(row["method"]): row for row in medians(rows)}
    base = [number(row["top1"]) for row in rows if row["method"] == "dense" and row["seed"] == BASE_SEED]
    lines = [judged(f"base at least {BASE_MUST} %", [(base[0] >= BASE_MUST, f"{base[0]:.2f} %")] if base else [])]
    for method, share, drop, kind in (
        ("khatri2020-aec", 0.14, 0.05, "must"),
        ("khatri2020-ceca", 0.06, 0.1, "must"),
        ("khatri2020-ceca1", 0.01, 0.2, "aim"),
    ):
        own = by_method.get(method)
        parts = [] if own is None else [
            (number(own["params_ratio"]) <= share, f"{100 * number(own['params_ratio']):.2f} % left"),
            (number(own["drop"]) <= drop + 1e-9, f"drop {number(own['drop']):.3f} points, {own['seeds']} seeds"),
        ]  # fmt: skip
        what = f"{kind}: {method}, at most {100 * share:g} % left, drop at most {drop} points"
        lines.append(judged(what, parts, lacks=lacking(method, own)))
    for method in ("khatri2020-scratch", "khatri2020-scratch-short"):
        own = by_method.get(method)
        parts = [] if own is None or own["speedup"] is None else [
            (number(own["drop"]) <= 0.05 + 1e-9, f"drop {number(own['drop']):.3f} points"),
            (number(own["speedup"]) >= 1.5, f"speed-up {number(own['speedup']):.2f} by the clock"),
        ]  # fmt: skip
        what = f"must: {method}, drop at most 0.05 points, speed-up at least 1.5"
        lines.append(judged(what, parts, lacks=lacking(method, own)))
    return [*lines, *differences(rows)]


def lacking(method: str, median: Row | None) -> int:
    """Seeds of a method that its median still lacks."""
    return len(SEEDS.get(method, (0, 1, 2))) - (0 if median is None else int(number(median["seeds"])))


def judged(what: str, parts: list[tuple[bool, str]], *, lacks: int = 0) -> str:
    """One line: met, missed, or no rows yet; not more than "so far" where seeds of the median are lacking."""
    word = "no rows yet" if not parts else "met" if all(holds for holds, _ in parts) else "MISSED"
    so_far = " so far" if parts and lacks > 0 else ""
    return f"{word}{so_far}: {what}" + (f" ({', '.join(text for _, text in parts)})" if parts else "")


def differences(rows: list[Row]) -> list[str]:
    """Top-1 of Auto-CECA less that of its controls, seed by seed."""
    top1 = {(row["method"], row["seed"]): number(row["top1"]) for row in rows}
    lines = []
    for control in ("fixed", "random", "magnitude"):
        name = f"khatri2020-ceca-{control}"
        gaps = [
            top1["khatri2020-ceca", s] - top1[name, s]
            for s in (0, 1, 2)
            if {("khatri2020-ceca", s), (name, s)} <= set(top1)
        ]
        if gaps:
            lines.append(
                f"khatri2020-ceca less -{control}: median {statistics.median(gaps):+.3f} points, "
                f"{min(gaps):+.3f} to {max(gaps):+.3f} over {len(gaps)} seeds"
            )
    return lines


def number(value: object) -> float:
    """A number of a row; what is not there counts 0."""
    return 0.0 if value is None else float(str(value))


def main() -> None:
    """Run what is missing, print all rows."""
    parser = command_line(__doc__, work="runs/khatri2020", jobs=("METHOD:SEED", default_jobs()))
    parser.add_argument("--tiny", action="store_true", help="only see that everything runs")
    arguments = parsed(parser)
    known = (*DENSE, *METHODS)
    wrong = [job for job in arguments.jobs if job.partition(":")[0] not in known or not job.partition(":")[2].isdigit()]
    if wrong:
        parser.error(f"--jobs {wrong[0]}: give METHOD:SEED; methods: {', '.join(known)}")
    command = "python benchmarks/khatri2020.py"
    work = arguments.work / "tiny" if arguments.tiny else arguments.work
    given = Given(
        mnist=opened(arguments.data, is_tiny=arguments.tiny), work=work, command=command, is_tiny=arguments.tiny
    )
    file = ResultFile(str((work / "rows").resolve()) if arguments.tiny else "khatri2020", command=command)
    for job in arguments.jobs:
        method, seed = job.split(":")
        if file.has(method=method, seed=int(seed)):
            continue
        row = dense_row(given, method, int(seed)) if method in DENSE else compressed_row(given, method, int(seed))
        file.add(row, seconds=number(row["seconds"]))
        print_rows([row], ("method", "seed", "top1", "drop", "params_ratio", "kernels_ratio", "seconds"))
    print_rows(file.rows, COLUMNS)
    print()
    print_rows(medians(file.rows), MEDIAN_COLUMNS)
    print("", *verdicts(file.rows), sep="\n")


if __name__ == "__main__":
    main()
