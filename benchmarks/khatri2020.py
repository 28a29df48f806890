"""Kernels switched off and on while the network trains: MNIST, the VGG-like network, beside dense training and he2018.

`dense` trains the network itself, one row per seed; all rows that go on from a trained network start from seed 0's. A
unit is a filter (for the hidden linear layer a neuron) with everything coupled to it; `kernels_ratio` counts these,
`params_ratio` parameters of the delivered network, `size_bytes` its packed file. Methods, each with its target:

- `khatri2020-aec`, at most 14 % of the parameters, and `khatri2020-ceca`, at most 6 %; `khatri2020-ceca1`, 1 %;
- `-fixed`: what is off stays off; `-random`, `-magnitude`: the controls at the same number of decisions;
- `khatri2020-scratch`: from new weights, without a teacher, at most 25 %; `speedup` is dense seconds of the same seed
  over all of its seconds, rounds and tuning;
- `he2018`, at most 6 %: AMC on the same network, tuned for as many epochs as the others train in all.

Top-1 is measured on the whole test split. Prints all rows, then medians over seeds; writes
benchmarks/results/khatri2020.json. A run that was stopped goes on where it was, row by row and inside a row. With two
threads a row is expected to take: dense 450 s, scratch 250 s, he2018 400 s, the others 300 s; in all about 100 minutes.

    python benchmarks/khatri2020.py --data DATA_FOLDER --work WORK_FOLDER [--jobs METHOD:SEED ...]
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from rows import ResultFile, print_rows, run_fields

from tersenet import Target, data, models
from tersenet.api import CompressOptions, TrainOptions, compress, train
from tersenet.core.summary import RunSummary

NETWORK = "vgg_small_mnist"
BASE_SEED = 0
DENSE_EPOCHS = 8
EPOCHS = {"live_epochs": 5.0, "finetune_epochs": 5}
CECA: dict[str, object] = {"mode": "auto_ceca", **EPOCHS}
METHODS: dict[str, tuple[float, dict[str, object]]] = {
    "khatri2020-aec": (0.14, {"mode": "auto_aec", **EPOCHS}),
    "khatri2020-ceca": (0.06, CECA),
    "khatri2020-ceca-fixed": (0.06, {**CECA, "reactivate": False}),
    "khatri2020-ceca-random": (0.06, {**CECA, "agent": "random"}),
    "khatri2020-ceca-magnitude": (0.06, {**CECA, "agent": "magnitude"}),
    "khatri2020-scratch": (
        0.25,
        {"mode": "auto_ceca", "start": "scratch", "live_epochs": 5.0, "finetune_epochs": 3, "live_learning_rate": 0.1},
    ),
    "khatri2020-ceca1": (0.01, CECA),
    "he2018": (0.06, {"finetune_epochs": 10, "trials": 100, "lower_bound": 0.04, "round_to": 1}),
}
"""Share of the parameters that may be left, and settings of the recipe."""

SEEDS = {"khatri2020-ceca1": (0,), "he2018": (0,)}


def default_jobs() -> list[str]:
    """Every row: the base first, then seed by seed, so that a stopped benchmark is still balanced."""
    methods = ["dense", *METHODS]
    return [f"{method}:{seed}" for seed in (0, 1, 2) for method in methods if seed in SEEDS.get(method, (0, 1, 2))]


def dense_network(root: Path, work: Path, seed: int) -> tuple[torch.nn.Module, dict[str, object]]:
    """The network trained without compression, and its row; trained once per seed and work folder."""
    torch.manual_seed(seed)
    model = models.build(NETWORK)
    result = train(
        model,
        data=data.mnist(root / "mnist"),
        seed=seed,
        epochs=DENSE_EPOCHS,
        out=work / f"dense-{seed}",
        options=TrainOptions(model_name=NETWORK),
    )
    row: dict[str, object] = {
        "network": NETWORK,
        "data": "mnist",
        "method": "dense",
        "seed": seed,
        "top1": result.metrics.top1,
        "params_ratio": 1.0,
        "kernels_ratio": 1.0,
        "epochs": DENSE_EPOCHS,
        "seconds": result.seconds,
    }
    return model, row


def compressed_row(root: Path, work: Path, method: str, seed: int, *, command: str) -> dict[str, object]:
    """One row of a method that starts from the base, or is compared with it."""
    base, _ = dense_network(root, work, BASE_SEED)
    share, settings = METHODS[method]
    run = compress(
        base,
        data=data.mnist(root / "mnist"),
        target=Target(max_params_ratio=share),
        recipe=method.split("-")[0],
        seed=seed,
        options=CompressOptions(
            recipe_options=settings,
            controls=(),
            weights_saw_search=False,
            out=work / f"{method}-{seed}",
            model_name=NETWORK,
            command=command,
        ),
    ).run
    return row_of(run, method=method, seed=seed, settings=settings)


def row_of(run: RunSummary, *, method: str, seed: int, settings: Mapping[str, object]) -> dict[str, object]:
    """What a finished run says."""
    groups = [group for group in run.groups if group.prunable]
    live_epochs = float(str(settings.get("live_epochs", 0.0)))
    epochs = int(str(settings["finetune_epochs"]))
    search_seconds = run.seconds.get("search", 0.0) + run.seconds.get("confirm", 0.0)
    return {
        **run_fields(run, seed=seed, epochs=epochs),
        "method": method,
        "unit": "filter",
        "top1": run.compressed.top1,
        "drop": (run.dense.top1 or 0.0) - (run.compressed.top1 or 0.0),
        "kernels_ratio": sum(group.num_kept for group in groups) / sum(group.num_channels for group in groups),
        "num_kernels": sum(group.num_kept for group in groups),
        "num_params": run.compressed.num_params,
        "size_bytes": run.compressed.size_bytes,
        "compression_ratio": run.original_bytes / (run.compressed.size_bytes or 1),
        "num_trials": len(run.trials),
        "num_off": sum(point.num_off for point in run.rounds),
        "num_woken": sum(point.num_woken for point in run.rounds),
        "base_epochs": DENSE_EPOCHS,
        "epochs": live_epochs + epochs,
        "search_seconds": search_seconds,
        "finetune_seconds": run.seconds["finetune"],
        "seconds": search_seconds + run.seconds["finetune"],
    }


def medians(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Median, lowest and highest over seeds, per method."""
    dense = {row["seed"]: row["seconds"] for row in rows if row["method"] == "dense"}
    found = []
    for method in dict.fromkeys(str(row["method"]) for row in rows):
        own = [row for row in rows if row["method"] == method]
        numbers = {name: [float(str(row.get(name, 0.0))) for row in own] for name in ("top1", "drop", "params_ratio")}
        speedups = [float(str(dense[row["seed"]])) / float(str(row["seconds"])) for row in own if row["seed"] in dense]
        found.append(
            {
                "method": method,
                "seeds": len(own),
                "top1": statistics.median(numbers["top1"]),
                "drop": statistics.median(numbers["drop"]),
                "least_drop": min(numbers["drop"]),
                "most_drop": max(numbers["drop"]),
                "params_ratio": statistics.median(numbers["params_ratio"]),
                "speedup": statistics.median(speedups) if speedups else None,
            }
        )
    return found


