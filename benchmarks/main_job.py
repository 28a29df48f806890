"""The main job on a pretrained CIFAR-10 ResNet-20: he2018 at half the multiply-accumulates, beside uniform.

Prints one row per method and seed and writes benchmarks/results/main_job.json. Runs that were stopped go on where
they were; rows that are there already are kept. `warmup_reward` and `last_reward` are mean rewards (accuracy / 100) of
the warm-up trials and of the last 20: the agent has learned if the second is above the first.

    python benchmarks/main_job.py --data DATA_FOLDER --work WORK_FOLDER

DATA_FOLDER holds cifar10/ and weights/resnet20_cifar10.safetensors.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from rows import ResultFile, command_line, delivered_fields, parsed, print_rows, run_fields

from tersenet import Target, data, models
from tersenet.api import CompressOptions, Result, compress
from tersenet.core.summary import RunSummary, TrialPoint
from tersenet.recipes import names

TRIALS = 200
EPOCHS = 10
LAST = 20


def mean(points: list[TrialPoint]) -> float:
    """Mean reward."""
    return sum(point.reward for point in points) / len(points)


def row_of(run: RunSummary, *, seed: int, epochs: int) -> dict[str, object]:
    """One row of the result file."""
    own = [point for point in run.trials if point.method == run.recipe]
    warmup = [point for point in own if point.phase == "warmup"]
    row: dict[str, object] = {
        **run_fields(run, seed=seed, epochs=epochs),
        **delivered_fields(run),
        "num_trials": len(own),
        "search_seconds": run.seconds.get("search"),
        "finetune_seconds": run.seconds["finetune"],
    }
    if epochs:
        row |= {"top1": run.compressed.top1, "top5": run.compressed.top5}
    if warmup:
        row |= {"warmup_reward": mean(warmup), "last_reward": mean(own[-LAST:])}
    return row


def run_once(root: Path, work: Path, *, method: str, seed: int, epochs: int, command: str) -> Result:
    """Compress ResNet-20 once."""
    model = models.build("resnet20")
    weights = models.load_weights(model, root / "weights" / "resnet20_cifar10.safetensors")
    return compress(
        model,
        data=data.cifar10(root / "cifar10"),
        target=Target(max_macs_ratio=0.5),
        recipe=method,
        seed=seed,
        options=CompressOptions(
            trials=TRIALS,
            finetune_epochs=epochs,
            controls=("uniform",) if method == "he2018" else (),
            out=work / f"{method}-{seed}-{epochs}",
            model_name="resnet20",
            weights=weights,
            command=command,
        ),
    )


def main() -> None:
    """Run what is missing, print all rows."""
    jobs = ("he2018:0:10", "he2018:1:0", "he2018:2:0", "uniform:0:10")
    parser = command_line(__doc__, work="runs/main_job", jobs=("METHOD:SEED:EPOCHS", jobs))
    arguments = parsed(parser)
    command = "python benchmarks/main_job.py"
    file = ResultFile("main_job", command=command)
    for job in arguments.jobs:
        method, seed, epochs = job.split(":")
        if method not in names():
            parser.error(f"--jobs {job}: no such method")
        if not file.has(method=method, seed=int(seed), finetune_epochs=int(epochs)):
            result = run_once(
                arguments.data, arguments.work, method=method, seed=int(seed), epochs=int(epochs), command=command
            )
            file.add(row_of(result.run, seed=int(seed), epochs=int(epochs)), seconds=sum(result.run.seconds.values()))
    columns = ("method", "seed", "top1_before", "top1_untuned", "top1", "macs_ratio", "compression_ratio")
    print_rows(file.rows, (*columns, "warmup_reward", "last_reward", "search_seconds", "finetune_seconds"))


if __name__ == "__main__":
    main()
