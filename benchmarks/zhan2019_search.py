"""The search of stage 1 alone: the agent with and without a bootstrap, with coarse bounds, and controls, on CIFAR-10.

A trained ResNet, channels and single weights inside kernels, both by size (l1), so that nothing is trained: what is
compared is what decides; in the last five variants weights go by what three epochs of noise learned. Each job has the
same number of evaluations on the same 1,000 images; `top1_untuned` is that of the winner on the 4,000 search images
that no trial saw. `course` is the mean trial accuracy of every 50 trials. Prints all rows and medians over seeds,
writes benchmarks/results/zhan2019_search.json; a run that was stopped goes on.

    python benchmarks/zhan2019_search.py --data DATA_FOLDER --work WORK_FOLDER [--network N] [--jobs VARIANT:SEED ...]

Variants: agent; bootstrap (the next step's value is added to the reward, as DDPG and AMC's released code do); floor
(at least a tenth of a layer's weights stays); cem, random, uniform (controls); by learned noise: shares, thresholds
(what is decided of a layer), reach (thresholds near one for all layers), reach-random, reach-cem (controls of that).
"""

from __future__ import annotations

import statistics
import sys
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from rows import ResultFile, command_line, parsed, print_rows, run_fields

from tersenet import Target, data, models
from tersenet.api import CompressOptions, Result, compress

REACH = 0.1
LEARNED: dict[str, object] = {"unit_criterion": "learned", "noise_epochs": 3, "noise_learning_rate": 0.02}
VARIANTS: dict[str, dict[str, object]] = {
    "agent": {},
    "bootstrap": {"bootstrap": True},
    "floor": {"units_lower_bound": 0.1},
    "cem": {"agent": "cem"},
    "random": {"agent": "random"},
    "uniform": {"agent": "uniform"},
    "shares": {**LEARNED, "unit_scale": "share"},
    "thresholds": LEARNED,
    "reach": {**LEARNED, "reach": REACH},
    "reach-random": {**LEARNED, "reach": REACH, "agent": "random"},
    "reach-cem": {**LEARNED, "reach": REACH, "agent": "cem"},
}
SEEDS = (0, 1, 2)
JOBS = [f"{variant}:{seed}" for seed in SEEDS for variant in VARIANTS if variant != "uniform" or seed == 0]
MAX_NONZERO_RATIO = 0.2
MAX_FLOPS_RATIO = 0.5
STEP = 50


def run_once(root: Path, work: Path, network: str, job: str, trials: int, command: str) -> Result:
    """One search over both; what follows it is kept as short as it can be."""
    variant, _, seed = job.partition(":")
    model = models.build(network)
    weights = models.load_weights(model, root / "weights" / f"{network}_cifar10.safetensors")
    return compress(
        model,
        data=replace(data.cifar10(root / "cifar10"), num_trial_samples=1000),
        target=Target(max_size_ratio=0.25),
        recipe="zhan2019",
        seed=int(seed),
        options=CompressOptions(
            trials=4,
            finetune_epochs=0,
            controls=(),
            out=work / f"{network}-{variant}-{seed}-{trials}",
            model_name=network,
            weights=weights,
            command=command,
            recipe_options={
                "criterion": "l1",
                "unit": "element",
                "unit_criterion": "l1",
                "max_flops_ratio": MAX_FLOPS_RATIO,
                "max_nonzero_ratio": MAX_NONZERO_RATIO,
                "prune_trials": trials,
                "prune_epochs": 0,
                **VARIANTS[variant],
            },
        ),
    )


def row_of(result: Result, facts: dict[str, object]) -> dict[str, object]:
    """What the first stage found."""
    first = result.run.first_stage
    assert first is not None
    qualities = [point.quality for point in first.trials]
    return {
        **run_fields(result.run, seed=int(str(facts["seed"])), epochs=0),
        **facts,
        "top1_untuned": first.untuned.top1,
        "best_trial_top1": max(qualities),
        "course": [round(statistics.mean(qualities[at : at + STEP]), 2) for at in range(0, len(qualities), STEP)],
        "search_seconds": first.seconds["search"],
    }


def print_medians(rows: list[dict[str, object]]) -> None:
    """Median, least and most of every variant."""
    found: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        found.setdefault((str(row["network"]), str(row["method"])), []).append(float(str(row["top1_untuned"])))
    for (network, method), values in found.items():
        print(f"{network} {method}: {statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})")


def main() -> None:
    """Run what is missing, print all rows."""
    parser = command_line(__doc__, work="runs/zhan2019_search", jobs=("VARIANT:SEED", JOBS))
    parser.add_argument("--network", default="resnet20")
    parser.add_argument("--trials", type=int, default=400, help="policies that every job evaluates")
    given = parsed(parser)
    command = "python benchmarks/zhan2019_search.py " + " ".join(sys.argv[1:])
    file = ResultFile("zhan2019_search", command="python benchmarks/zhan2019_search.py")
    for job in given.jobs:
        variant, _, seed = job.partition(":")
        if variant not in VARIANTS:
            parser.error(f"--jobs {job}: the variants are {', '.join(VARIANTS)}")
        facts: dict[str, object] = {
            "network": given.network,
            "method": f"zhan2019-{variant}",
            "seed": int(seed),
            "trials_asked": given.trials,
        }
        if file.has(**facts):
            continue
        result = run_once(given.data, given.work, given.network, job, given.trials, command)
        file.add(row_of(result, facts), seconds=sum(result.run.seconds.values()))
    print_rows(file.rows, ("network", "method", "seed", "top1_untuned", "best_trial_top1", "course", "search_seconds"))
    print_medians(file.rows)


if __name__ == "__main__":
    main()