def main() -> None:
    """Run what is missing, print all rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=os.environ.get("TERSENET_DATA"), help="folder of the data")
    parser.add_argument("--work", type=Path, default=Path("runs/khatri2020"), help="folder for runs to be continued")
    parser.add_argument("--jobs", nargs="*", default=default_jobs(), help="METHOD:SEED")
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("give --data, or set TERSENET_DATA")
    command = "python benchmarks/khatri2020.py"
    file = ResultFile("khatri2020", command=command)
    for job in arguments.jobs:
        method, seed = job.split(":")
        if method != "dense" and method not in METHODS:
            parser.error(f"--jobs {job}: no such method")
        if file.has(method=method, seed=int(seed)):
            continue
        if method == "dense":
            _, row = dense_network(arguments.data, arguments.work, int(seed))
        else:
            row = compressed_row(arguments.data, arguments.work, method, int(seed), command=command)
        file.add(row, seconds=float(str(row["seconds"])))
        print_rows([row], ("method", "seed", "top1", "drop", "params_ratio", "kernels_ratio", "seconds"))
    columns = ("method", "seed", "top1_before", "top1_untuned", "top1", "kernels_ratio", "params_ratio", "size_bytes")
    print_rows(file.rows, (*columns, "num_off", "num_woken", "epochs", "seconds"))
    print()
    columns = ("method", "seeds", "top1", "drop", "least_drop", "most_drop", "params_ratio", "speedup")
    print_rows(medians(file.rows), columns)


if __name__ == "__main__":
    main()
