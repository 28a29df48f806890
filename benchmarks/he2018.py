"""Searches side by side at the same budget and the same number of evaluations, ResNet-56 and ResNet-20 on CIFAR-10.

Un-tuned rows: 300 evaluations of 1,000 images, the best confirmed in fp32 on the 4,000 search images that no trial saw;
`top1_untuned` is that confirmed accuracy, never the trial's own. `learned_share` is the share of trials whose policy a
network trained on reward proposed. Tuned rows: the policy fine-tuned with distillation, top-1 on the whole test split.
Prints all rows and the medians over seeds; writes benchmarks/results/he2018.json. A run that was stopped goes on
where it was.

    python benchmarks/he2018.py --data DATA_FOLDER --work WORK_FOLDER [--jobs NETWORK:METHOD:SEED:EPOCHS ...]
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from rows import ResultFile, command_line, parsed, print_rows, run_fields

from tersenet import Target, data, models, recipes
from tersenet.api import CompressOptions, compress
from tersenet.core.summary import RunSummary

TRIALS = 300
TRIAL_IMAGES = 1000
SEEDS = (0, 1, 2)
METHODS = {
    "resnet56": ("layerwise", "he2018", "cem", "tpe", "random", "uniform"),
    "resnet20": ("layerwise", "cem", "uniform"),
}
TUNED = (("resnet20", "layerwise", 0, 30), ("resnet20", "uniform", 0, 30))


def default_jobs() -> list[str]:
    """Every row of the comparison, seed by seed, so that a stopped benchmark is still balanced."""
    known = recipes.names()
    jobs = [
        f"{network}:{method}:{seed}:0"
        for seed in SEEDS
        for network, methods in METHODS.items()
        for method in methods
        if method in known and not (method == "uniform" and seed > 0)  # nothing in it depends on the seed
    ]
    return jobs + [f"{network}:{method}:{seed}:{epochs}" for network, method, seed, epochs in TUNED if method in known]


def run_once(root: Path, work: Path, job: str, *, command: str) -> RunSummary:
    """One row's run."""
    network, method, seed, epochs = job.split(":")
    model = models.build(network)
    weights = models.load_weights(model, root / "weights" / f"{network}_cifar10.safetensors")
    result = compress(
        model,
        data=replace(data.cifar10(root / "cifar10"), num_trial_samples=TRIAL_IMAGES),
        target=Target(max_macs_ratio=0.5),
        recipe=method,
        seed=int(seed),
        options=CompressOptions(
            trials=TRIALS,
            finetune_epochs=int(epochs),
            controls=(),
            out=work / f"{network}-{method}-{seed}",
            model_name=network,
            weights=weights,
            command=command,
        ),
    )
    return result.run


def row_of(run: RunSummary, *, seed: int, epochs: int) -> dict[str, object]:
    """One row of the result file."""
    learned = [point for point in run.trials if point.phase == "learned"]
    row: dict[str, object] = {
        **run_fields(run, seed=seed, epochs=epochs),
        "best_trial_top1": max((point.quality for point in run.trials), default=None),
        "num_trials": len(run.trials),
        "learned_share": len(learned) / max(1, len(run.trials)),
        "search_seconds": run.seconds.get("search", 0.0) + run.seconds.get("confirm", 0.0),
    }
    if epochs:
        row["top1"] = run.compressed.top1
        row["finetune_seconds"] = run.seconds["finetune"]
    return row


def medians(rows: list[dict[str, object]]) -> list[dict[str, object]]:
    """Median over seeds of the un-tuned rows, per network and method."""
    groups: dict[tuple[object, object], list[float]] = {}
    for row in rows:
        top1 = row["top1_untuned"]
        if row["finetune_epochs"] == 0 and isinstance(top1, float):
            groups.setdefault((row["network"], row["method"]), []).append(top1)
    return [
        {
            "network": network,
            "method": method,
            "seeds": len(values),
            "median": statistics.median(values),
            "lowest": min(values),
            "highest": max(values),
        }
        for (network, method), values in groups.items()
    ]


def main() -> None:
    """Run what is missing, print all rows."""
    arguments = parsed(command_line(__doc__, work="runs/he2018", jobs=("NETWORK:METHOD:SEED:EPOCHS", default_jobs())))
    command = "python benchmarks/he2018.py"
    file = ResultFile("he2018", command=command)
    for job in arguments.jobs:
        network, method, seed, epochs = job.split(":")
        if not file.has(network=network, method=method, seed=int(seed), finetune_epochs=int(epochs)):
            run = run_once(arguments.data, arguments.work, job, command=command)
            file.add(row_of(run, seed=int(seed), epochs=int(epochs)), seconds=sum(run.seconds.values()))
    columns = ("network", "method", "seed", "top1_untuned", "best_trial_top1", "macs_ratio", "learned_share")
    print_rows(file.rows, (*columns, "search_seconds", "finetune_epochs", "top1"))
    print()
    print_rows(medians(file.rows), ("network", "method", "seeds", "median", "lowest", "highest"))


if __name__ == "__main__":
    main()
